"""Which implementation of the hot loops runs: numba where installed, else its NumPy twin."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from typing import Literal, TypeAlias, TypeVar

from kvbound.errors import MissingPackageError, UsageError

Kernel: TypeAlias = Literal["numpy", "numba"]
_Function = TypeVar("_Function", bound=Callable[..., object])


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


def compiled(function: _Function) -> _Function:
    """Compile a function where numba is installed; elsewhere the same lines run as Python."""
    try:
        import numba
    except ImportError:
        return function
    faster: _Function = numba.njit(cache=True, nogil=True)(function)
    return faster
