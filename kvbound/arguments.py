"""Checks of the arguments of public Python functions; errors are one sentence that names the argument."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from kvbound.errors import UsageError
from kvbound.instance import Instance
from kvbound.units import UnitError, parse_seconds, parse_share, show


def instance(value: object) -> Instance:
    """Return `value` if it is an instance.

    Raises
    ------
    UsageError
        It is something else, such as the name of one.
    """
    if not isinstance(value, Instance):
        raise UsageError(f"expected an instance, not {show(value)}; kvbound.read_instance reads one")
    return value


def count(name: str, value: object, least: int) -> int:
    """Return an integer of at least `least`.

    Raises
    ------
    UsageError
        `value` is not such an integer.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise UsageError(f"{name}: expected an integer of at least {least}, not {show(value)}")
    return int(value)


def seconds(name: str, value: object) -> float:
    """Return a time in seconds, given as a number or as text; it may be infinite.

    Raises
    ------
    UsageError
        `value` is not a time.
    """
    return math.inf if value == math.inf else _parsed(name, value, parse_seconds)


def share(name: str, value: object) -> float | None:
    """Return a share from 0 to 1, given as a number or as text; None stays None.

    Raises
    ------
    UsageError
        `value` is not a share.
    """
    return None if value is None else _parsed(name, value, parse_share)


def plain(value: Any) -> Any:
    """Return a NumPy number as a Python one, and anything else unchanged."""
    return value.item() if isinstance(value, np.generic) else value


def _parsed(name: str, value: object, parse: Callable[[Any], float]) -> float:
    try:
        return parse(plain(value))
    except UnitError as error:
        raise UsageError(f"{name}: expected {error}") from None
