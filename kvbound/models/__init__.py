"""The formulation: one time_indexed_pyomo problem as a mixed-integer program, readable and fast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kvbound.errors import UsageError
from kvbound.instance import Instance, Migration

if TYPE_CHECKING:
    from kvbound.models.sparse import Matrix
    from kvbound.schedule import Schedule


class Formulation(Protocol):
    """A program and what its solutions mean."""

    instance: Instance
    matrix: Matrix

    @property
    def unit_s(self) -> float:
        """Seconds per unit of the objective."""

    def schedule(self, values: NDArray[np.float64]) -> Schedule:
        """Return the schedule that a whole solution stands for."""

    def start(self, schedule: Schedule) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Return the whole columns, and their values, that a schedule stands for."""


def formulation(instance: Instance, *, cuts: bool = True) -> Formulation:
    """Return the strongest program for the instance's rules, as sparse arrays.

    Raises
    ------
    UsageError
        The accounting is not physical.
    """
    from kvbound.models import intervals
    from kvbound.models.time_indexed import Indexed

    _only_physical(instance)
    form = intervals.Stays if intervals.supports(instance) else Indexed
    return form(instance, cuts=cuts)


def placement_model(instance: Instance, *, cuts: bool = True) -> Any:
    """Return the same program as a Pyomo ConcreteModel, for your own constraints.

    Raises
    ------
    UsageError
        The accounting is not physical.
    """
    from kvbound.models import intervals, intervals_pyomo, time_indexed_pyomo

    _only_physical(instance)
    if intervals.supports(instance):
        return intervals_pyomo.stays_model(instance, cuts=cuts)
    return time_indexed_pyomo.indexed_model(instance, cuts=cuts)


def columns(instance: Instance) -> int:
    """Estimate the program's columns from above, without building it or the trace.

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
        return 2 * (reads + instance.slots) + layers * instance.prefill_tokens + 4 * instance.slots + 1
    first = instance.prefill_tokens + np.arange(instance.decode_steps)
    begun = layers * int((-(-first // instance.granularity)).sum())
    slots = instance.slots * (1 + 5 * tiers)
    if instance.rules.migration is Migration.NONE:
        return layers * instance.blocks * fast + slots
    up = min(reads, begun) if instance.rules.migration is Migration.ON_READ else begun
    return (begun + layers * instance.blocks) * fast + tiers * fast // 2 * (begun + up) + slots


def _only_physical(instance: Instance) -> None:
    if not instance.physical:
        raise UsageError(
            f"{instance.name}: no program or bound stands for fang2025 accounting; "
            "set rules.accounting to physical"
        )
