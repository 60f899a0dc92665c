"""The future of a trace, for oracle policies."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvbound.trace import Trace, bits
from kvbound.trace.timeline import Timeline

_ROWS = 64


class Future:
    """The future reads of one layer, and its births and ends.

    Next uses are tabulated for one block of steps at a time, backwards from those at the block's end, so that
    memory stays proportional to blocks x tokens and one pass over the bits suffices.

    Parameters
    ----------
    trace, layer
        The trace, and the layer's index.
    timeline
        Births and ends in the layer; by default those of the trace.

    Attributes
    ----------
    timeline
        Births and ends of all tokens in the layer.
    """

    def __init__(self, trace: Trace, layer: int, timeline: Timeline | None = None) -> None:
        self._rows = trace.rows[layer]
        self._tokens, self._steps = trace.tokens, trace.decode_steps
        self._trace, self._layer = trace, layer
        self.timeline = timeline or trace.timeline
        self._at_end: NDArray[np.int32] | None = None
        self._block, self._table = -1, np.zeros((0, 0), np.int32)
        self.now = -1

    def reads(self, ahead: int = 1) -> NDArray[np.int64]:
        """Ids read `ahead` steps from now, ascending; empty after the last step."""
        step = self.now + ahead
        return self._trace.reads(step, self._layer) if step < self._steps else np.zeros(0, np.int64)

    def next_use(self, step: int | None = None) -> NDArray[np.int32]:
        """Step that next reads each token after `step` (by default now), or the number of steps if none does.

        Shape (tokens,). A step of -1 means before the first one.
        """
        row = (self.now if step is None else step) + 1
        if row >= self._steps:
            return np.full(self._tokens, self._steps, np.int32)
        if row // _ROWS != self._block:
            self._open(row // _ROWS)
        return self._table[row % _ROWS]

    def _open(self, block: int) -> None:
        """Tabulate a block: entry (row, token) is the first step from that row on that reads the token."""
        if self._at_end is None:
            self._at_end = self._boundaries()
        first = block * _ROWS
        read = self._unpack(block)
        table = np.empty((len(read), self._tokens), np.int32)
        known = self._at_end[block]
        for row in range(len(read) - 1, -1, -1):
            known = np.where(read[row], np.int32(first + row), known)
            table[row] = known
        self._block, self._table = block, table

    def _boundaries(self) -> NDArray[np.int32]:
        """First step after each block's end that reads each token, shape (blocks, tokens)."""
        blocks = -(-self._steps // _ROWS)
        ends = np.full((blocks, self._tokens), self._steps, np.int32)
        for block in range(blocks - 1, 0, -1):
            read = self._unpack(block)
            first = read.argmax(axis=0).astype(np.int32)
            here = read[first, np.arange(self._tokens)]
            ends[block - 1] = np.where(here, first + block * _ROWS, ends[block])
        return ends

    def _unpack(self, block: int) -> NDArray[np.bool_]:
        """The block's reads of past tokens, shape (rows, tokens)."""
        packed = self._rows[block * _ROWS : (block + 1) * _ROWS]
        past = self.timeline.past[block * _ROWS :][: len(packed) + 1]
        return bits.unpack(bits.without(packed, past[:-1], past[1:]), self._tokens).view(np.bool_)
