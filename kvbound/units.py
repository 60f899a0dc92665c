"""Sizes, rates, times and shares as people write them: ``23GiB``, ``450GB/s``, ``10us``, ``60%``.

SI prefixes are powers of 1,000 and binary ones (``GiB``) powers of 1,024. A capital B is a byte;
a small b would be a bit and is refused, and so is a bare prefix such as ``24G``. Values are scaled
in decimal arithmetic, so that ``10us`` is the double nearest to 1e-5.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Final

Quantity = str | int | float

_SI: Final = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15}
_BINARY: Final = {p + "i": 2 ** (10 * (n + 1)) for n, p in enumerate("KMGTP")}
_BYTES: Final = {p + "B": Decimal(f) for p, f in (_SI | _BINARY).items()}
_BANDWIDTHS: Final = {f"{unit}/s": factor for unit, factor in _BYTES.items()}
_SECONDS: Final = {
    "ns": Decimal("1e-9"), "us": Decimal("1e-6"), "µs": Decimal("1e-6"), "μs": Decimal("1e-6"),
    "ms": Decimal("1e-3"), "s": Decimal(1), "min": Decimal(60), "h": Decimal(3600),
}  # fmt: skip
_SHARES: Final = {"%": Decimal("0.01")}
_WRITTEN: Final = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?)\s*(\S*)", re.ASCII)


class UnitError(ValueError):
    """A quantity nobody can read; the message says what was expected and what was found."""


def parse_bytes(value: Quantity) -> float:
    """Bytes from a number or from text such as ``23GiB``, ``144 GB``, ``4096B``; never negative."""
    return _parse(value, _BYTES, "a size such as 23GiB, 144GB or a number of bytes")


def parse_bandwidth(value: Quantity) -> float:
    """Bytes per second from a number or from text such as ``450GB/s``; never negative."""
    return _parse(value, _BANDWIDTHS, "a bandwidth such as 450GB/s or a number of bytes per second")


def parse_seconds(value: Quantity) -> float:
    """Seconds from a number or from text such as ``80ns``, ``10us``, ``30ms``; never negative."""
    return _parse(value, _SECONDS, "a time such as 10us, 30ms or a number of seconds")


def parse_share(value: Quantity) -> float:
    """Fraction in [0, 1] from a number or from text such as ``60%``."""
    expected = "a share such as 60% or a number from 0 to 1"
    share = _parse(value, _SHARES, expected)
    if share > 1:
        raise UnitError(f"{expected}, not {value!r}")
    return share


def is_share(value: object) -> bool:
    """Whether `value` is text that ends in a percent sign."""
    return isinstance(value, str) and value.rstrip().endswith("%")


def is_bare_fraction(value: object) -> bool:
    """Whether `value` is a number above 0 and below 1, or text of one, without a unit."""
    try:
        return 0 < float(value) < 1  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False


def format_bytes(size: float | None, *, binary: bool = False) -> str:
    """``144 GB``, or ``23 GiB`` when `binary`; four significant digits; None is ``unlimited``."""
    if size is None:
        return "unlimited"
    prefixes = _BINARY if binary else {p: f for p, f in _SI.items() if p not in ("", "K")}
    return _format(size, {"B": 1.0} | {f"{p}B": float(f) for p, f in prefixes.items()})


def format_bandwidth(rate: float) -> str:
    """``450 GB/s``: four significant digits."""
    return f"{format_bytes(rate)}/s"


def format_seconds(seconds: float) -> str:
    """``24.59 s``, ``12.3 us``: four significant digits, never minutes or hours."""
    return _format(seconds, {u: float(_SECONDS[u]) for u in ("ns", "us", "ms", "s")})


def format_share(share: float) -> str:
    """``60 %``: three significant digits."""
    return f"{100 * share:.3g} %"


def _parse(value: Quantity, units: dict[str, Decimal], expected: str) -> float:
    number = math.nan
    if isinstance(value, str):
        found = _WRITTEN.fullmatch(value.strip())
        if found and (found[2] == "" or found[2] in units):
            number = float(Decimal(found[1]) * units.get(found[2], Decimal(1)))
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        number = float(value) if abs(value) < 1e300 else math.inf
    if not (math.isfinite(number) and number >= 0):
        raise UnitError(f"{expected}, not {value!r}")
    return number


def _format(value: float, units: dict[str, float]) -> str:
    # ascending; a value that rounds up to the next unit is shown there
    unit = next(iter(units)) if value else list(units)[-1 if "s" in units else 0]
    for name, factor in units.items():
        if abs(value) >= 0.99995 * factor:
            unit = name
    shown = value / units[unit]
    return f"{shown:,.0f} {unit}" if abs(shown) >= 9999.5 else f"{shown:.4g} {unit}"
