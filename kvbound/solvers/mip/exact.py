"""The exact method: the mixed-integer program, solved by HiGHS, and a proof by a tree of certificates."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any, NamedTuple

from kvbound.cost.evaluate import evaluate
from kvbound.cost.ideal import ideal
from kvbound.errors import KvboundError
from kvbound.identity import identify
from kvbound.instance import Instance
from kvbound.models import Formulation, columns, formulation
from kvbound.placement import Placement
from kvbound.progress import Progress, silent
from kvbound.result import Bound, BoundStatus, Measures, Reason, Result, Status, Termination
from kvbound.schedule import Schedule
from kvbound.simulation import simulate
from kvbound.solvers import fixed_charges
from kvbound.solvers.certify import certify
from kvbound.solvers.mip.fix_and_search import Search
from kvbound.solvers.mip.highs import REJECTED
from kvbound.solvers.mip.relaxation import solve_relaxation
from kvbound.solvers.tree.search import PROOF, prove
from kvbound.solvers.warm_start import events, refuse_infeasible, without_prefetch

ON_READ = 0.7
"""Share of the time for the same instance without prefetch, whose schedules are valid with prefetch."""
GAP = 1e-4
"""Default relative gap at which the search stops, and the largest at which a schedule is called optimal."""
PROVED = 1e-7
"""Relative gap taken for rounding: since 1.16, HiGHS lowers its bounds by more than the last digits."""

ANNEAL_SHARE, MOST_MOVES = 0.3, 20
"""Share of the time for annealing where slots may wait for latencies, and moves per interval at the most,
where work and not time is limited."""
FEWEST_COLUMNS = 5_000
"""Columns from which annealing is worth its start: in smaller programs HiGHS is as good."""
PROOF_S = 10.0
"""Seconds for the tree of certificates, unless HiGHS took longer or the gap asked for is that of a proof."""


def solve_exact(
    instance: Instance,
    *,
    time_limit: float = 60.0,
    gap: float = GAP,
    seed: int = 0,
    threads: int = 2,
    work: int | None = None,
    start: Placement | None = None,
    proof: bool = True,
    anneal: bool = True,
    progress: Progress = silent,
) -> Result:
    """Find a schedule, and a time lower bound that limits how much faster any other can be.

    Parameters
    ----------
    time_limit
        Seconds, model building included.
    gap
        Relative gap at which to stop. A schedule within it is reported as optimal, but never beyond `GAP`.
    work
        Nodes of each search by HiGHS, in one thread, and of the tree, instead of a time limit; see
        `kvbound.solvers.solve`.
    start
        A schedule to start from; by default that of the `belady` policy.
    proof
        Where the program is small, build a tree of certificates after HiGHS's search: within the time limit
        for 10 s, or for as long as that search took, and with a gap of at most 1e-6 for all of the time left;
        see `kvbound.solvers.tree`.
    anneal
        Where slots may wait for latencies, anneal first, for up to 30 % of the time: the relaxation spreads
        such a charge over the items, and rounds to schedules far from the best.

    Returns
    -------
    Result
        With the tree in `proof`, if one was made. Its bound is certified if it proves the schedule optimal,
        or more than HiGHS claims.
        When interrupted or out of time it holds the best schedule and bound so far. Without a schedule that
        fits to start from, it holds the bound of the relaxation alone.

    Raises
    ------
    UsageError
        The accounting is not physical.
    InputError
        The start violates the rules.
    """
    begin = time.perf_counter()
    options = {"gap": gap} | ({} if work is None else {"work": work})
    fields: dict[str, Any] = {"method": "exact", "seed": seed, "options": options}
    if result := refuse_infeasible(instance, begin, fields):
        return result
    first = events(instance, start) if start else _simple_schedule(instance)
    if first is None:
        relaxed = solve_relaxation(instance, time_limit=time_limit, seed=seed, work=work, progress=progress)
        message = f"{instance.name}: no policy finds a schedule that fits, from which the search could start"
        ended = replace(relaxed.termination, message=message)
        return replace(relaxed, method="exact", options=options, termination=ended)
    known = first, evaluate(instance, first)
    end = begin + time_limit
    if work is not None:
        end, threads = math.inf, 1
    common: dict[str, Any] = {
        "gap": gap, "work": work, "seed": seed, "threads": threads, "progress": progress,
    }  # fmt: skip
    rejected, termination = 0, Termination()
    if anneal and columns(instance) >= FEWEST_COLUMNS and fixed_charges.anneals(instance):
        moves = None if work is None else min(work, MOST_MOVES)
        known, interrupted = fixed_charges.anneal(
            instance, known, time_limit=ANNEAL_SHARE * time_limit, gap=gap, work=moves, seed=seed,
            progress=progress,
        )  # fmt: skip
        if interrupted:
            termination = Termination(Reason.INTERRUPTED)
    left = end - time.perf_counter() if work is None else math.inf
    plain = without_prefetch(instance)
    if plain is not None and termination.reason is not Reason.INTERRUPTED:
        found = solve_exact(plain, time_limit=ON_READ * left, proof=False, anneal=False, **common)
        rejected = found.options.get(REJECTED, 0)
        if found.schedule is not None and found.measures is not None:
            known = min(known, (found.schedule, found.measures), key=lambda pair: pair[1].value)
        termination = found.termination
    if termination.reason is Reason.INTERRUPTED:
        search = Improved(known, 0.0, termination)
    else:
        search = improve(instance, known, end=end, **common)
    if count := rejected + search.rejected:
        fields["options"][REJECTED] = count
    made = None
    if proof and search.termination.reason is not Reason.INTERRUPTED:
        try:
            now = time.perf_counter()
            until = end if work is not None or gap <= PROOF else min(end, now + max(now - begin, PROOF_S))
            made = prove(instance, search.known, end=until, work=work, seed=seed, progress=progress)
        except KeyboardInterrupt:  # before there is any tree
            search = search._replace(termination=Termination(Reason.INTERRUPTED))
    if made is not None:
        search = search._replace(known=made.known)
        if made.complete or made.termination.reason is Reason.INTERRUPTED:
            search = search._replace(termination=made.termination)
    best, measures = search.known
    lowest = max(search.bound_s, ideal(instance))
    bound = Bound.of(instance, min(lowest, measures.value), BoundStatus.CLAIMED, "exact")
    proved = measures.value - lowest <= max(min(gap, GAP), PROVED) * measures.value
    if made is not None:
        try:
            certified = certify(instance, made.tree, "exact")
        except KvboundError as error:  # a defect, which must not lose what HiGHS has found
            fields["options"]["proof"], made = str(error), None
        else:
            proved |= made.complete
            bound = certified if made.complete or made.tree.bound_s >= lowest else bound
    return Result(
        identify(instance),
        status=Status.OPTIMAL if proved else Status.FEASIBLE,
        measures=measures,
        bound=bound,
        termination=search.termination,
        wall_s=time.perf_counter() - begin,
        placement=best,
        proof=None if made is None else made.tree,
        **fields,
    )


class Improved(NamedTuple):
    """Outcome of `improve`: best schedule, highest bound in seconds, termination, rejected solver runs."""

    known: tuple[Schedule, Measures]
    bound_s: float
    termination: Termination
    rejected: int = 0


def _simple_schedule(instance: Instance) -> Schedule | None:
    """Return the schedule of a policy; None if none fits, as may happen where blocks differ in size."""
    found = (
        simulate(instance, policy).schedule for policy in ("belady", "keep-last", "static", "lookahead-one")
    )
    return next((schedule for schedule in found if schedule is not None), None)


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
    program: Formulation | None = None,
    complete: bool = True,
    progress: Progress = silent,
) -> Improved:
    """Search the mixed-integer program from a known schedule.

    Parameters
    ----------
    end
        `time.perf_counter` at which to stop.
    gap, bound_s
        Stop within this relative gap of the bound found here or of a known time lower bound.
    work
        Nodes of each search by HiGHS, or None for no limit.
    program
        The program, if it is already built.
    complete
        Search the complete program in the end, not only where its relaxation is fractional.

    Returns
    -------
    Improved
        Its schedule is never slower than the known one, and its bound never above that.
    """
    try:
        program = formulation(instance) if program is None else program
    except KeyboardInterrupt:
        return Improved(known, bound_s, Termination(Reason.INTERRUPTED))
    unit = program.unit_s
    search = Search(
        program, known, end, gap, seed, threads, progress, [bound_s / unit], work=work, complete=complete
    )
    search.run()
    return Improved(search.known, search.bound * unit, search.termination, search.rejected)
