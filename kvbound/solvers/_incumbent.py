"""The best schedule found so far."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kvbound.instance import Instance
from kvbound.residency import Residency
from kvbound.result import Measures
from kvbound.schedule import Schedule
from kvbound.solvers._play import Found
from kvbound.solvers._start import without_prefetch


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

    def take(self, found: Found) -> None:
        """Keep what is faster."""
        if self.measures is None or found[0].time_s < self.measures.time_s:
            self.measures, self.schedule = found

    def take_all(self, candidates: Iterable[Found]) -> None:
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
