"""Dense reads: every step reads all tokens that exist and were born before it, as full attention does.

The reads follow from births and ends, so that no rows need be kept; what needs bits makes them once for all
layers.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Final, overload

import numpy as np
from numpy.typing import NDArray

from kvbound.errors import UsageError
from kvbound.trace import bits
from kvbound.trace.timeline import Timeline

Ints = NDArray[np.int64]
Row = NDArray[np.uint8]

MOST_BYTES: Final = 1 << 30
MOST_BYTES_IN_ALL: Final = 8 * 10**9
"""Bytes up to which a layer's rows are made, and those of all layers counted apart: methods that list reads
take hours beyond."""


class DenseRows(Sequence[Row]):
    """The packed rows of layers that read all past tokens: one array for all of them, made when first used.

    Parameters
    ----------
    timeline
        Births and ends of the tokens, in every layer.
    layers
        Layers L.
    """

    def __init__(self, timeline: Timeline, layers: int) -> None:
        self.timeline, self.layers = timeline, layers

    def __len__(self) -> int:
        """Return the number of layers."""
        return self.layers

    @overload
    def __getitem__(self, layer: int) -> Row: ...
    @overload
    def __getitem__(self, layer: slice) -> tuple[Row, ...]: ...
    def __getitem__(self, layer: int | slice) -> Row | tuple[Row, ...]:
        """Return a layer's rows, uint8 (steps, row_bytes(tokens)); the same array for every layer."""
        if isinstance(layer, slice):
            return tuple(self._rows for _ in range(self.layers)[layer])
        _ = range(self.layers)[layer]
        return self._rows

    def __iter__(self) -> Iterator[Row]:
        """Yield the rows of every layer."""
        return iter(self[:])

    @property
    def nbytes(self) -> int:
        """Bytes that a layer's rows would take."""
        return self.timeline.steps * bits.row_bytes(self.timeline.tokens)

    def stream(self) -> Iterator[Row]:
        """Yield a layer's rows step by step, (bytes,), always the same array: to be copied where kept."""
        timeline = self.timeline
        row = np.zeros(bits.row_bytes(timeline.tokens), np.uint8)
        start = np.packbits(timeline.ends[: timeline.prefill_tokens] >= 0, bitorder="little")
        row[: len(start)] = start
        past, stay = timeline.past.tolist(), timeline.all_stay
        for step, (first, end) in enumerate(itertools.pairwise(past)):
            yield row
            if end == first + 1:
                row[first >> 3] |= 1 << (first & 7)
            elif end > first:
                born = np.arange(first, end)
                np.bitwise_or.at(row, born >> 3, _bit(born))
            if not stay and len(ended := timeline.ending(step)):
                np.bitwise_and.at(row, ended >> 3, ~_bit(ended))

    @cached_property
    def sha256(self) -> str:
        """SHA-256 (hex) of a layer's rows, of which no more than one is in memory."""
        digest = hashlib.sha256()
        for row in self.stream():
            digest.update(row.data)
        return digest.hexdigest()

    def require_bits(self) -> None:
        """Check that the rows are few enough for what lists reads.

        Raises
        ------
        UsageError
            They are too many.
        """
        if self.nbytes > MOST_BYTES or self.layers * self.nbytes > MOST_BYTES_IN_ALL:
            size = (
                f"{self.layers:,} layers, {self.timeline.steps:,} steps and {self.timeline.tokens:,} tokens"
            )
            needed = f"{self.layers * self.nbytes / 1e9:.1f} GB"
            how = "only dual and pricing, on single tokens, do without"
            raise UsageError(f"the bits of dense reads of {size} take {needed}: {how}")

    @cached_property
    def _rows(self) -> Row:
        self.require_bits()
        steps, tokens = self.timeline.steps, self.timeline.tokens
        rows = np.empty((steps, bits.row_bytes(tokens)), np.uint8)
        for step, row in enumerate(self.stream()):
            rows[step] = row
        rows.setflags(write=False)
        return rows


def read_at(timeline: Timeline, step: int) -> Ints:
    """Return the ascending ids that a step reads."""
    ids = np.arange(timeline.past[step])
    return ids if timeline.all_stay else ids[timeline.ends[: len(ids)] >= step]


def wrong_dense_read(reads: Timeline, allowed: Timeline) -> tuple[int, int] | None:
    """Return the first step, and token, of a dense read that another timeline does not allow, or None.

    Parameters
    ----------
    reads
        The timeline that the reads follow from.
    allowed
        The same births, with ends that are no later.
    """
    early = np.flatnonzero((allowed.ends < reads.ends) & (allowed.ends < reads.steps - 1))
    early = early[reads.ends[early] > reads.born[early]]  # read at all
    first = np.maximum(allowed.ends[early], reads.born[early]) + 1
    if not len(early) or (step := int(first.min())) >= reads.steps:
        return None
    return step, int(early[(first <= step) & (reads.ends[early] >= step)][0])


def _bit(ids: Ints) -> Row:
    return (1 << (ids & 7)).astype(np.uint8)
