"""Sizes, rates, times and shares with units: ``23GiB``, ``450GB/s``, ``10us``, ``60%``.

SI prefixes are powers of 1,000, binary ones (``GiB``) powers of 1,024. A capital B is a byte; a small b,
which would be a bit, is refused, and so is a bare prefix such as ``24G``. Values are scaled exactly: sizes
are fractions until they are rounded to whole bytes, and ``10us`` is the double nearest to 1e-5.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from fractions import Fraction
from numbers import Integral, Real
from typing import Final

Quantity = str | int | float | Decimal | Fraction

_SI: Final = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15}
_BINARY: Final = {p + "i": 2 ** (10 * (n + 1)) for n, p in enumerate("KMGTP")}
_BYTES: Final = {p + "B": Fraction(f) for p, f in (_SI | _BINARY).items()}
_BANDWIDTHS: Final = {f"{unit}/s": factor for unit, factor in _BYTES.items()}
_SECONDS: Final = {
    "ns": Fraction("1e-9"), "us": Fraction("1e-6"), "µs": Fraction("1e-6"), "μs": Fraction("1e-6"),
    "ms": Fraction("1e-3"), "s": Fraction(1), "min": Fraction(60), "h": Fraction(3600),
}  # fmt: skip
_SHARES: Final = {"%": Fraction("0.01")}
_LONGEST: Final = 200
# no character can match two adjacent parts, so that matching takes linear time
_WRITTEN: Final = re.compile(
    r"([+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?)\s*([A-Za-zµμ%/]*)"
)
_SHOWN: Final = 60


class UnitError(ValueError):
    """An invalid quantity; the message says what was expected and what was found."""


class Written(float):
    """A float that keeps the digits of its text.

    As a float it is the nearest double; `parse_bytes` reads the digits.
    """

    text: str

    def __new__(cls, text: str | float) -> Written:
        """Make one from `text`; overflow gives infinity, which no reader accepts."""
        number = super().__new__(cls, text)
        number.text = str(text)
        return number


def parse_bytes(value: Quantity) -> Fraction:
    """Return exact bytes >= 0 from a number or from text such as ``23GiB``, ``144 GB``, ``4096B``."""
    return _parse(value, _BYTES, "a size such as 23GiB, 144GB or a number of bytes")


def parse_bandwidth(value: Quantity) -> float:
    """Return bytes per second >= 0 from a number or from text such as ``450GB/s``."""
    return float(_parse(value, _BANDWIDTHS, "a bandwidth such as 450GB/s or a number of bytes per second"))


def parse_seconds(value: Quantity) -> float:
    """Return seconds >= 0 from a number or from text such as ``80ns``, ``10us``, ``30ms``."""
    return float(_parse(value, _SECONDS, "a time such as 10us, 30ms or a number of seconds"))


def parse_share(value: Quantity) -> float:
    """Return a share in [0, 1] from a number or from text such as ``60%``."""
    return float(exact_share(value))


def exact_share(value: Quantity) -> Fraction:
    """Return `parse_share` without rounding; a float stands for its shortest decimal representation."""
    expected = "a share such as 60% or a number from 0 to 1"
    decimal = repr(float(value)) if isinstance(value, float) and not isinstance(value, Written) else value
    share = _parse(decimal, _SHARES, expected)
    if share > 1:
        raise UnitError(f"{expected}, not {show(value)}")
    return share


def whole_down(size: Quantity) -> int:
    """Return a size rounded down to whole bytes, as for capacities."""
    return math.floor(parse_bytes(size))


def whole_up(size: Quantity) -> int:
    """Return a size rounded up to whole bytes, as for weights."""
    return math.ceil(parse_bytes(size))


def is_share(value: object) -> bool:
    """Whether `value` is text that ends in a percent sign."""
    return isinstance(value, str) and value.rstrip().endswith("%")


def is_bare_fraction(value: object) -> bool:
    """Whether `value` is a number above 0 and below 1, or its text, without a unit."""
    try:
        return 0 < float(value) < 1  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return False


def format_bytes(size: float | None, *, binary: bool = False) -> str:
    """Format bytes to four significant digits: ``144 GB``, or ``23 GiB`` if `binary`; None: ``unlimited``."""
    if size is None:
        return "unlimited"
    prefixes = _BINARY if binary else {p: f for p, f in _SI.items() if p not in ("", "K")}
    return _format(size, {"B": 1.0} | {f"{p}B": float(f) for p, f in prefixes.items()})


def format_bandwidth(rate: float) -> str:
    """Format a bandwidth to four significant digits: ``450 GB/s``."""
    return f"{format_bytes(rate)}/s"


def format_seconds(seconds: float) -> str:
    """Format a time to four significant digits, without minutes and hours: ``24.59 s``, ``12.3 us``."""
    return _format(seconds, {u: float(_SECONDS[u]) for u in ("ns", "us", "ms", "s")})


def format_joules(joules: float) -> str:
    """Format an energy to four significant digits: ``12.3 mJ``."""
    known = {"nJ": 1e-9, "uJ": 1e-6, "mJ": 1e-3, "J": 1.0, "kJ": 1e3, "MJ": 1e6}
    return _format(joules, known) if joules else "0 J"


def format_share(share: float) -> str:
    """Format a share to three significant digits: ``60 %``."""
    return f"{100 * share:.3g} %"


def show(value: object) -> str:
    """Return the text of a value, in at most 60 characters."""
    try:
        text = value.text if isinstance(value, Written) else repr(value)
    except (ValueError, RecursionError):  # thousands of digits, or of nested levels
        text = f"a value of type {type(value).__name__}, too long to print"
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def _parse(value: Quantity, units: dict[str, Fraction], expected: str) -> Fraction:
    found = _exact(value, units)
    # all but sizes are converted to doubles, which fractions beyond their range would not allow
    if found is None or not 0 <= found < 10**300:
        raise UnitError(f"{expected}, not {show(value)}")
    return found


def _exact(value: object, units: dict[str, Fraction]) -> Fraction | None:
    """Return `value` as a fraction, or None if it is not a number or its unit is unknown."""
    if isinstance(value, Written):
        value = value.text
    if isinstance(value, str):
        found = _WRITTEN.fullmatch(value.strip()) if len(value) <= _LONGEST else None
        if found is None or (found[2] and found[2] not in units):
            return None
        return Fraction(found[1]) * units.get(found[2], 1)
    if isinstance(value, bool) or not isinstance(value, Real | Decimal):
        return None
    if isinstance(value, Integral):
        return Fraction(int(value))  # NumPy integers would keep their width
    try:
        return Fraction(value if isinstance(value, Fraction | Decimal) else float(value))
    except (ValueError, OverflowError):  # not a number, or infinite
        return None


def _format(value: float, units: dict[str, float]) -> str:
    # units ascend; a value that rounds up to the next unit is shown in it
    unit = next(iter(units)) if value else list(units)[-1 if "s" in units else 0]
    for name, factor in units.items():
        if abs(value) >= 0.99995 * factor:
            unit = name
    shown = value / units[unit]
    return f"{shown:,.0f} {unit}" if abs(shown) >= 9999.5 else f"{shown:.4g} {unit}"
