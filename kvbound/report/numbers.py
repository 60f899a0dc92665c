"""Numbers in readable form; an unknown one is a dash."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median

from kvbound import units

UNKNOWN = "-"
TIMES = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}
ENERGIES = {"nJ": 1e-9, "uJ": 1e-6, "mJ": 1e-3, "J": 1.0, "kJ": 1e3, "MJ": 1e6}
SIZES = {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}


@dataclass(frozen=True)
class Unit:
    """The common unit of a column."""

    name: str
    factor: float

    @classmethod
    def of(cls, values: Iterable[float | None], known: dict[str, float]) -> Unit:
        """Return the unit that suits the median of the column's values."""
        some = [value for value in values if value]
        middle = median(some) if some else 1.0
        name = max((name for name in known if known[name] <= middle), key=known.__getitem__, default="")
        name = name or next(iter(known))
        return cls(name, known[name])

    def show(self, value: float | None) -> str:
        """Return the number without its unit, to four significant digits."""
        return UNKNOWN if value is None else rate(value / self.factor)


def count(value: float | None) -> str:
    """Format a count: ``10,239``."""
    return UNKNOWN if value is None else f"{value:,.0f}"


def spread(values: Iterable[float]) -> str:
    """Format counts: ``4,096``, or ``0 to 4,096`` where they differ."""
    low, *others = sorted(set(values))
    return f"{count(low)} to {count(others[-1])}" if others else count(low)


def shape(layers: int, prefill_tokens: int, decode_steps: int, tokens: int | None = None) -> str:
    """Format a trace's shape: ``5 layers, 128 + 384 tokens``, and steps where these differ."""
    born = decode_steps if tokens is None else tokens - prefill_tokens
    steps = "" if born == decode_steps else f" in {decode_steps:,} steps"
    return f"{layers:,} layer{'s' * (layers != 1)}, {prefill_tokens:,} + {born:,} tokens{steps}"


def batch(figures: Mapping[str, int]) -> str:
    """Format `kvbound.trace.statistics.batch_figures`: ``4 sequences, births per step up to 512``."""
    phrases = {
        "sequences": "{:,} sequences",
        "births_max": "births per step up to {:,}",
        "live_tokens_max": "tokens at a time up to {:,}",
        "outputs": "{:,} decoded",
    }
    return ", ".join(text.format(figures[name]) for name, text in phrases.items() if name in figures)


def rate(value: float | None) -> str:
    """Format a rate to four significant digits: ``416.4``."""
    if value is None:
        return UNKNOWN
    return f"{value:,.0f}" if 999.95 <= value < 1e9 else f"{value:.4g}"


def at_most(value: float | None) -> str:
    """Format a rate as `rate` does, rounded up: no higher one is possible."""
    if not value:
        return rate(value)
    unit = 10.0 ** (math.floor(math.log10(value)) - 3)
    return rate(math.ceil(value / unit * (1 - 1e-12)) * unit)


def ratio(value: float | None) -> str:
    """Format a ratio: ``1.613x``, ``14.19x``."""
    if value is None:
        return UNKNOWN
    return f"{value:.3f}x" if value < 10 else f"{value:,.4g}x" if value < 10000 else f"{value:,.0f}x"


def share(value: float | None) -> str:
    """Format a share: ``60.2 %``."""
    return UNKNOWN if value is None else f"{100 * value:.1f} %"


def exact_share(value: float) -> str:
    """Format a share that a user gave, to four significant digits: ``6.25 %``."""
    return f"{100 * value:.4g} %"


def gap(value: float | None) -> str:
    """Format a gap; small ones keep two significant digits: ``0.01 %``."""
    if value is None:
        return UNKNOWN
    percent = 100 * abs(value)
    return f"{percent:.2f} %" if percent >= 0.1 or percent < 1e-9 else f"{percent:.2g} %"


def deviation(value: float | None) -> str:
    """Format a relative deviation: ``+4.4 %``, ``-0.003 %`` if small, ``0 %`` if negligible."""
    if value is None:
        return UNKNOWN
    percent = round(100 * value, 1 if abs(value) >= 5e-4 else 3)
    return f"{percent:+.{1 if abs(value) >= 5e-4 else 3}f} %" if percent else "0 %"


def seconds(value: float | None) -> str:
    """Format a time: ``24.59 s``, ``12.3 us``."""
    return UNKNOWN if value is None else units.format_seconds(value)


def joules(value: float | None) -> str:
    """Format an energy: ``12.3 mJ``."""
    return UNKNOWN if value is None else units.format_joules(value)


def capacity(value: float | None) -> str:
    """Format a capacity in the unit that makes it whole, ``23 GiB`` or ``144 GB``; None is unlimited."""
    binary = value is not None and value % 2**30 == 0 and value % 10**9 != 0
    return units.format_bytes(value, binary=binary)


def size(value: float | None) -> str:
    """Format a size: ``144 GB``; None is unknown, not unlimited."""
    return UNKNOWN if value is None else units.format_bytes(value)
