"""Exact: the mixed-integer program, solved and proved optimal by HiGHS."""

from __future__ import annotations

import math
import time
from typing import Any, NamedTuple

from kvbound.cost.evaluate import evaluate
from kvbound.cost.ideal import ideal
from kvbound.instance import Instance
from kvbound.models import formulation
from kvbound.placement import Placement
from kvbound.progress import Progress, silent
from kvbound.result import Bound, BoundStatus, Measures, Reason, Result, Status, Termination, identify
from kvbound.schedule import Schedule
from kvbound.simulation import simulate
from kvbound.solvers.mip.fix_and_search import Search
from kvbound.solvers.warm_start import events, refuse_infeasible, without_prefetch

ON_READ = 0.7
"""Share of the time for the same instance without prefetch, whose schedules are valid with it."""
REJECTED = "rejected_answers"
"""The option of a result that counts the solver's answers that their columns do not confirm."""
GAP = 1e-4
"""Relative gap at which the search stops by itself, and beyond which no schedule is called optimal."""
PROVED = 1e-7
"""How near, relatively, a bound has to be: HiGHS rounds its own down, since 1.16 by more than last digits."""


def solve_exact(
    instance: Instance,
    *,
    time_limit: float = 60.0,
    gap: float = GAP,
    seed: int = 0,
    threads: int = 2,
    work: int | None = None,
    start: Placement | None = None,
    progress: Progress = silent,
) -> Result:
    """Find a placement and prove how good it is.

    Parameters
    ----------
    time_limit
        Seconds, model building included.
    gap
        Relative gap at which to stop; a schedule counts as optimal within it, but not beyond `GAP`.
    work
        Nodes of each search by HiGHS, in one thread, instead of a time limit; see `kvbound.solvers.solve`.
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
    chosen = {"gap": gap} | ({} if work is None else {"work": work})
    about: dict[str, Any] = {"method": "exact", "seed": seed, "options": chosen}
    if nothing := refuse_infeasible(instance, begin, about):
        return nothing
    first = events(instance, start) if start else simulate(instance, "belady").schedule
    assert first is not None
    known = first, evaluate(instance, first)
    end = begin + time_limit
    if work is not None:
        end, threads = math.inf, 1
    common: dict[str, Any] = {
        "gap": gap, "work": work, "seed": seed, "threads": threads, "progress": progress,
    }  # fmt: skip
    rejected, ended = 0, Termination()
    if plain := without_prefetch(instance):
        found = solve_exact(plain, time_limit=ON_READ * time_limit, **common)
        rejected = found.options.get(REJECTED, 0)
        if found.schedule is not None and found.measures is not None:
            known = min(known, (found.schedule, found.measures), key=lambda pair: pair[1].time_s)
        ended = found.termination
    if ended.reason is Reason.INTERRUPTED:
        search = Improved(known, 0.0, ended)
    else:
        search = improve(instance, known, end=end, **common)
    if count := rejected + search.rejected:
        about["options"][REJECTED] = count
    best, measures = search.known
    lowest = max(search.bound_s, ideal(instance))
    bound = Bound(min(lowest, measures.time_s), BoundStatus.CLAIMED, "exact")
    proved = measures.time_s - lowest <= max(min(gap, GAP), PROVED) * measures.time_s
    return Result(
        identify(instance),
        status=Status.OPTIMAL if proved else Status.FEASIBLE,
        measures=measures,
        bound=bound,
        termination=search.ended,
        wall_s=time.perf_counter() - begin,
        placement=best,
        **about,
    )


class Improved(NamedTuple):
    """What a search found: the best schedule, the highest bound in seconds, how it ended, and how many
    answers of the solver were rejected.
    """

    known: tuple[Schedule, Measures]
    bound_s: float
    ended: Termination
    rejected: int = 0


def improve(
    instance: Instance,
    known: tuple[Schedule, Measures],
    *,
    end: float,
    gap: float,
    bound_s: float = 0.0,
    work: int | None = None,
    seed: int = 0,
    threads: int = 2,
    progress: Progress = silent,
) -> Improved:
    """Search the mixed-integer program from a known schedule on.

    Parameters
    ----------
    end
        `time.perf_counter` at which to stop.
    gap, bound_s
        Stop within this relative gap of the bound found here or a time lower bound known before.
    work
        Nodes of each search by HiGHS; None has none counted.

    Returns
    -------
    Improved
        Never a worse schedule than the known one, nor a bound above it.
    """
    try:
        program = formulation(instance)
    except KeyboardInterrupt:
        return Improved(known, bound_s, Termination(Reason.INTERRUPTED))
    unit = program.unit_s
    search = Search(program, known, end, gap, seed, threads, progress, [bound_s / unit], work=work)
    search.run()
    return Improved(search.known, search.bound * unit, search.ended, search.rejected)
