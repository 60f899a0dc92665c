"""Schedules at any size, beside a certified bound: what a miss is worth, slot by slot, decides who stays.

Balanced next-use eviction (`balanced`) comes first, beside the policies that know the future, or where it
takes minutes beside the dual, which proves a time lower bound and whose prices make another schedule
(`best_response`). Where the gap is not closed and the program has a size that HiGHS can take, its relaxation,
fixed where it is whole, and its search improve the best schedule against that bound.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

from kvbound.bitsets.two_tier import TwoTierSchedule
from kvbound.certificate import Certificate
from kvbound.cost.evaluate import MOST_SPREAD, spread
from kvbound.cost.slot import SlotCost
from kvbound.errors import UsageError
from kvbound.instance import Instance, Migration
from kvbound.kernels import pick
from kvbound.models import columns
from kvbound.progress import Progress, silent
from kvbound.residency import Residency, exceeds_event_limit
from kvbound.result import Bound, BoundStatus, Result, Status, Termination, identify
from kvbound.schedule import Schedule
from kvbound.simulation import simulate
from kvbound.solvers.background import Job, beside
from kvbound.solvers.eviction import balanced
from kvbound.solvers.incumbent import CostedPlacement, Incumbent, evaluate_placement, placement_fields
from kvbound.solvers.lagrangian.bound import AscentResult, maximize_dual, prove
from kvbound.solvers.lagrangian.certify import certify
from kvbound.solvers.mip.exact import ON_READ, REJECTED, improve
from kvbound.solvers.pricing import best_response as answers
from kvbound.solvers.warm_start import examine, refuse_infeasible

_PROGRAM = 1_000_000
"""Columns up to which the program is worth building."""
_ROUNDS = 5
"""How often prices are answered where the program is larger."""
_STEPS = 50
"""Steps of the dual's ascent to a sweep of answers, where a count and no clock limits the work."""
_BOUND = 0.6
"""Share of the time for the bound where a search may follow."""


def solve_pricing(
    instance: Instance,
    *,
    time_limit: float = 60.0,
    gap: float = 1e-3,
    seed: int = 0,
    start: Schedule | Residency | None = None,
    sample: float | None = None,
    work: int | None = None,
    kernel: str | None = None,
    threads: int = 2,
    progress: Progress = silent,
) -> Result:
    """Find a good schedule and prove how good it is.

    Parameters
    ----------
    time_limit
        Seconds. Of an instance whose schedule is too large for events, the limit is that of the bound's
        tuning; its evaluation, the schedule and the check of both come on top.
    gap
        Relative gap to the certified bound at which the schedule is good enough.
    start
        A schedule to start from, beside the method's own.
    sample
        Share of the items to maximize_dual the bound on; None lets the size decide.
    work
        Steps of the dual's ascent, instead of a time limit. For every 50 of them all items are evaluated once
        again, up to nine times in each of five rounds, and nothing is searched by HiGHS, which differs
        between versions. See `kvbound.solvers.solve`.

    Returns
    -------
    Result
        With the certified bound and its certificate. Beyond 10**9 items times slots a schedule of single
        tokens between two inclusive tiers is a residency, checked too. Interrupted, it holds the best so far.

    Raises
    ------
    UsageError
        The accounting is not physical.
    InputError
        The start does not keep the rules.
    KvboundError
        The checker rejects what was found: a defect.
    """
    begin = time.perf_counter()
    chosen = {"gap": gap, "sample": sample} | ({} if work is None else {"work": work})
    about: dict[str, Any] = {"method": "pricing", "seed": seed, "options": chosen}
    if not instance.physical:
        raise UsageError("method pricing needs accounting 'physical'")
    if nothing := refuse_infeasible(instance, begin, about):
        return nothing
    about["kernel"] = pick(kernel)
    best, proof = Incumbent.of(instance), _Proof()
    try:
        best.take_all(_candidates(instance, start, progress))
        ended = _find(
            best, proof, begin + time_limit, time_limit=time_limit, gap=gap, sample=sample, work=work,
            seed=seed, kernel=kernel, threads=threads, progress=progress,
        )  # fmt: skip
    except KeyboardInterrupt:
        ended = Termination("interrupted")
        proof.claim()
    best.settle()
    return _result(best, proof, ended, time.perf_counter() - begin, about)


@dataclass(eq=False)
class _Proof:
    """What is proved so far."""

    certificate: Certificate | None = None
    bound: Bound = field(default_factory=Bound)

    def claim(self) -> None:
        """Without a check, take the certificate's own word."""
        if self.certificate is not None and self.bound.time_s is None:
            self.bound = Bound(self.certificate.bound_s, BoundStatus.CLAIMED, "dual")


def _find(
    best: Incumbent, proof: _Proof, end: float, *, time_limit: float, gap: float, sample: float | None,
    work: int | None, seed: int, kernel: str | None, threads: int, progress: Progress,
) -> Termination:  # fmt: skip
    """Find schedules beside a bound, and improve the best one where there is need and time."""
    instance, fewer = best.instance, best.fewer
    options: dict[str, Any] = {"seed": seed, "kernel": kernel, "progress": progress}
    if fewer is not None:
        fewer.take_all(_candidates(fewer.instance, None, progress))
    tuning = (1.0 if exceeds_event_limit(instance) else _BOUND) * time_limit
    with beside(_eviction(best), progress) as finish:
        tuned = maximize_dual(instance, time_limit=tuning, sample=sample, work=work, **options)
        proof.certificate = tuned.certificate
        if tuned.termination.reason != "interrupted":
            finish()
    until = end if work is None and not exceeds_event_limit(instance) else math.inf
    rounds, options = _sweeps(instance, work), options | {"threads": threads, "end": until}
    proof.certificate, ended, fitting = _answered(best, tuned, gap, rounds, **options)
    if fewer is not None and ended.reason == "done" and not exceeds_event_limit(instance):
        # the prices serve fewer moves, too; the bound they prove for those is not needed here
        ended = _answered(fewer, tuned, gap, rounds, **options)[1]
    with beside(fitting, progress) as finish:
        proof.bound = certify(instance, proof.certificate)
        finish()
    if proof.bound.status is BoundStatus.CLAIMED:  # the check was interrupted
        return Termination("interrupted")
    if ended.reason == "interrupted":
        return ended
    if work is not None:
        best.settle()
        return Termination() if best.within(gap, proof.bound.time_s) else Termination("limit", "work")
    return _search(best, proof.bound, gap, end, seed, threads, progress)


def _answered(
    best: Incumbent,
    tuned: AscentResult,
    gap: float,
    rounds: list[int],
    *,
    seed: int,
    end: float,
    progress: Progress,
    **how: Any,
) -> tuple[Certificate, Termination, Job | None]:
    """Make schedules of the dual's prices if there is need.

    Parameters
    ----------
    rounds
        Number of further sweeps over all items in each round.

    Returns
    -------
    The best proof, how it ended, and what is left to do where that takes minutes: make the schedule fit.
    """
    instance, proof, ended = best.instance, tuned.certificate, tuned.termination
    enough = best.within(gap, proof.bound_s)
    if enough or not answers.supports(instance) or ended.reason == "interrupted" or tuned.multipliers is None:
        return proof, ended, None
    multipliers, ended, fitting = tuned.multipliers, Termination(), None
    try:
        for number, sweeps in enumerate(rounds):
            answer = answers.best_responses(
                instance, multipliers, seed=seed + number, sweeps=sweeps, end=end, progress=progress, **how
            )
            multipliers, ended = answer.multipliers, answer.termination
            if exceeds_event_limit(instance):
                fitting = partial(_settle, best, answer)
            else:
                _settle(best, answer, progress)
            if ended.reason != "interrupted":
                learnt = prove(instance, multipliers, progress=progress, **how)
                proof = max(proof, learnt, key=lambda certificate: certificate.bound_s)
            if ended.reason != "done" or best.within(gap, proof.bound_s):
                break
    except KeyboardInterrupt:
        ended = Termination("interrupted")
    return proof, ended, fitting


def _settle(best: Incumbent, answer: answers.BestResponses, progress: Progress) -> None:
    schedule = answer.schedule(progress)
    if schedule is not None:
        best.take(evaluate_placement(best.instance, schedule))


def _sweeps(instance: Instance, work: int | None) -> list[int]:
    """Return how many further sweeps over all items each round makes; rounds differ in their randomness.

    There is a single round where one takes minutes, or where a search follows.
    """
    if work is None:
        return [answers.SWEEPS] * (
            1 if exceeds_event_limit(instance) or columns(instance) <= _PROGRAM else _ROUNDS
        )
    rounds, sweeps = 1 if exceeds_event_limit(instance) else _ROUNDS, -(-work // _STEPS)
    return [min(answers.SWEEPS, sweeps - n) for n in range(0, sweeps, answers.SWEEPS)][:rounds]


def _eviction(best: Incumbent) -> Job | None:
    """Balanced eviction, where it takes minutes: beside the tuning of the bound.

    Prefetching it would take too much memory; where reads change much prices are better.
    """
    instance = (best.fewer or best).instance
    on_read = instance.rules.migration is Migration.ON_READ
    if not (
        exceeds_event_limit(instance)
        and on_read
        and balanced.supports(instance)
        and balanced.serves_new_reads(instance)
    ):
        return None
    return lambda report: best.take(_balanced(instance, report))


def _candidates(
    instance: Instance, start: Schedule | Residency | None, progress: Progress
) -> Iterator[CostedPlacement]:
    """Yield schedules that need no search, best guesses last."""
    if start is not None:
        known = examine(instance, start)
        yield evaluate_placement(
            instance, known if isinstance(known, Schedule) else TwoTierSchedule.replayed(instance, known)
        )
    if not exceeds_event_limit(instance) or not answers.supports(instance):
        for policy in ("belady", "keep-last"):
            result = simulate(instance, policy, progress=progress)
            assert result.measures is not None
            assert result.schedule is not None
            yield result.measures, result.schedule
    if balanced.supports(instance) and not exceeds_event_limit(instance):
        yield _balanced(instance, progress)


def _balanced(instance: Instance, progress: Progress) -> CostedPlacement:
    """Return the best of the balanced plays, or the first where each takes minutes."""
    cost = SlotCost.of(instance)
    with closing(balanced.schedules(instance, progress)) as plays:  # it holds all reads by token
        some = islice(plays, 1 if exceeds_event_limit(instance) else None)
        best = min(some, key=lambda play: float(cost.times(play.traffic(instance).traffic).sum()))
    return evaluate_placement(instance, best)


def _search(
    best: Incumbent, bound: Bound, gap: float, end: float, seed: int, threads: int, progress: Progress
) -> Termination:
    """Improve the best schedule by the program, if there is need, time and a program of some size."""
    if best.fewer is not None:
        ended = Termination()
        if not best.within(gap, bound.time_s):
            until = (1 - ON_READ) * time.perf_counter() + ON_READ * end
            ended = _search(best.fewer, bound, gap, until, seed, threads, progress)
        best.settle()
        if ended.reason == "interrupted":
            return ended
    instance = best.instance
    if best.within(gap, bound.time_s):
        return Termination()
    if time.perf_counter() >= end:
        return Termination("limit", "time")
    if spread(instance) > MOST_SPREAD:
        return Termination("limit", "spread")
    if not isinstance(best.schedule, Schedule) or best.measures is None or columns(instance) > _PROGRAM:
        return Termination("limit", "size")
    search = improve(
        instance, (best.schedule, best.measures), end=end, gap=gap, bound_s=bound.time_s or 0.0,
        seed=seed, threads=threads, progress=progress,
    )  # fmt: skip
    best.take((search.known[1], search.known[0]))
    best.rejected += search.rejected
    return search.ended


def _result(
    best: Incumbent, proof: _Proof, ended: Termination, wall_s: float, about: dict[str, Any]
) -> Result:
    bound, measures = proof.bound, best.measures
    if measures is not None and bound.time_s is not None:
        # rounding may leave the proof a hair above what it proves
        bound = Bound(min(bound.time_s, measures.time_s), bound.status, bound.method)
    if best.rejected:
        about["options"][REJECTED] = best.rejected
    return Result(
        identify(best.instance), status=Status.UNKNOWN if measures is None else Status.FEASIBLE,
        measures=measures, bound=bound, termination=ended, wall_s=wall_s, certificate=proof.certificate,
        **placement_fields(best.schedule), **about,
    )  # fmt: skip
