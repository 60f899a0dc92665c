"""The choice of implementation of the hot loops: numba where it works, else its NumPy twin."""

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
        ``"numpy"``, ``"numba"``, or None for the environment variable KVBOUND_KERNEL or, without it, for
        numba if it can compile.

    Raises
    ------
    UsageError
        The name is unknown, or numba is requested and cannot compile.
    MissingPackageError
        numba is requested and not installed.
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
    """Return the kernel requested here or by KVBOUND_KERNEL, or None; see `pick`.

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
    """Return the reason why numba cannot compile, or None if it can."""
    if importlib.util.find_spec("numba") is None:
        return "it is not installed"
    try:
        import numba
    except Exception as error:  # builds for another NumPy or LLVM may raise anything
        return f"its import fails ({error})"
    return "NUMBA_DISABLE_JIT is set" if numba.config.DISABLE_JIT else None


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Decorate a function to be compiled by numba where possible; elsewhere it runs as Python.

    Parameters
    ----------
    options
        Options of ``numba.njit``, besides caching and the release of the interpreter's lock.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        if _trouble():
            return function
        import numba

        dispatcher = numba.njit(nogil=True, **options)(function)
        _cache_on_disk(dispatcher)
        return dispatcher

    return decorate


def _cache_on_disk(dispatcher: Any) -> None:
    """Let numba cache compiled code on disk if it has a suitable folder, and else compile anew.

    numba tries the folder of the source file, the user's cache and NUMBA_CACHE_DIR. A folder that others can
    write to, such as one in /tmp, would be unsafe, as numba runs the code that it finds there.
    """
    with contextlib.suppress(RuntimeError, OSError, AttributeError):  # such as "no locator available"
        dispatcher.enable_caching()
        files = dispatcher._cache
        files.load_overload = _or_none(files.load_overload)
        files.save_overload = _or_none(files.save_overload)


def _or_none(use: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function that uses files to return None where they cannot be read or written."""

    def careful(*arguments: Any) -> Any:
        with contextlib.suppress(OSError):
            return use(*arguments)
        return None

    return careful
