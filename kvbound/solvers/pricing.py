"""Schedules at any size, beside a certified bound: what a miss is worth, slot by slot, decides who stays.

Balanced next-use eviction (`_balance`) comes first, beside the policies that know the future; the dual
proves a time lower bound; where the gap is not closed and the program has a size that HiGHS can take, its
relaxation, fixed where it is whole, and its search improve the best schedule against that bound.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from kvbound.checker import check
from kvbound.cost import evaluate, evaluate_loads, identify
from kvbound.errors import KvboundError, UsageError
from kvbound.instance import Instance
from kvbound.models import columns
from kvbound.progress import Progress, silent
from kvbound.result import Bound, Measures, Result, Status, Termination
from kvbound.residency import Residency
from kvbound.schedule import Schedule
from kvbound.simulation import simulate
from kvbound.slotcost import SlotCost
from kvbound.solvers import _balance as balance
from kvbound.solvers._start import examine, infeasible
from kvbound.solvers.certificate import Certificate
from kvbound.solvers.certified import solve_certified
from kvbound.solvers.exact import improve

_SIMULATED = 1e9
"""Items times slots up to which policies that know the future are simulated as well."""
_KEPT = 1e10
"""Items times slots up to which a balanced schedule is kept as events; beyond they would fill the memory, and
it is kept as bits on disk, replayed by the checker."""
_PROGRAM = 1_000_000
"""Columns up to which the program is worth building."""
_BOUND = 0.6
"""Share of the time for the bound where a search follows; where none can, both cores work on either half."""


def solve_pricing(
    instance: Instance,
    *,
    time_limit: float = 60.0,
    gap: float = 1e-3,
    seed: int = 0,
    start: Schedule | None = None,
    sample: float | None = None,
    kernel: str | None = None,
    threads: int = 2,
    progress: Progress = silent,
) -> Result:
    """Find a good schedule and prove how good it is.

    Parameters
    ----------
    time_limit
        Seconds. Of an instance whose schedule is too large to be kept, schedule and bound are found at the
        same time, and the limit is that of the bound's tuning; its evaluation and its check come on top.
    gap
        Relative gap to the certified bound at which the schedule is good enough.
    start
        A schedule to start from, beside the method's own.
    sample
        Share of the items to tune the bound on; None lets the size decide.

    Returns
    -------
    Result
        With the certified bound and its certificate. Beyond 10**10 items times slots the schedule is a
        residency, checked too. Interrupted, it holds the best so far.

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
    about: dict[str, Any] = {"method": "pricing", "seed": seed, "options": {"gap": gap, "sample": sample}}
    if not instance.physical:
        raise UsageError("method pricing needs accounting 'physical'")
    if nothing := infeasible(instance, begin, about):
        return nothing
    best, ended = _Best(), Termination()
    proof: tuple[Bound, Certificate | None] = Bound(), None
    options: dict[str, Any] = {"seed": seed, "sample": sample, "kernel": kernel, "progress": progress}
    large = _large(instance)
    try:
        with _Aside(lambda report: best.take_all(_candidates(instance, start, report)), progress) as finding:
            if not large:
                finding.wait()
            bounded = solve_certified(instance, time_limit=(1.0 if large else _BOUND) * time_limit, **options)
            proof = bounded.bound, bounded.certificate
            if bounded.termination.reason == "interrupted":
                raise KeyboardInterrupt
            finding.wait()
        ended = _search(instance, best, proof[0], gap, begin + time_limit, seed, threads, progress)
    except KeyboardInterrupt:
        ended = Termination("interrupted")
    return _result(instance, best, proof, ended, time.perf_counter() - begin, about)


def _large(instance: Instance) -> bool:
    """Whether events would fill the memory."""
    return instance.slots * instance.tokens > _KEPT


_Found = tuple[Measures, Schedule | Residency]


@dataclass(eq=False)
class _Best:
    """The best schedule so far."""

    measures: Measures | None = None
    schedule: Schedule | Residency | None = None

    def take(self, found: _Found) -> None:
        """Keep what is faster."""
        if self.measures is None or found[0].time_s < self.measures.time_s:
            self.measures, self.schedule = found

    def take_all(self, candidates: Iterable[_Found]) -> None:
        """Keep the fastest."""
        for found in candidates:
            self.take(found)


class _Aside:
    """Work in a thread of its own that says how far it is once waited for, and ends where the block does."""

    def __init__(self, work: Callable[[Progress], None], progress: Progress) -> None:
        self._work, self._progress = work, progress
        self._waited_for, self._stopped = False, False
        self._pool = ThreadPoolExecutor(1)

    def __enter__(self) -> _Aside:
        self._future = self._pool.submit(self._work, self._report)
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        self._pool.shutdown()

    def wait(self) -> None:
        self._waited_for = True
        self._future.result()

    def _report(self, done: float, total: float, note: str = "") -> None:
        if self._stopped:
            raise KeyboardInterrupt
        if self._waited_for:
            self._progress(done, total, note)


def _candidates(instance: Instance, start: Schedule | None, progress: Progress) -> Iterator[_Found]:
    """Yield schedules that need no search, best guesses last."""
    if start is not None:
        yield evaluate(instance, examine(instance, start)), start
    if instance.slots * instance.tokens <= _SIMULATED or not balance.applies(instance):
        for policy in ("belady", "keep-last"):
            result = simulate(instance, policy, progress=progress)
            assert result.measures is not None
            assert result.schedule is not None
            yield result.measures, result.schedule
    if balance.applies(instance):
        yield _balanced(instance, progress)


def _balanced(instance: Instance, progress: Progress) -> _Found:
    """Return the best of the balanced plays."""
    cost, best, least = SlotCost.of(instance), None, np.inf
    for play in balance.plays(instance, progress, kept=_large(instance)):
        total = float(cost.times(play.loads(instance).q).sum())
        if total < least:
            best, least = play, total
    assert best is not None
    if best.residency is None:
        schedule = balance.schedule(instance, best)
        return evaluate(instance, schedule), schedule
    known = evaluate_loads(instance, best.loads(instance))
    _verify(instance, best.residency, known.time_s)
    return known, best.residency


def _verify(instance: Instance, residency: Residency, time_s: float) -> None:
    """Have the checker replay a schedule that costs as much."""
    expanded, rows = instance.expanded(), instance.trace.rows
    report = check(expanded, rows, residency.arrays(instance.sha256), claimed_s=time_s)
    if not report.ok:
        raise KvboundError(f"the checker rejects the schedule: {report.problems[0]}")


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
    assert best.measures is not None
    lowest = bound.time_s or 0.0
    if best.measures.time_s - lowest <= gap * best.measures.time_s:
        return Termination()
    if time.perf_counter() >= end:
        return Termination("limit", "time")
    if not isinstance(best.schedule, Schedule) or columns(instance) > _PROGRAM:
        return Termination("limit", "size")
    found, _, ended = improve(
        instance, (best.schedule, best.measures), end=end, gap=gap, bound_s=lowest,
        seed=seed, threads=threads, progress=progress,
    )  # fmt: skip
    best.take((found[1], found[0]))
    return ended


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
    return Result(
        identify(instance), status=status, measures=best.measures, bound=bound, termination=ended,
        wall_s=wall_s, certificate=certificate, **_kept(best.schedule), **about,
    )  # fmt: skip


def _kept(schedule: Schedule | Residency | None) -> dict[str, Any]:
    """Name the schedule by what it is."""
    return {"residency" if isinstance(schedule, Residency) else "schedule": schedule}
