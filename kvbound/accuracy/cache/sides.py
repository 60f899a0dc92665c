"""K or V of all tokens as each query reads them: zones of tokens, each stored in one format."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kvbound.accuracy.formats import CODECS, Codec, Floats, round_trip
from kvbound.accuracy.formats.groups import Group


@dataclass(frozen=True)
class Zone:
    """Tokens that queries read in one format.

    Parameters
    ----------
    values
        Values of all tokens as they are read in this format, shape (tokens, width).
    low, high
        Query t reads the tokens from ``low[t]`` to below ``high[t]`` here, shape (tokens,).
    """

    values: Floats
    low: NDArray[np.int64]
    high: NDArray[np.int64]


class Side(Protocol):
    """How K, or V, is stored."""

    def zones(self, rows: Floats) -> list[Zone]:
        """Return the zones from which queries read; together they hold tokens 0 to t for query t.

        Parameters
        ----------
        rows
            K or V of every token with all its KV heads, shape (tokens, width).

        Raises
        ------
        InputError
            The format cannot store the values, or a row is not a whole number of its blocks.
        """
        ...

    def stored_bytes(self, tokens: int, width: int) -> int:
        """Return the bytes that the first `tokens` tokens take once the last of them is stored."""
        ...


@dataclass(frozen=True)
class Span:
    """The most recent tokens, the query's own included: a number of them, or a share rounded up.

    Parameters
    ----------
    tokens
        A number from 1 on, or a share as a Fraction below 1.
    """

    tokens: int | Fraction

    def of(self, count: int) -> int:
        """Return how many of `count` tokens are recent."""
        if isinstance(self.tokens, int):
            return min(self.tokens, count)
        return math.ceil(self.tokens * count)


@dataclass(frozen=True)
class Ages:
    """Formats by age: the first tokens, the most recent ones, the rest.

    A token is written in the format of the most recent ones; when it gets older, what is stored is converted
    to the next format, as data that moves to another tier. The first tokens keep their format.

    Parameters
    ----------
    rest
        Format of tokens that are neither first nor recent.
    recent
        Spans with their formats, the shortest first.
    first
        Number of first tokens and their format, or None.
    """

    rest: Codec
    recent: tuple[tuple[Span, Codec], ...] = ()
    first: tuple[int, Codec] | None = None

    def zones(self, rows: Floats) -> list[Zone]:
        """See `Side.zones`."""
        count, stored, found = len(rows), rows, []
        edges = np.array([self._edges(n) for n in range(1, count + 1)], np.int64).reshape(count, -1)
        if self.first:
            found.append(Zone(round_trip(self.first[1], rows), edges[:, 0] * 0, edges[:, -1]))
        for n, codec in enumerate(self._codecs):
            stored = round_trip(codec, stored)
            found.append(Zone(stored, edges[:, n + 1], edges[:, n]))
        return [zone for zone in found if (zone.low < zone.high).any()]

    def stored_bytes(self, tokens: int, width: int) -> int:
        """See `Side.stored_bytes`."""
        edges = self._edges(tokens)
        total = edges[-1] * row_bytes(self.first[1], width) if self.first else 0
        for n, codec in enumerate(self._codecs):
            total += (edges[n] - edges[n + 1]) * row_bytes(codec, width)
        return total

    @property
    def _codecs(self) -> list[Codec]:
        return [*(codec for _, codec in self.recent), self.rest]

    def _edges(self, count: int) -> list[int]:
        """Return the ends of the zones of `count` tokens, the most recent ones' first."""
        start = min(self.first[0], count) if self.first else 0
        inner = [max(start, count - span.of(count)) for span, _ in self.recent]
        return [count, *inner, start]


@dataclass(frozen=True)
class Kivi:
    """Integers of 2 or 4 bits with zero points as in KIVI (arXiv 2402.02750).

    K has a group of `group` neighbouring tokens for each channel, V one of `group` neighbouring channels for
    each token. The newest tokens are kept in float16: of V the last `residual` before the query's own, of K
    those since the last multiple of `residual`; the query's own is always among them.

    Parameters
    ----------
    bits
        Bits of an integer: 2 or 4.
    group, residual
        Values of a group, and tokens kept in float16, for K a multiple of `group`.
    channels
        Whether groups run along tokens, as for K.
    """

    bits: int
    group: int
    residual: int
    channels: bool

    def zones(self, rows: Floats) -> list[Zone]:
        """See `Side.zones`."""
        before = np.arange(len(rows))
        quantized = self._quantized(before)
        recent = round_trip(CODECS["f16"], rows)
        zones = [Zone(recent, quantized, before + 1)]
        if (last := int(quantized[-1])) > 0:
            old = recent.copy()
            old[:last] = self._stored(recent[:last])
            zones.insert(0, Zone(old, quantized * 0, quantized))
        return zones

    def stored_bytes(self, tokens: int, width: int) -> int:
        """See `Side.stored_bytes`."""
        quantized = int(self._quantized(np.array([tokens]))[0])
        old = quantized * width // self.group * self._codec.bytes
        return old + (tokens - quantized) * row_bytes(CODECS["f16"], width)

    @property
    def _codec(self) -> Codec:
        return Group(f"kivi{self.bits}-g{self.group}", self.bits, self.group, zero=True)

    def _stored(self, rows: Floats) -> Floats:
        if self.channels:
            return round_trip(self._codec, np.ascontiguousarray(rows.T)).T
        return round_trip(self._codec, rows)

    def _quantized(self, before: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how many of the stored tokens are quantized."""
        if self.channels:
            return before // self.residual * self.residual
        return np.maximum(before - self.residual, 0)


def row_bytes(codec: Codec, width: int) -> int:
    """Return the bytes of a row of `width` values."""
    return width // codec.values * codec.bytes
