"""The placement problem as a mixed-integer program: sparse arrays for solvers, a Pyomo model for users."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kvbound.errors import UsageError
from kvbound.instance import Instance
from kvbound.rules import Migration

if TYPE_CHECKING:
    from kvbound.models.sparse import Matrix
    from kvbound.schedule import Schedule


class Formulation(Protocol):
    """A mixed-integer program, and the schedules that its solutions represent."""

    @property
    def instance(self) -> Instance:
        """The instance."""

    @property
    def matrix(self) -> Matrix:
        """The program as arrays."""

    @property
    def unit_s(self) -> float:
        """Seconds per unit of the objective."""

    def schedule(self, values: NDArray[np.float64]) -> Schedule:
        """Return the schedule of an integer solution, shape (columns,)."""

    def start(self, schedule: Schedule) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Return the columns that determine a schedule, and their values for this one."""


def formulation(instance: Instance, *, cuts: bool = True) -> Formulation:
    """Return the strongest program for the instance's rules, as sparse arrays.

    Parameters
    ----------
    cuts
        Add count cuts, or use the integer hull in the interval form.

    Raises
    ------
    UsageError
        The accounting is not physical.
    """
    from kvbound.models import intervals
    from kvbound.models.time_indexed import TimeIndexed

    _only_physical(instance)
    form = intervals.Intervals if intervals.supports(instance) else TimeIndexed
    return form(instance, cuts=cuts)


def placement_model(instance: Instance, *, cuts: bool = True) -> Any:
    """Return the program as a Pyomo ConcreteModel, to which constraints can be added.

    Raises
    ------
    UsageError
        The accounting is not physical.
    """
    from kvbound.models import intervals, intervals_pyomo, time_indexed_pyomo

    _only_physical(instance)
    if intervals.supports(instance):
        return intervals_pyomo.intervals_model(instance, cuts=cuts)
    return time_indexed_pyomo.time_indexed_model(instance, cuts=cuts)


def columns(instance: Instance) -> int:
    """Return an upper bound on the number of columns, without building the program or the trace.

    Raises
    ------
    UsageError
        The accounting is not physical.
    """
    from kvbound.models import intervals

    _only_physical(instance)
    tiers, layers, fast = instance.tiers, instance.layers, instance.tiers - 1
    reads = int(instance.read_counts().sum())
    if intervals.supports(instance):
        births = layers * (instance.tokens - instance.prefill_tokens)
        return 2 * (reads + births) + layers * instance.prefill_tokens + 4 * instance.slots + 1
    grouping = instance.grouping
    held, moving = int(grouping.held_counts.sum()), int(grouping.held_counts[:-1].sum())
    slots = instance.slots * (1 + 5 * tiers)
    if instance.rules.migration is Migration.NONE:
        return layers * instance.blocks * fast + slots
    passing = int(np.count_nonzero((grouping.last == grouping.born) & (grouping.born >= 0)))
    up = min(reads, moving) if instance.rules.migration is Migration.ON_READ else moving
    return (held + passing) * fast + tiers * fast // 2 * (moving + up) + slots


def _only_physical(instance: Instance) -> None:
    if not instance.physical:
        raise UsageError(
            f"{instance.name}: there is no program or bound for fang2025 accounting; "
            "set rules.accounting to physical"
        )
