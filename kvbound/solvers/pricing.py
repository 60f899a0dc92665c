"""Schedules at any size, beside a certified bound: what a miss is worth, slot by slot, decides who stays.

Balanced next-use eviction (`_balance`) comes first, beside the policies that know the future, or where it
takes minutes beside the dual, which proves a time lower bound and whose prices make another schedule
(`_respond`). Where the gap is not closed and the program has a size that HiGHS can take, its relaxation,
fixed where it is whole, and its search improve the best schedule against that bound.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from threading import Event
from typing import Any, TypeAlias

from kvbound.cost import MOST_SPREAD, identify, spread
from kvbound.errors import UsageError
from kvbound.instance import Instance, Migration
from kvbound.kernels import pick
from kvbound.models import columns
from kvbound.progress import Progress, silent
from kvbound.residency import Residency, large
from kvbound.result import Bound, BoundStatus, Measures, Result, Status, Termination
from kvbound.schedule import Schedule
from kvbound.simulation import simulate
from kvbound.slotcost import SlotCost
from kvbound.solvers import _balance as balance
from kvbound.solvers import _respond as answers
from kvbound.solvers._play import Found, Play, cost_of, kept
from kvbound.solvers._start import examine, infeasible, without_prefetch
from kvbound.solvers.certificate import Certificate
from kvbound.solvers.certified import certify
from kvbound.solvers.dual import Tuned, prove, tune
from kvbound.solvers.exact import ON_READ, REJECTED, improve

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
        Share of the items to tune the bound on; None lets the size decide.
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
    if nothing := infeasible(instance, begin, about):
        return nothing
    about["kernel"] = pick(kernel)
    best, bound, proof = _Best(), Bound(), None
    # what moves nothing but reads is a schedule with prefetch, too, and easier to find
    plain, fewer = without_prefetch(instance), _Best()
    options: dict[str, Any] = {"seed": seed, "kernel": kernel, "progress": progress}
    try:
        best.take_all(_candidates(instance, start, progress))
        if plain:
            fewer.take_all(_candidates(plain, None, progress))
        until = begin + time_limit if work is None and not large(instance) else math.inf
        tuning = (1.0 if large(instance) else _BOUND) * time_limit
        with _beside(_eviction(plain or instance, best), progress) as finish:
            tuned = tune(instance, time_limit=tuning, sample=sample, work=work, **options)
            proof = tuned.certificate
            if tuned.termination.reason != "interrupted":
                finish()
        rounds, options = _sweeps(instance, work), options | {"threads": threads, "end": until}
        proof, ended, fitting = _answered(instance, best, tuned, gap, rounds, **options)
        if plain and ended.reason == "done" and not large(instance):
            # the prices serve fewer moves, too; the bound they prove for those is not needed here
            ended = _answered(plain, fewer, tuned, gap, rounds, **options)[1]
        with _beside(fitting, progress) as finish:
            bound = certify(instance, proof)
            finish()
        if bound.status is BoundStatus.CLAIMED:
            ended = Termination("interrupted")  # the check was
        end = begin + time_limit
        search = work is None and ended.reason != "interrupted"
        if search and plain and not best.within(gap, bound.time_s or 0.0):
            until = (1 - ON_READ) * time.perf_counter() + ON_READ * end
            ended = _search(plain, fewer, bound, gap, until, seed, threads, progress)
        best.take_best(fewer)
        if work is not None and ended.reason != "interrupted":
            near = best.within(gap, bound.time_s or 0.0)
            ended = Termination() if near else Termination("limit", "work")
        elif ended.reason != "interrupted":
            ended = _search(instance, best, bound, gap, end, seed, threads, progress)
    except KeyboardInterrupt:
        ended = Termination("interrupted")
        if proof is not None and bound.time_s is None:
            bound = Bound(proof.bound_s, BoundStatus.CLAIMED, "dual")
    best.take_best(fewer)
    return _result(instance, best, (bound, proof), ended, time.perf_counter() - begin, about)


_Job: TypeAlias = Callable[[Progress], None]


def _answered(
    instance: Instance,
    best: _Best,
    tuned: Tuned,
    gap: float,
    rounds: list[int],
    *,
    seed: int,
    end: float,
    progress: Progress,
    **how: Any,
) -> tuple[Certificate, Termination, _Job | None]:
    """Make schedules of the dual's prices if there is need.

    Parameters
    ----------
    rounds
        Number of further sweeps over all items in each round.

    Returns
    -------
    The best proof, how it ended, and what is left to do where that takes minutes: make the schedule fit.
    """
    proof, ended = tuned.certificate, tuned.termination
    enough = best.within(gap, proof.bound_s)
    if enough or not answers.applies(instance) or ended.reason == "interrupted" or tuned.multipliers is None:
        return proof, ended, None
    multipliers, ended, fitting = tuned.multipliers, Termination(), None
    try:
        for number, sweeps in enumerate(rounds):
            answer = answers.respond(
                instance, multipliers, seed=seed + number, sweeps=sweeps, end=end, progress=progress, **how
            )
            multipliers, ended = answer.multipliers, answer.termination
            if large(instance):
                fitting = partial(_settle, instance, best, answer)
            else:
                _settle(instance, best, answer, progress)
            if ended.reason != "interrupted":
                learnt = prove(instance, multipliers, progress=progress, **how)
                proof = max(proof, learnt, key=lambda certificate: certificate.bound_s)
            if ended.reason != "done" or best.within(gap, proof.bound_s):
                break
    except KeyboardInterrupt:
        ended = Termination("interrupted")
    return proof, ended, fitting


def _settle(instance: Instance, best: _Best, answer: answers.Answer, progress: Progress) -> None:
    schedule = answer.schedule(progress)
    if schedule is not None:
        best.take(cost_of(instance, schedule))


def _sweeps(instance: Instance, work: int | None) -> list[int]:
    """Return how many further sweeps over all items each round makes; rounds differ in their randomness.

    There is a single round where one takes minutes, or where a search follows.
    """
    if work is None:
        return [answers.SWEEPS] * (1 if large(instance) or columns(instance) <= _PROGRAM else _ROUNDS)
    rounds, sweeps = 1 if large(instance) else _ROUNDS, -(-work // _STEPS)
    return [min(answers.SWEEPS, sweeps - n) for n in range(0, sweeps, answers.SWEEPS)][:rounds]


def _eviction(instance: Instance, best: _Best) -> _Job | None:
    """Balanced eviction, where it takes minutes: beside the tuning of the bound.

    Where items may be prefetched it would take too much memory; where reads change much prices are better.
    """
    on_read = instance.rules.migration is Migration.ON_READ
    if not (large(instance) and on_read and balance.applies(instance) and balance.keeps_up(instance)):
        return None
    return lambda report: best.take(_balanced(instance, report))


@contextmanager
def _beside(job: _Job | None, progress: Progress) -> Iterator[Callable[[], None]]:
    """Run a job in a thread beside the block, and yield what waits for it.

    It ends with the block, finished or not: its progress, heard while somebody waits, stops it.
    """
    if job is None:
        yield lambda: None
        return
    over = Event()
    told: Progress = silent

    def report(done: float, total: float, note: str = "") -> None:
        if over.is_set():
            raise _StoppedError
        told(done, total, note)

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(job, report)

        def finish() -> None:
            nonlocal told
            told = progress
            running.result()

        try:
            yield finish
        finally:
            over.set()


class _StoppedError(Exception):
    """Nobody waits for it any more."""


@dataclass(eq=False)
class _Best:
    """The best schedule so far, and how many of the solver's answers were rejected."""

    measures: Measures | None = None
    schedule: Schedule | Residency | None = None
    rejected: int = 0

    def take(self, found: Found) -> None:
        """Keep what is faster."""
        if self.measures is None or found[0].time_s < self.measures.time_s:
            self.measures, self.schedule = found

    def take_all(self, candidates: Iterable[Found]) -> None:
        """Keep the fastest."""
        for found in candidates:
            self.take(found)

    def take_best(self, other: _Best) -> None:
        """Keep the faster schedule of the two."""
        if other.measures is not None and other.schedule is not None:
            self.take((other.measures, other.schedule))
        self.rejected, other.rejected = self.rejected + other.rejected, 0

    def within(self, gap: float, bound_s: float) -> bool:
        """Whether it is good enough."""
        if self.measures is None:
            return False
        return self.measures.time_s - bound_s <= gap * self.measures.time_s


def _candidates(
    instance: Instance, start: Schedule | Residency | None, progress: Progress
) -> Iterator[Found]:
    """Yield schedules that need no search, best guesses last."""
    if start is not None:
        known = examine(instance, start)
        yield cost_of(instance, known if isinstance(known, Schedule) else Play.replayed(instance, known))
    if not large(instance) or not answers.applies(instance):
        for policy in ("belady", "keep-last"):
            result = simulate(instance, policy, progress=progress)
            assert result.measures is not None
            assert result.schedule is not None
            yield result.measures, result.schedule
    if balance.applies(instance) and not large(instance):
        yield _balanced(instance, progress)


def _balanced(instance: Instance, progress: Progress) -> Found:
    """Return the best of the balanced plays, or the first where each takes minutes."""
    cost = SlotCost.of(instance)
    with closing(balance.plays(instance, progress)) as plays:  # it holds all reads by token
        some = islice(plays, 1 if large(instance) else None)
        best = min(some, key=lambda play: float(cost.times(play.loads(instance).q).sum()))
    return cost_of(instance, best)


def _search(
    instance: Instance,
    best: _Best,
    bound: Bound,
    gap: float,
    end: float,
    seed: int,
    threads: int,
    progress: Progress,
) -> Termination:
    """Improve the best schedule by the program, if there is need, time and a program of some size."""
    if best.within(gap, bound.time_s or 0.0):
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
    instance: Instance,
    best: _Best,
    proof: tuple[Bound, Certificate | None],
    ended: Termination,
    wall_s: float,
    about: dict[str, Any],
) -> Result:
    bound, certificate = proof
    status = Status.UNKNOWN if best.measures is None else Status.FEASIBLE
    if best.measures is not None and bound.time_s is not None:
        # rounding may leave the proof a hair above what it proves
        bound = Bound(min(bound.time_s, best.measures.time_s), bound.status, bound.method)
    if best.rejected:
        about["options"][REJECTED] = best.rejected
    return Result(
        identify(instance), status=status, measures=best.measures, bound=bound, termination=ended,
        wall_s=wall_s, certificate=certificate, **kept(best.schedule), **about,
    )  # fmt: skip
