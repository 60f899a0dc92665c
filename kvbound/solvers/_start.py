"""Schedules from outside to start from."""

from __future__ import annotations

from kvbound.checker import check
from kvbound.errors import InputError
from kvbound.instance import Instance
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
