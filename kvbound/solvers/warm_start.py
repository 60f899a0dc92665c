"""What solvers start from: whether any schedule fits, and schedules given by the caller."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from kvbound.checker import check
from kvbound.errors import InfeasibleError, InputError
from kvbound.instance import Instance, Migration
from kvbound.residency import Residency
from kvbound.result import Result, infeasible
from kvbound.schedule import Schedule, file_arrays

Start = TypeVar("Start", bound=Schedule | Residency)


def examine(instance: Instance, start: Start) -> Start:
    """Return a schedule if the checker accepts it for the instance.

    Raises
    ------
    InputError
        It does not keep the rules.
    """
    sha256, steps = instance.sha256, instance.decode_steps
    arrays: Mapping[str, Any]
    if isinstance(start, Residency):
        arrays = start.arrays(sha256)
    else:
        arrays = file_arrays(start, instance_sha256=sha256, decode_steps=steps)
    report = check(instance.expanded(), instance.trace.rows, arrays)
    if not report.ok:
        raise InputError("start", "", f"a schedule that keeps the instance's rules: {report.problems[0]}")
    return start


def events(instance: Instance, start: Schedule | Residency) -> Schedule:
    """Return a schedule as events if the checker accepts it; see `examine`."""
    known = examine(instance, start)
    return known.schedule() if isinstance(known, Residency) else known


def refuse_infeasible(instance: Instance, begin: float, result_fields: Mapping[str, Any]) -> Result | None:
    """Return the result of an instance without any feasible schedule, given when work began; else None."""
    try:
        _ = instance.capacity_blocks
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
