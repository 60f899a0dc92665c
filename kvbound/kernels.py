"""Which implementation of the hot loops runs: numba where installed, else its NumPy twin."""

from __future__ import annotations

import importlib.util
import os
from typing import Literal, TypeAlias

from kvbound.errors import MissingPackageError, UsageError

Kernel: TypeAlias = Literal["numpy", "numba"]


def pick(wanted: str | None = None) -> Kernel:
    """Return the kernel to use.

    Parameters
    ----------
    wanted
        ``"numpy"``, ``"numba"``, or None for the environment variable KVBOUND_KERNEL, and
        without that numba where it is installed.

    Raises
    ------
    UsageError
        The name is unknown.
    MissingPackageError
        numba was asked for and is not installed.
    """
    wanted = wanted or os.environ.get("KVBOUND_KERNEL") or None
    installed = importlib.util.find_spec("numba") is not None
    match wanted:
        case None:
            return "numba" if installed else "numpy"
        case "numpy":
            return "numpy"
        case "numba":
            if not installed:
                raise MissingPackageError("fast")
            return "numba"
    raise UsageError(f"unknown kernel {wanted!r}: expected numpy or numba")
