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
from dataclasses import dataclass, field
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
    options |= {"sweeps": sweeps, "end": end, "progress": progress}
    search = _Search(instance, multipliers, keep, options)
    tiers = waiting_tiers(instance)
    intervals = dict.fromkeys(tiers, NEVER)
    for number, tier in enumerate(tiers):
        intervals[tier] = search.best(intervals, tier, NEVER if number else _FIRST)
    return search.ended


@dataclass
class _Search:
    """A search of intervals.

    Attributes
    ----------
    options
        Of `best_responses`.
    values
        What the schedules of the intervals tried so far cost, infinity where there is none.
    ended
        How the last best responses ended.
    """

    instance: Instance
    multipliers: Multipliers
    keep: Callable[[CostedPlacement], None]
    options: dict[str, Any]
    values: dict[tuple[int, ...], float] = field(default_factory=dict)
    ended: Termination = field(default_factory=Termination)

    def best(self, intervals: dict[int, int], tier: int, first: int) -> int:
        """Return the best interval of a tier that is found from the first one on, others as given."""
        choices = _choices(self.instance.decode_steps)

        def value(position: int) -> float:
            return self._value(intervals | {tier: choices[position]})

        def near(position: int, stride: int) -> list[int]:
            return [n for n in (position + stride, position - stride) if 0 <= n < len(choices)]

        at = max((n for n, each in enumerate(choices) if each <= first), key=choices.__getitem__)
        for stride in (2, 1):
            while (better := next((n for n in near(at, stride) if value(n) < value(at)), None)) is not None:
                at = better
        return choices[at]

    def _value(self, intervals: dict[int, int]) -> float:
        key = tuple(intervals.values())
        if key not in self.values:
            self.values[key] = self._respond(intervals) if self.ended.reason is Reason.DONE else math.inf
        return self.values[key]

    def _respond(self, intervals: dict[int, int]) -> float:
        """Return what the schedule of best responses costs, infinity if there is none; keep it."""
        served = serving(self.instance, intervals)
        found = best_response.best_responses(
            self.instance, self.multipliers, serving=served, group=_GROUP, **self.options
        )
        self.ended = found.termination
        try:
            schedule = found.schedule(self.options["progress"])
        except InfeasibleError:  # blocks of different sizes
            return math.inf
        if schedule is None:
            return math.inf
        candidate = evaluate_placement(self.instance, schedule)
        self.keep(candidate)
        return candidate[0].value


def _choices(steps: int) -> list[int]:
    """Return the intervals to choose from: whole numbers a factor of about sqrt(2) apart, and never."""
    roots = (round(2 ** (n / 2)) for n in range(2 * steps.bit_length()))
    return [*(n for n in dict.fromkeys(roots) if n < steps), NEVER]
