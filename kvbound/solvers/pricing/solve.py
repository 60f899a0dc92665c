"""Schedules at any size, with a certified bound.

The cost of a miss in each slot determines which items stay in tier 0. Balanced next-use eviction (`balanced`)
gives the first schedules. The Lagrangian dual proves a time lower bound, and best responses to its prices
(`best_response`) make further schedules. Where slots may wait for latencies, the best one is annealed. If a
gap is left and the program is small enough for HiGHS, its relaxation, fixed where it is integral, and a
search improve the best schedule.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from kvbound.bitsets.two_tier import supports_two_tier_bits
from kvbound.certificate import Certificate
from kvbound.cost.evaluate import MOST_SPREAD, spread
from kvbound.errors import InfeasibleError, UsageError
from kvbound.identity import identify
from kvbound.instance import Instance
from kvbound.kernels import pick
from kvbound.models import columns, intervals
from kvbound.placement import Placement
from kvbound.progress import Progress, silent
from kvbound.residency import exceeds_event_limit
from kvbound.result import Bound, BoundStatus, Limit, Reason, Result, Status, Termination
from kvbound.schedule import Schedule
from kvbound.solvers import fixed_charges
from kvbound.solvers.background import Job, in_background
from kvbound.solvers.certify import certify
from kvbound.solvers.dense import items as dense_items
from kvbound.solvers.incumbent import Incumbent, evaluate_placement
from kvbound.solvers.lagrangian.ascent import Multipliers
from kvbound.solvers.lagrangian.bound import AscentResult, maximize_dual
from kvbound.solvers.lagrangian.evaluation import prove
from kvbound.solvers.mip.exact import ON_READ
from kvbound.solvers.mip.highs import REJECTED
from kvbound.solvers.pricing import best_response, gathered
from kvbound.solvers.pricing.candidates import candidates, slow_eviction
from kvbound.solvers.pricing.core import improve_in_core
from kvbound.solvers.warm_start import refuse_infeasible

MOST_COLUMNS = 1_000_000
"""Columns up to which the program is worth building."""
ROUNDS = 5
"""Rounds of best responses where the program is larger, each with random numbers of its own."""
_STEPS_PER_SWEEP = 50
"""Steps of the dual ascent per sweep of best responses, where work and not time is limited."""
_BOUND_SHARE, _CORE_SHARES = 0.6, (0.35, 0.5)
"""Share of the time for the bound where a search may follow; where that is of cores, which are larger, or
annealing, the shares at which the bound and the best responses end."""
_ANNEAL_SHARE, _STEPS_PER_MOVE = 0.5, 5
"""Share of the time left for annealing where a search may follow, and steps of the dual ascent per move of
each interval, where work and not time is limited."""


def solve_pricing(
    instance: Instance,
    *,
    time_limit: float = 60.0,
    gap: float = 1e-3,
    seed: int = 0,
    start: Placement | None = None,
    sample: float | None = None,
    work: int | None = None,
    kernel: str | None = None,
    threads: int = 2,
    anneal: bool = True,
    progress: Progress = silent,
) -> Result:
    """Find a good schedule and prove how good it is.

    Parameters
    ----------
    time_limit
        Seconds. For an instance whose schedule is too large for events it limits the ascent only, not the
        evaluation of the bound, the schedule and the check of both.
    gap
        Relative gap to the certified bound at which the schedule is good enough.
    start
        A schedule to start from, in addition to the method's own.
    sample
        Share of the items that each step of the ascent prices; None chooses it by size.
    work
        Steps of the dual ascent, instead of a time limit. For every 50 of them there is one more sweep of
        best responses over all items, up to nine in each of five rounds. HiGHS does not search then, as its
        results differ between versions. See `kvbound.solvers.solve`.
    anneal
        Where slots may wait for latencies, anneal the schedule that the prices lead to: for all of the time
        left, half of it if HiGHS may search, or one move per interval for every five steps of the ascent.

    Returns
    -------
    Result
        With the certified bound and its certificate. Beyond 10**9 items times slots a schedule of single
        tokens between two inclusive tiers is a residency, which is checked too. When interrupted, the result
        holds the best so far.

    Raises
    ------
    UsageError
        The accounting is not physical.
    InputError
        The start violates the rules.
    KvboundError
        The checker rejects what was found: a defect.
    """
    begin = time.perf_counter()
    chosen = {"gap": gap, "sample": sample} | ({} if work is None else {"work": work})
    result_fields: dict[str, Any] = {"method": "pricing", "seed": seed, "options": chosen}
    if not instance.physical:
        raise UsageError("method pricing needs accounting 'physical'")
    if nothing := refuse_infeasible(instance, begin, result_fields):
        return nothing
    result_fields["kernel"] = pick(kernel)
    run = _Run(
        Incumbent.of(instance), begin, time_limit=time_limit, gap=gap, sample=sample, work=work, seed=seed,
        kernel=kernel, threads=threads, anneals=anneal and fixed_charges.anneals(instance), progress=progress,
    )  # fmt: skip
    try:
        run.collect_candidates(start)
        ascent = run.maximize_bound()
        ended, repair = run.respond(ascent)
        checked = run.certify(repair)
        interrupted = not checked or ended.reason is Reason.INTERRUPTED
        interrupted |= not interrupted and run.anneals and not run.anneal()
        ended = Termination(Reason.INTERRUPTED) if interrupted else run.search()
    except KeyboardInterrupt:
        ended = Termination(Reason.INTERRUPTED)
        run.claim_bound()
    run.incumbent.adopt()
    return run.result(ended, time.perf_counter() - begin, result_fields)


@dataclass(eq=False)
class _Run:
    """One run: its settings, see `solve_pricing`, and the best schedule and bound so far."""

    incumbent: Incumbent
    begin: float
    time_limit: float
    gap: float
    sample: float | None
    work: int | None
    seed: int
    kernel: str | None
    threads: int
    anneals: bool
    progress: Progress
    certificate: Certificate | None = None
    multipliers: Multipliers | None = None
    bound: Bound = field(default_factory=Bound)

    @property
    def instance(self) -> Instance:
        """The instance to solve."""
        return self.incumbent.instance

    @property
    def deadline(self) -> float:
        """`time.perf_counter` at which to stop."""
        return self.begin + self.time_limit

    @property
    def _has_cores(self) -> bool:
        """Whether a search of cores may follow."""
        return not intervals.supports(self.instance) and columns(self.instance) <= MOST_COLUMNS

    def collect_candidates(self, start: Placement | None) -> None:
        """Take what is quick to make: the start, two policies, and balanced eviction."""
        self.incumbent.update_all(candidates(self.instance, start, self.progress))
        restricted = self.incumbent.without_prefetch
        if restricted is not None and not dense_items.exceeds_bits(self.instance):  # it has the same ones
            restricted.update_all(candidates(restricted.instance, None, self.progress))

    def maximize_bound(self) -> AscentResult:
        """Prove a bound by dual ascent; where balanced eviction takes minutes, it runs in parallel."""
        share = 1.0 if exceeds_event_limit(self.instance) else _BOUND_SHARE
        if self._has_cores or self.anneals:
            share = _CORE_SHARES[0]
        with in_background(slow_eviction(self.incumbent), self.progress) as wait:
            ascent = maximize_dual(
                self.instance, time_limit=share * self.time_limit, sample=self.sample, work=self.work,
                seed=self.seed, kernel=self.kernel, progress=self.progress,
            )  # fmt: skip
            self.certificate, self.multipliers = ascent.certificate, ascent.multipliers
            if ascent.termination.reason is not Reason.INTERRUPTED:
                wait()
        return ascent

    def respond(self, ascent: AscentResult) -> tuple[Termination, Job | None]:
        """Make schedules of best responses to the prices, and a better bound if they lead to one.

        Returns
        -------
        How it ended, and the repair of the last schedule if that takes minutes and is still to be done.
        """
        rounds = _rounds(self.instance, self.work)
        self.certificate, ended, repair = self._respond(self.incumbent, ascent, rounds)
        restricted = self.incumbent.without_prefetch
        if restricted is not None and ended.reason is Reason.DONE and not exceeds_event_limit(self.instance):
            # the prices serve the instance without prefetch too; the bound they prove there is not needed
            ended = self._respond(restricted, ascent, rounds)[1]
        return ended, repair

    def _respond(
        self, incumbent: Incumbent, ascent: AscentResult, rounds: list[int]
    ) -> tuple[Certificate, Termination, Job | None]:
        """Respond for one incumbent, if there is need; return the best proof too."""
        instance, proof, multipliers = incumbent.instance, ascent.certificate, ascent.multipliers
        ended, large = ascent.termination, exceeds_event_limit(instance)
        enough = incumbent.within(self.gap, proof.bound_s) or not best_response.supports(instance)
        enough |= dense_items.exceeds_bits(instance)
        if enough or ended.reason is Reason.INTERRUPTED or multipliers is None:
            return proof, ended, None
        common: dict[str, Any] = {"kernel": self.kernel, "threads": self.threads, "progress": self.progress}
        end = self.deadline if self.work is None and not large else math.inf
        if (self._has_cores or self.anneals) and self.work is None:
            end = self.begin + _CORE_SHARES[1] * self.time_limit
        ended, repair = Termination(), None
        try:
            if gathered.gathers(instance):
                gather: dict[str, Any] = {"seed": self.seed, "sweeps": rounds[0], "end": end} | common
                ended = gathered.gather(instance, multipliers, incumbent.update, **gather)
                if ended.reason is not Reason.DONE or incumbent.within(self.gap, proof.bound_s):
                    return proof, ended, None
            for number, sweeps in enumerate(rounds):
                found = best_response.best_responses(
                    instance, multipliers, seed=self.seed + number, sweeps=sweeps, end=end, **common
                )
                multipliers, ended = found.multipliers, found.termination
                if large:
                    repair = partial(_repair, incumbent, found)
                else:
                    _repair(incumbent, found, self.progress)
                if ended.reason is not Reason.INTERRUPTED:
                    proof = max(proof, prove(instance, multipliers, **common), key=lambda each: each.bound_s)
                if ended.reason is not Reason.DONE or incumbent.within(self.gap, proof.bound_s):
                    break
        except KeyboardInterrupt:
            ended = Termination(Reason.INTERRUPTED)
        return proof, ended, repair

    def certify(self, repair: Job | None) -> bool:
        """Have the bound checked, in parallel with a repair still to be done; return False if that is
        interrupted."""
        assert self.certificate is not None
        with in_background(repair, self.progress) as wait:
            self.bound = certify(self.instance, self.certificate)
            wait()
        return self.bound.status is not BoundStatus.CLAIMED

    def claim_bound(self) -> None:
        """Take the certificate's own value where there was no time to check it."""
        if self.certificate is not None and self.bound.value is None:
            self.bound = Bound.of(self.instance, self.certificate.bound_s, BoundStatus.CLAIMED, "dual")

    def anneal(self) -> bool:
        """Anneal the best schedule, if there is need and time; return False if that is interrupted."""
        self.incumbent.adopt()
        schedule, measures, lowest = self.incumbent.placement, self.incumbent.measures, self.bound.value
        if not isinstance(schedule, Schedule) or measures is None or self.incumbent.within(self.gap, lowest):
            return True
        share = _ANNEAL_SHARE if columns(self.instance) <= MOST_COLUMNS else 1.0
        limit = share * (self.deadline - time.perf_counter())
        moves = None if self.work is None else -(-self.work // _STEPS_PER_MOVE)
        found = fixed_charges.anneal(
            self.instance, (schedule, measures), time_limit=limit, work=moves, gap=self.gap, bound_s=lowest,
            seed=self.seed, kernel=self.kernel, progress=self.progress,
        )  # fmt: skip
        self.incumbent.update((found.known[1], found.known[0]))
        return not found.interrupted

    def search(self) -> Termination:
        """Improve the best schedule by HiGHS, if there is need and time; not where work is limited."""
        if self.work is None:
            return self._search(self.incumbent, self.deadline)
        self.incumbent.adopt()
        enough = self.incumbent.within(self.gap, self.bound.value)
        return Termination() if enough else Termination(Reason.LIMIT, Limit.WORK)

    def _search(self, incumbent: Incumbent, deadline: float) -> Termination:
        """Search for one incumbent, under prefetch first among the schedules without it."""
        restricted = incumbent.without_prefetch
        if restricted is not None:
            ended = Termination()
            if not incumbent.within(self.gap, self.bound.value):
                until = (1 - ON_READ) * time.perf_counter() + ON_READ * deadline
                ended = self._search(restricted, until)
            incumbent.adopt()
            if ended.reason is Reason.INTERRUPTED:
                return ended
        instance, schedule, measures = incumbent.instance, incumbent.placement, incumbent.measures
        if incumbent.within(self.gap, self.bound.value):
            return Termination()
        if time.perf_counter() >= deadline:
            return Termination(Reason.LIMIT, Limit.TIME)
        if spread(instance) > MOST_SPREAD:
            return Termination(Reason.LIMIT, Limit.SPREAD)
        if not isinstance(schedule, Schedule) or measures is None or columns(instance) > MOST_COLUMNS:
            return Termination(Reason.LIMIT, Limit.SIZE)
        found = improve_in_core(
            instance, (schedule, measures), self.multipliers, end=deadline, gap=self.gap,
            bound_s=self.bound.value or 0.0, seed=self.seed, threads=self.threads, progress=self.progress,
        )  # fmt: skip
        incumbent.update((found.known[1], found.known[0]))
        incumbent.rejected += found.rejected
        return found.termination

    def result(self, ended: Termination, wall_s: float, fields: dict[str, Any]) -> Result:
        """Return the best schedule and bound as a result."""
        incumbent, bound, measures = self.incumbent, self.bound, self.incumbent.measures
        if measures is not None and bound.value is not None:
            # rounding may leave the bound a hair above the time of an optimal schedule
            bound = Bound.of(self.instance, min(bound.value, measures.value), bound.status, bound.method)
        if incumbent.rejected:
            fields["options"][REJECTED] = incumbent.rejected
        return Result(
            identify(self.instance), status=Status.UNKNOWN if measures is None else Status.FEASIBLE,
            measures=measures, bound=bound, termination=ended, wall_s=wall_s, certificate=self.certificate,
            placement=incumbent.placement, **fields,
        )  # fmt: skip


def _repair(incumbent: Incumbent, found: best_response.BestResponses, progress: Progress) -> None:
    """Repair best responses to a schedule within the capacities, and keep it if it is faster."""
    try:
        schedule = found.schedule(progress)
    except InfeasibleError:  # blocks of different sizes
        return
    if schedule is not None:
        incumbent.update(evaluate_placement(incumbent.instance, schedule))


def _rounds(instance: Instance, work: int | None) -> list[int]:
    """Return the number of sweeps after the first in each round; rounds differ in their random numbers.

    There is a single round where one takes minutes, or where a search follows.
    """
    large = exceeds_event_limit(instance)
    if work is None:
        if large and not supports_two_tier_bits(instance):
            return [best_response.SWEEPS_OF_BLOCKS]
        return [best_response.SWEEPS] * (1 if large or columns(instance) <= MOST_COLUMNS else ROUNDS)
    sweeps = -(-work // _STEPS_PER_SWEEP)
    counts = [min(best_response.SWEEPS, sweeps - n) for n in range(0, sweeps, best_response.SWEEPS)]
    return counts[: 1 if large else ROUNDS]
