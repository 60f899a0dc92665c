"""Exact: the mixed-integer program, solved and proved optimal by HiGHS."""

from __future__ import annotations

import math
import time
from typing import Any

from kvbound.cost import evaluate, ideal, identify
from kvbound.errors import KvboundError
from kvbound.instance import Instance
from kvbound.models import formulation
from kvbound.progress import Progress, silent
from kvbound.residency import Residency
from kvbound.result import Bound, BoundStatus, Measures, Result, Status, Termination
from kvbound.schedule import Schedule
from kvbound.simulation import simulate
from kvbound.solvers._search import Search
from kvbound.solvers._start import events, infeasible

TOLERANCE = 1e-6
"""How far, relatively, HiGHS's objective and the cost model may differ."""
PROVED = 1e-7
"""How near, relatively, a bound has to be: HiGHS rounds its own down, since 1.16 by more than last digits."""


def solve_exact(
    instance: Instance,
    *,
    time_limit: float = 60.0,
    gap: float = 1e-4,
    seed: int = 0,
    threads: int = 2,
    start: Schedule | Residency | None = None,
    progress: Progress = silent,
) -> Result:
    """Find a placement and prove how good it is.

    Parameters
    ----------
    time_limit
        Seconds, model building included.
    gap
        Relative gap at which a schedule counts as optimal.
    start
        A schedule to start from; by default that of the `belady` policy.

    Returns
    -------
    Result
        Interrupted or out of time it holds the best schedule and bound so far.

    Raises
    ------
    UsageError
        The accounting is not physical.
    InputError
        The start does not keep the rules.
    """
    begin = time.perf_counter()
    about: dict[str, Any] = {"method": "exact", "seed": seed, "options": {"gap": gap}}
    if nothing := infeasible(instance, begin, about):
        return nothing
    first = events(instance, start) if start else simulate(instance, "belady").schedule
    assert first is not None
    known = first, evaluate(instance, first)
    (best, measures), search_bound_s, ended = improve(
        instance, known, end=begin + time_limit, gap=gap, seed=seed, threads=threads, progress=progress
    )
    lowest = max(search_bound_s, ideal(instance))
    bound = Bound(min(lowest, measures.time_s), BoundStatus.CLAIMED, "exact")
    proved = measures.time_s - lowest <= max(gap, PROVED) * measures.time_s
    return Result(
        identify(instance),
        status=Status.OPTIMAL if proved else Status.FEASIBLE,
        measures=measures,
        bound=bound,
        termination=ended,
        wall_s=time.perf_counter() - begin,
        schedule=best,
        **about,
    )


def improve(
    instance: Instance,
    known: tuple[Schedule, Measures],
    *,
    end: float,
    gap: float,
    bound_s: float = -math.inf,
    seed: int = 0,
    threads: int = 2,
    progress: Progress = silent,
) -> tuple[tuple[Schedule, Measures], float, Termination]:
    """Search the mixed-integer program from a known schedule on.

    Parameters
    ----------
    end
        `time.perf_counter` at which to stop.
    gap, bound_s
        Stop within this relative gap of the bound found here or a time lower bound known before.

    Returns
    -------
    The best schedule and its measures, the highest bound in seconds, how it ended.

    Raises
    ------
    KvboundError
        HiGHS's objective is not what the schedule costs: a defect.
    """
    try:
        program = formulation(instance)
    except KeyboardInterrupt:
        return known, -math.inf, Termination("interrupted")
    unit = program.unit_s
    search = Search(program, end, gap, seed, threads, progress, known[1].time_s / unit, bound=bound_s / unit)
    search.run(known[0])
    if search.values is not None:
        found = program.schedule(search.values)
        cost = evaluate(instance, found)
        if cost.time_s > search.objective * unit * (1 + TOLERANCE):
            raise KvboundError(f"the program says {search.objective * unit} s, not {cost.time_s} s")
        if cost.time_s <= known[1].time_s:
            known = found, cost
    return known, search.bound * unit, search.ended
