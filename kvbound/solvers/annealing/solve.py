"""Simulated annealing: a search for fast schedules whose moves are evaluated by differences."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np

from kvbound.bitsets.two_tier import TwoTierSchedule
from kvbound.cost.evaluate import evaluate, refuse_spread
from kvbound.cost.ideal import ideal
from kvbound.errors import KvboundError, UsageError
from kvbound.fang2025.annealing import EVALUATIONS, solve_published
from kvbound.identity import identify
from kvbound.instance import Instance
from kvbound.kernels import Kernel, pick
from kvbound.placement import Placement
from kvbound.progress import Progress, silent
from kvbound.result import Bound, BoundStatus, Limit, Reason, Result, Status, Termination
from kvbound.schedule import Schedule
from kvbound.simulation import simulate
from kvbound.solvers.annealing.chains import Chains, schedule_of
from kvbound.solvers.annealing.layout import MAX_BYTES, SearchData, search_data, too_large
from kvbound.solvers.annealing.packed import PackedAnnealer
from kvbound.solvers.annealing.search import MIN_MOVES, CycleSearch, StopRule
from kvbound.solvers.annealing.tempering import Annealer
from kvbound.solvers.eviction import balanced
from kvbound.solvers.incumbent import CostedPlacement, evaluate_placement
from kvbound.solvers.warm_start import events, examine, refuse_infeasible

STARTS = ("belady", "keep-last", "lru", "static")
"""Policies of which the best schedule is the start, unless one is given."""
SWEEPS = 10
"""Moves per interval and chain in the first cycle; each later cycle has twice as many."""
TOLERANCE = 1e-6
"""Relative difference allowed between the time kept by annealing and that of the cost model."""
ROUNDING = 1e-8
"""Relative error that rounding times to ticks may cause."""
NUMPY_CHAINS = 32
"""Default number of chains with NumPy, which moves all of them at once."""


def solve_annealing(
    instance: Instance,
    *,
    time_limit: float = 60.0,
    gap: float = 0.01,
    seed: int = 0,
    bound_s: float | None = None,
    start: Placement | None = None,
    chains: int | None = None,
    moves: int | None = None,
    cycles: int | None = None,
    evaluations: int = EVALUATIONS,
    work: int | None = None,
    threads: int = 1,
    kernel: str | None = None,
    progress: Progress = silent,
) -> Result:
    """Search for a fast schedule.

    Parameters
    ----------
    time_limit
        Seconds, excluding compilation of the kernels. For an instance too large for an array of tiers, the
        balanced eviction that it starts from and the final check are not included.
    gap
        Stop as soon as the time is within this relative gap of the time lower bound.
    bound_s
        A time lower bound in seconds, if one better than the ideal is known.
    start
        A schedule to start from; by default the best one of a few policies.
    chains
        Schedules searched at the same time; None takes one with the compiled kernel, which moves one chain
        after the other, and many with NumPy. For the same number both kernels find the same schedule.
    moves
        Moves of each chain in the first cycle; None chooses by size. Each later cycle has twice as many.
        For an instance too large for an array of tiers, about the number of moves in all.
    cycles
        End after this many cycles; None continues until several in a row find nothing better.
    evaluations
        Under fang2025 accounting: simulations of ``sa-guided``, as the study counts them.
    work
        Moves per interval of all chains together, or evaluations under fang2025 accounting, instead of a time
        limit; the default is then one chain. See `kvbound.solvers.solve`.
    threads
        Threads for the chains, with the compiled kernel; the result does not depend on it.

    Returns
    -------
    Result
        Under fang2025 accounting the options hold the best window and topk, and there is no schedule. Beyond
        10**9 items times slots the schedule is a residency, and checked. When interrupted or out of time it
        holds the best schedule so far.

    Raises
    ------
    UsageError
        The instance is too large to keep every block's tier in every step, or an option is invalid.
    InputError
        The start violates the rules.
    """
    begin = time.perf_counter()
    if not instance.physical:
        if start is not None or bound_s is not None:
            raise UsageError("annealing under fang2025 accounting takes neither a start nor a bound")
        if work is not None:
            evaluations, time_limit = work, math.inf
        return solve_published(instance, evaluations, time_limit, seed, kernel, progress)
    effort = _Effort(chains, moves, cycles, work, threads)
    refuse_spread(instance, "annealing")
    chosen = pick(kernel)
    result_fields: dict[str, Any] = {"method": "anneal", "seed": seed, "kernel": chosen}
    if result := refuse_infeasible(instance, begin, result_fields):
        return result
    lowest = max(ideal(instance), bound_s or 0.0)
    target = lowest / (1 - gap) * (1 + ROUNDING) if gap < 1 else math.inf
    stop = StopRule(begin, time_limit if work is None else math.inf, target, progress)
    stop = stop if instance.objective.time_alone else replace(stop, unit="")
    search = _search_packed if _is_packed(instance, chosen) else _search_arrays
    found = search(instance, start, np.random.default_rng(seed), effort, chosen, stop)
    measures, placement = found.costed
    return Result(
        identify(instance),
        status=Status.OPTIMAL if math.isclose(measures.value, lowest) else Status.FEASIBLE,
        measures=measures,
        bound=Bound.of(
            instance,
            min(lowest, measures.value),
            BoundStatus.CLAIMED,
            "ideal" if bound_s is None else "given",
        ),
        termination=found.termination,
        options={"gap": gap} | ({} if work is None else {"work": work}) | found.options,
        wall_s=time.perf_counter() - begin,
        placement=placement,
        **result_fields,
    )


@dataclass(frozen=True)
class _Effort:
    """How much to search; see `solve_annealing`."""

    chains: int | None
    moves: int | None
    cycles: int | None
    work: int | None
    threads: int

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if value is not None and value < 1:
                raise UsageError(f"annealing needs at least 1 of {each.name}, not {value}")


class _Found(NamedTuple):
    """The best placement of a search with its cost, options for the result, and how the search ended."""

    costed: CostedPlacement
    options: dict[str, Any]
    termination: Termination


def _is_packed(instance: Instance, kernel: Kernel) -> bool:
    """Whether the instance is too large for an array of tiers and can be kept as bits."""
    supported = balanced.supports(instance) and not instance.by_step
    return too_large(instance) and supported and kernel == "numba"


def _search_packed(
    instance: Instance,
    start: Placement | None,
    rng: np.random.Generator,
    effort: _Effort,
    kernel: Kernel,
    stop: StopRule,
) -> _Found:
    """Search with packed bits; see `kvbound.solvers.annealing.packed`."""
    if effort.chains is not None or effort.cycles is not None:
        raise UsageError("annealing an instance this large takes neither chains nor cycles")
    most: float = effort.moves or math.inf
    if effort.work is not None:
        most = effort.work * (int(instance.read_counts().sum()) + instance.layers * instance.blocks)
    if start is None:
        first = next(balanced.schedules(instance, stop.progress))
    else:
        first = TwoTierSchedule.replayed(instance, examine(instance, start))
    annealer = PackedAnnealer.of(instance, first, rng)
    annealer.warm_up()
    stop, termination = replace(stop, begin=time.perf_counter()), Termination()
    try:
        annealer.run(lambda: annealer.moves < most and stop.proceed(annealer.time_s, annealer.moves / most))
        if annealer.time_s > stop.target and annealer.moves < most:
            termination = Termination(Reason.LIMIT, Limit.TIME)
    except KeyboardInterrupt:
        termination = Termination(Reason.INTERRUPTED)
    costed = evaluate_placement(instance, annealer.schedule())
    return _Found(costed, {"moves": annealer.moves}, termination)


def _search_arrays(
    instance: Instance,
    start: Placement | None,
    rng: np.random.Generator,
    effort: _Effort,
    kernel: Kernel,
    stop: StopRule,
) -> _Found:
    """Search with an array of the tier of every block in every state."""
    data, work = search_data(instance), effort.work
    first, interrupted = (events(instance, start), False) if start else _best_of_policies(instance)
    count = effort.chains or (_default_chains(data, kernel) if work is None else 1)
    chains = Chains.of(instance, data, [first] * count)
    search = CycleSearch(data, Annealer(data, chains, rng, kernel, effort.threads), stop)
    if interrupted:
        termination = Termination(Reason.INTERRUPTED)
    else:
        intervals = len(data.intervals)
        moves = effort.moves or max(MIN_MOVES, SWEEPS * intervals)
        termination = search.run(moves, effort.cycles, None if work is None else work * intervals)
    return _Found(
        _evaluate_best(instance, search), {"chains": count, "moves": search.annealer.moves}, termination
    )


def _default_chains(data: SearchData, kernel: Kernel) -> int:
    """Return one chain for the compiled kernel, so that it gets furthest, and many for NumPy."""
    return 1 if kernel == "numba" else max(1, min(NUMPY_CHAINS, MAX_BYTES // (2 * data.interval_of.size)))


def _best_of_policies(instance: Instance) -> tuple[Schedule, bool]:
    """Return the best schedule of some policies, and whether their simulation was interrupted."""
    found: list[Result] = []
    interrupted = False
    try:
        for policy in STARTS:
            found.append(simulate(instance, policy))
    except KeyboardInterrupt:
        if not found:
            raise
        interrupted = True
    feasible = [result for result in found if result.schedule is not None]
    if not feasible:  # blocks differ in size, and do not fit in the order of these
        last = simulate(instance, "lookahead-one")
        feasible = [last] if last.schedule is not None else []
    if not feasible:
        raise UsageError(f"{instance.name}: no policy finds a schedule that fits; give one to start from")
    best = min(feasible, key=lambda result: result.value or 0.0).schedule
    assert best is not None
    return best, interrupted


def _evaluate_best(instance: Instance, search: CycleSearch) -> CostedPlacement:
    """Cost the best schedule of a search by the cost model, which must agree with its ticks."""
    best = schedule_of(instance, search.annealer.best)
    measures = evaluate(instance, best)
    rounding = instance.slots * search.data.tick_s
    if not math.isclose(measures.value, search.time_s, rel_tol=TOLERANCE, abs_tol=rounding):
        raise KvboundError(f"annealing says {search.time_s} s, the cost model {measures.value} s")
    return measures, best
