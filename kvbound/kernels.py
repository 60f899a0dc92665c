"""Which implementation of the hot loops runs: numba where it works, else its NumPy twin."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Callable
from functools import cache
from typing import Any, Literal, TypeAlias

from kvbound.errors import MissingPackageError, UsageError

Kernel: TypeAlias = Literal["numpy", "numba"]


def pick(wanted: str | None = None) -> Kernel:
    """Return the kernel to use.

    Parameters
    ----------
    wanted
        ``"numpy"``, ``"numba"``, or None for the environment variable KVBOUND_KERNEL, and
        without that numba where it compiles.

    Raises
    ------
    UsageError
        The name is unknown, or numba was asked for and does not compile.
    MissingPackageError
        numba was asked for and is not installed.
    """
    match named(wanted):
        case None:
            return "numpy" if _trouble() else "numba"
        case "numpy":
            return "numpy"
        case "numba":
            if importlib.util.find_spec("numba") is None:
                raise MissingPackageError("fast")
            if trouble := _trouble():
                raise UsageError(f"kernel numba does not work here: {trouble}")
            return "numba"


def named(wanted: str | None) -> Kernel | None:
    """Return the kernel that was asked for, here or by KVBOUND_KERNEL; see `pick`.

    Raises
    ------
    UsageError
        The name is unknown.
    """
    match wanted or os.environ.get("KVBOUND_KERNEL") or None:
        case None | "numpy" | "numba" as name:
            return name
        case other:
            raise UsageError(f"unknown kernel {other!r}: expected numpy or numba")


@cache
def _trouble() -> str | None:
    """Say why numba cannot compile, or None if it can."""
    if importlib.util.find_spec("numba") is None:
        return "it is not installed"
    try:
        import numba
    except Exception as error:  # one built for another NumPy or LLVM may raise anything
        return f"its import fails ({error})"
    return "NUMBA_DISABLE_JIT is set" if numba.config.DISABLE_JIT else None


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Decorate a function that numba compiles where it can; elsewhere the same lines run as Python.

    Parameters
    ----------
    options
        For ``numba.njit``, besides the cache and the release of the interpreter's lock.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        if _trouble():
            return function
        import numba

        faster = numba.njit(nogil=True, **options)(function)
        _keep_on_disk(faster)
        return faster

    return decorate


def _keep_on_disk(dispatcher: Any) -> None:
    """Let numba keep what it compiles, where there is a place for that, and do without where there is none.

    numba looks beside the source file, in the user's cache and in NUMBA_CACHE_DIR. What others could
    write, such as a folder in /tmp, is no place: numba loads and runs what it finds there.
    """
    with contextlib.suppress(RuntimeError, OSError, AttributeError):  # such as "no locator available"
        dispatcher.enable_caching()
        files = dispatcher._cache
        files.load_overload = _or_none(files.load_overload)
        files.save_overload = _or_none(files.save_overload)


def _or_none(use: Callable[..., Any]) -> Callable[..., Any]:
    """Make a use of a file return None where the file cannot be read or written."""

    def careful(*arguments: Any) -> Any:
        with contextlib.suppress(OSError):
            return use(*arguments)
        return None

    return careful
