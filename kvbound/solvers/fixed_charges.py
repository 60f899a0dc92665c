"""Annealing as a step of other methods, where latencies are fixed charges.

A slot waits for a late tier once, however much it reads there. Prices per item and the relaxation of a
program spread such a charge over the items, and lead to schedules that read a little from every tier in
every slot. Annealing gathers these reads in few slots; see `kvbound.solvers.annealing.ramp`.
"""

from __future__ import annotations

from typing import NamedTuple

from kvbound.cost.evaluate import MOST_SPREAD, spread
from kvbound.errors import KvboundError
from kvbound.instance import Instance
from kvbound.progress import Progress, silent
from kvbound.result import Measures, Reason
from kvbound.schedule import Schedule
from kvbound.solvers.annealing.layout import too_large
from kvbound.solvers.annealing.solve import solve_annealing
from kvbound.solvers.dense import items as dense_items

LEAST_S = 1.0
"""Seconds from which annealing is worth its start."""


class Annealed(NamedTuple):
    """Outcome of `anneal`: the best schedule with its measures, and whether an interrupt ended it."""

    known: tuple[Schedule, Measures]
    interrupted: bool = False


def anneals(instance: Instance) -> bool:
    """Whether slots may wait for latencies, and the instance is of a size and kind that annealing takes."""
    if not instance.memory.late_tiers or too_large(instance) or dense_items.exceeds_bits(instance):
        return False
    return spread(instance) <= MOST_SPREAD


def anneal(
    instance: Instance,
    known: tuple[Schedule, Measures],
    *,
    time_limit: float,
    gap: float,
    bound_s: float | None = None,
    work: int | None = None,
    seed: int = 0,
    kernel: str | None = None,
    progress: Progress = silent,
) -> Annealed:
    """Anneal from a known schedule.

    Parameters
    ----------
    time_limit
        Seconds.
    gap, bound_s
        Stop within this relative gap of a time lower bound, in seconds.
    work
        Moves per interval, instead of a time limit; see `solve_annealing`.
    """
    if work is None and time_limit < LEAST_S:
        return Annealed(known)
    try:
        found = solve_annealing(
            instance, start=known[0], time_limit=time_limit, gap=gap, bound_s=bound_s, work=work, seed=seed,
            kernel=kernel, progress=progress,
        )  # fmt: skip
    except KvboundError:  # a failure here must not lose the schedule already found
        return Annealed(known)
    assert found.measures is not None
    if isinstance(found.placement, Schedule) and found.measures.value < known[1].value:
        known = found.placement, found.measures
    return Annealed(known, found.termination.reason is Reason.INTERRUPTED)
