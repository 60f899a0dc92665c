"""The best schedule found so far."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

from kvbound.bitsets.two_tier import TwoTierSchedule
from kvbound.checker import check
from kvbound.cost.evaluate import evaluate, evaluate_traffic
from kvbound.errors import KvboundError
from kvbound.instance import Instance
from kvbound.residency import Residency, exceeds_event_limit
from kvbound.result import Measures
from kvbound.schedule import Schedule
from kvbound.solvers.warm_start import without_prefetch


@dataclass(eq=False)
class Incumbent:
    """The best schedule of an instance so far.

    Attributes
    ----------
    fewer
        Under prefetch, that of the same instance without it, whose schedules are easier to find and valid
        here too; `settle` takes them over.
    rejected
        How many of the solver's answers were rejected.
    """

    instance: Instance
    fewer: Incumbent | None = None
    measures: Measures | None = None
    schedule: Schedule | Residency | None = None
    rejected: int = 0

    @classmethod
    def of(cls, instance: Instance) -> Incumbent:
        """Begin with no schedule."""
        plain = without_prefetch(instance)
        return cls(instance, None if plain is None else cls(plain))

    def take(self, found: CostedPlacement) -> None:
        """Keep what is faster."""
        if self.measures is None or found[0].time_s < self.measures.time_s:
            self.measures, self.schedule = found

    def take_all(self, candidates: Iterable[CostedPlacement]) -> None:
        """Keep the fastest."""
        for found in candidates:
            self.take(found)

    def settle(self) -> None:
        """Take over what was found under fewer rules."""
        other = self.fewer
        if other is None:
            return
        if other.measures is not None and other.schedule is not None:
            self.take((other.measures, other.schedule))
        self.rejected, other.rejected = self.rejected + other.rejected, 0

    def within(self, gap: float, bound_s: float | None) -> bool:
        """Whether it is good enough."""
        if self.measures is None:
            return False
        return self.measures.time_s - (bound_s or 0.0) <= gap * self.measures.time_s


CostedPlacement: TypeAlias = tuple[Measures, Schedule | Residency]


def evaluate_placement(instance: Instance, play: TwoTierSchedule | Schedule) -> CostedPlacement:
    """Cost a schedule; a play that is too large to be kept as events is checked at once.

    Raises
    ------
    KvboundError
        The checker rejects it: a defect.
    """
    if isinstance(play, Schedule):
        return evaluate(instance, play), play
    if not exceeds_event_limit(instance):
        schedule = play.residency.schedule()
        return evaluate(instance, schedule), schedule
    measures = evaluate_traffic(instance, play.traffic(instance))
    arrays = play.residency.arrays(instance.sha256)
    report = check(instance.expanded(), instance.trace.rows, arrays, claimed_s=measures.time_s)
    if not report.ok:
        raise KvboundError(f"the checker rejects the schedule: {report.problems[0]}")
    return measures, play.residency


def placement_fields(schedule: Schedule | Residency | None) -> dict[str, Any]:
    """Name a result's schedule by what it is."""
    return {"residency" if isinstance(schedule, Residency) else "schedule": schedule}
