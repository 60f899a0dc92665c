"""Best responses where it is settled which slots wait: reads at late tiers are gathered in few slots.

Prices tell every block what a read costs it, not that the wait is paid once for all of them. Where a wait is
longer than a slot takes without it, best responses therefore read a little at a late tier in nearly every
slot. Here such a tier serves reads in every n-th slot of a layer only, with one layer after the other, and
blocks respond to prices under which the waits of these slots are paid and other slots are closed to it. The
numbers n are searched.

Equations: "Gathered reads" in docs/methods.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvbound.errors import InfeasibleError
from kvbound.instance import Instance
from kvbound.progress import Progress, silent
from kvbound.result import Reason, Termination
from kvbound.rules import Migration
from kvbound.solvers.incumbent import CostedPlacement, evaluate_placement
from kvbound.solvers.lagrangian.ascent import Multipliers
from kvbound.solvers.lagrangian.slots.minorants import SlotMinorants
from kvbound.solvers.pricing import best_response

NEVER = 0
"""The interval of a tier that serves no reads."""
_FIRST = 8
"""The interval that the search begins with."""
_GROUP = 4 * best_response.GROUP
"""Share of the items that respond at once: four times as fast, for schedules that are hardly slower."""


def gathers(instance: Instance) -> bool:
    """Whether reads can be gathered: some waits are longer than slots, and blocks move ahead of reads."""
    prefetch = instance.rules.migration is Migration.PREFETCH
    return prefetch and best_response.supports(instance) and bool(waiting_tiers(instance))


def waiting_tiers(instance: Instance) -> list[int]:
    """Return the tiers that let a slot wait for longer than it takes without them, the fastest first."""
    tiers = set(SlotMinorants.of(instance).behind[:, 2].tolist()) - {-1}
    return sorted(tiers, key=lambda k: instance.memory.tiers[k].latency)


def serving(instance: Instance, intervals: dict[int, int]) -> NDArray[np.bool_]:
    """Return whether each tier serves reads of a slot, (K, steps, layers or 1), given intervals of some."""
    layers = 1 if instance.by_step else instance.layers
    served = np.ones((instance.tiers, instance.decode_steps, layers), np.bool_)
    step, layer = np.indices(served.shape[1:])
    for tier, interval in intervals.items():
        served[tier] = interval != NEVER
        if interval != NEVER:
            served[tier] = step % interval == layer * interval // layers
    return served


def gather(
    instance: Instance,
    multipliers: Multipliers,
    keep: Callable[[CostedPlacement], None],
    *,
    sweeps: int,
    end: float = math.inf,
    progress: Progress = silent,
    **options: Any,
) -> Termination:
    """Search the intervals at which the tiers that let slots wait serve reads; keep all schedules found.

    The tiers are searched one after the other, the fastest first, with the slower ones closed.

    Parameters
    ----------
    multipliers
        Those of the dual; only their prices of capacity count.
    sweeps
        Sweeps of best responses over all items after the first, for each choice of intervals.
    end
        `time.perf_counter` at which to stop.
    options
        See `best_responses`.
    """
    steps = instance.decode_steps
    choices = [n for n in dict.fromkeys(round(2 ** (n / 2)) for n in range(2 * steps)) if n < steps]
    choices.append(NEVER)
    ended, times = Termination(), dict[tuple[int, ...], float]()
    tiers = waiting_tiers(instance)
    intervals = dict.fromkeys(tiers, NEVER)

    def respond() -> float:
        nonlocal ended
        if ended.reason is not Reason.DONE:
            return math.inf
        found = best_response.best_responses(
            instance, multipliers, serving=serving(instance, intervals), group=_GROUP, sweeps=sweeps, end=end,
            progress=progress, **options,
        )  # fmt: skip
        ended = found.termination
        try:
            schedule = found.schedule(progress)
        except InfeasibleError:  # blocks of different sizes
            return math.inf
        if schedule is None:
            return math.inf
        candidate = evaluate_placement(instance, schedule)
        keep(candidate)
        return candidate[0].value

    def value(tier: int, position: int) -> float:
        intervals[tier] = choices[position]
        key = tuple(intervals.values())
        if key not in times:
            times[key] = respond()
        return times[key]

    for tier in tiers:
        best = choices.index(max(n for n in choices if n <= _FIRST))
        if tier != tiers[0]:
            best = len(choices) - 1
        for stride in (2, 1):
            near = [best]
            while near:
                around = [best + stride, best - stride]
                near = [n for n in around if 0 <= n < len(choices) and value(tier, n) < value(tier, best)]
                best = near[0] if near else best
        intervals[tier] = choices[best]
    return ended
