"""Compiled twin of how `bits` replaces old paths by new ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvbound.bitsets.counts import HELD, HITS, UNREAD, UP
from kvbound.bitsets.popcount import popcount
from kvbound.kernels import compiled

Words = NDArray[np.uint64]


@compiled()
def replace_paths(
    rows: Words,
    bits: Words,
    after: Words,
    old_start: Words,
    new_start: Words,
    adopting: Words,
    counts: NDArray[np.int64],
    layer: int,
) -> None:
    """Put new bits in place of a layer's old ones, and change the counts, but for births, accordingly.

    Parameters
    ----------
    rows, after
        Reads, and new bits, (steps, layers, words).
    bits
        Old bits, changed in place, (steps, words).
    old_start, new_start
        Bits of the lanes in tier 0 at the start, before and now, (layers, words).
    adopting
        Lanes whose bits change, (layers, words).
    counts
        See `bitsets.counts`, (steps, layers, 5).
    """
    steps, width = bits.shape
    old_before, new_before = old_start[layer].copy(), new_start[layer].copy()
    for step in range(steps):
        for word in range(width):
            old, new, read = bits[step, word], after[step, layer, word], rows[step, layer, word]
            new = old ^ (old ^ new) & adopting[layer, word]
            was, now = old_before[word], new_before[word]
            if old != new or was != now:
                old_entered, new_entered = old & ~was, new & ~now
                counts[step, layer, HITS] += popcount(read & now) - popcount(read & was)
                counts[step, layer, UP] += popcount(new_entered) - popcount(old_entered)
                counts[step, layer, UNREAD] += popcount(new_entered & ~read) - popcount(old_entered & ~read)
                counts[step, layer, HELD] += popcount(new) - popcount(old)
                bits[step, word] = new
            old_before[word], new_before[word] = old, new
