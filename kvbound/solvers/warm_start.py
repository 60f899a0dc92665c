"""What solvers start from: whether any schedule fits, and schedules given by the caller."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kvbound.checker import check
from kvbound.errors import InfeasibleError, InputError
from kvbound.initial import require_room
from kvbound.instance import Instance
from kvbound.placement import PhysicalPlacement, Placement
from kvbound.result import Result, infeasible
from kvbound.rules import Migration
from kvbound.schedule import Schedule


def examine(instance: Instance, start: Placement) -> PhysicalPlacement:
    """Return a placement if the checker accepts it for the instance.

    Raises
    ------
    InputError
        It violates the rules.
    """
    arrays = start.arrays(instance_sha256=instance.sha256, tokens=instance.tokens)
    report = check(instance.expanded(), instance.token_trace.arrays, arrays)
    if not report.ok:
        raise InputError("start", "", f"a schedule that keeps the instance's rules: {report.problems[0]}")
    assert isinstance(start, PhysicalPlacement)  # the checker accepts no other under physical accounting
    return start


def events(instance: Instance, start: Placement) -> Schedule:
    """Return a placement as events if the checker accepts it; see `examine`."""
    return examine(instance, start).to_schedule()


def refuse_infeasible(instance: Instance, begin: float, result_fields: Mapping[str, Any]) -> Result | None:
    """Return the result of an instance without any feasible schedule, given when work began; else None."""
    try:
        require_room(instance)
    except InfeasibleError as error:
        return infeasible(instance, error, begin, result_fields)
    return None


def without_prefetch(instance: Instance) -> Instance | None:
    """Return the instance with migration on reads only, whose schedules are valid with prefetch too.

    None if the instance has no prefetch.
    """
    if instance.rules.migration is not Migration.PREFETCH:
        return None
    return instance.with_rules(migration=Migration.ON_READ)
