"""The best schedule found so far."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from kvbound.bitsets.two_tier import TwoTierSchedule
from kvbound.checker import check
from kvbound.cost.evaluate import evaluate, evaluate_traffic
from kvbound.errors import KvboundError
from kvbound.instance import Instance
from kvbound.placement import PhysicalPlacement
from kvbound.residency import exceeds_event_limit
from kvbound.result import Measures
from kvbound.schedule import Schedule
from kvbound.solvers.warm_start import without_prefetch

CostedPlacement: TypeAlias = tuple[Measures, PhysicalPlacement]


@dataclass(eq=False)
class Incumbent:
    """The best schedule of an instance so far.

    Attributes
    ----------
    without_prefetch
        Under prefetch, the incumbent of the same instance without it: its schedules are easier to find, and
        valid here too. `adopt` takes them over.
    rejected
        Number of solutions of the MIP solver that its own columns do not confirm.
    """

    instance: Instance
    without_prefetch: Incumbent | None = None
    measures: Measures | None = None
    placement: PhysicalPlacement | None = None
    rejected: int = 0

    @classmethod
    def of(cls, instance: Instance) -> Incumbent:
        """Return an incumbent without a schedule."""
        restricted = without_prefetch(instance)
        return cls(instance, None if restricted is None else cls(restricted))

    def update(self, candidate: CostedPlacement) -> None:
        """Keep a candidate if it is faster."""
        if self.measures is None or candidate[0].value < self.measures.value:
            self.measures, self.placement = candidate

    def update_all(self, candidates: Iterable[CostedPlacement]) -> None:
        """Keep the fastest candidate if it is faster."""
        for candidate in candidates:
            self.update(candidate)

    def adopt(self) -> None:
        """Take over what was found without prefetch."""
        other = self.without_prefetch
        if other is None:
            return
        if other.measures is not None and other.placement is not None:
            self.update((other.measures, other.placement))
        self.rejected, other.rejected = self.rejected + other.rejected, 0

    def within(self, gap: float, bound_s: float | None) -> bool:
        """Return whether there is a schedule within a relative gap of a time lower bound."""
        if self.measures is None:
            return False
        return self.measures.value - (bound_s or 0.0) <= gap * self.measures.value


def evaluate_placement(instance: Instance, schedule: TwoTierSchedule | Schedule) -> CostedPlacement:
    """Cost a schedule; one that is too large to be kept as events is checked as well.

    Raises
    ------
    KvboundError
        The checker rejects it: a defect.
    """
    if isinstance(schedule, Schedule):
        measures = evaluate(instance, schedule)
        if exceeds_event_limit(instance):
            _check(instance, schedule, measures)
        return measures, schedule
    if not exceeds_event_limit(instance):
        events = schedule.residency.to_schedule()
        return evaluate(instance, events), events
    measures = evaluate_traffic(instance, schedule.traffic(instance))
    _check(instance, schedule.residency, measures)
    return measures, schedule.residency


def _check(instance: Instance, placement: PhysicalPlacement, measures: Measures) -> None:
    arrays = placement.arrays(instance_sha256=instance.sha256, tokens=instance.tokens)
    report = check(instance.expanded(), instance.token_trace.arrays, arrays, claimed_s=measures.time_s)
    if not report.ok:
        raise KvboundError(f"the checker rejects the schedule: {report.problems[0]}")
