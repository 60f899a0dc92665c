"""``kvbound --version``: installed versions, and the cache of generated traces."""

from __future__ import annotations

import importlib.metadata
import platform

from kvbound.cli import console
from kvbound.version import __version__


def show(*, verbose: bool) -> None:
    """Print the versions of kvbound and HiGHS, and with `verbose` also packages, kernel and cache."""
    lines = [("kvbound", __version__), ("HiGHS", _version("highspy"))]
    if verbose:
        from kvbound.kernels import pick
        from kvbound.units import format_bytes
        from kvbound.workloads import cache

        lines += [(name, _version(name)) for name in ("pyomo", "numpy", "scipy", "pandas", "numba")]
        lines += [
            ("python", platform.python_version()),
            ("kernel", pick()),
            ("cache", f"{cache.folder()} (up to {format_bytes(cache.limit())}; KVBOUND_CACHE moves it)"),
        ]
    width = max(len(name) for name, _ in lines)
    console.emit("".join(f"{name:{width}} {value}\n" for name, value in lines))


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
