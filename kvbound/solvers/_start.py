"""What solvers begin with: whether anything fits at all, and schedules from outside."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from kvbound.checker import check
from kvbound.cost import identify
from kvbound.errors import InfeasibleError, InputError
from kvbound.instance import Instance
from kvbound.result import Result, Status
from kvbound.schedule import Schedule, file_arrays


def examine(instance: Instance, start: Schedule) -> Schedule:
    """Return a schedule once the checker has seen that it is one of the instance's.

    Raises
    ------
    InputError
        It does not keep the rules.
    """
    arrays = file_arrays(start, instance_sha256=instance.sha256, decode_steps=instance.decode_steps)
    report = check(instance.expanded(), instance.trace.rows, arrays)
    if not report.ok:
        raise InputError("start", "", f"a schedule that keeps the instance's rules: {report.problems[0]}")
    return start


def infeasible(instance: Instance, begin: float, about: Mapping[str, Any]) -> Result | None:
    """Return the result of an instance that nothing fits into, given when work began; else None."""
    try:
        _ = instance.room
    except InfeasibleError:
        identity = identify(instance, with_trace=False)
        return Result(identity, status=Status.INFEASIBLE, wall_s=time.perf_counter() - begin, **about)
    return None
