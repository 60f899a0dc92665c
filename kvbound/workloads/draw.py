"""Uniform draws without replacement, and read sets that change by swaps.

Draws depend only on comparisons of random keys, so that a seed gives the same reads on every machine and
with every version of NumPy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from kvbound.trace import bits

Ids = NDArray[np.int64]


def draw(pool: Ids, first: int, second: int, rng: np.random.Generator) -> tuple[Ids, Ids]:
    """Draw two disjoint uniform samples from `pool` (ids,), of sizes `first` and `second`."""
    total = first + second
    if not total:
        return pool[:0], pool[:0]
    keys = rng.random(len(pool))
    chosen = np.flatnonzero(keys <= np.partition(keys, total - 1)[total - 1])[:total]
    if first and second:
        chosen = chosen[np.argpartition(keys[chosen], first - 1)]
    return pool[chosen[:first]], pool[chosen[first:]]


def swapping_rows(
    prefill_tokens: int,
    counts: Sequence[int],
    lowest: Sequence[int],
    variation: float,
    rng: np.random.Generator,
    *,
    oldest_out: bool,
) -> Iterator[NDArray[np.uint8]]:
    """Yield packed rows of one layer in blocks (rows, bytes): each set grows, and some ids are replaced.

    The window of step j are the ids from ``lowest[j]`` to ``prefill_tokens + j - 1``. The first set is a
    uniform sample of the window. Each later set grows to ``counts[j]`` ids (which never decrease) by random
    ids of the window. Then a uniform number of ids, from 0 to ``variation`` times the size, is replaced by
    random ids of the window that were not in the set: the oldest ones if `oldest_out`, else random ones.
    """
    steps = len(counts)
    width = bits.row_bytes(prefill_tokens + steps)
    present = np.zeros(8 * width, np.bool_)
    size = 0
    for block in bits.blocks(steps):
        rows = np.empty((block.stop - block.start, width), np.uint8)
        for step in range(block.start, block.stop):
            token, low = prefill_tokens + step, lowest[step]
            free = np.flatnonzero(~present[low:token])
            free += low
            grow, size = counts[step] - size, counts[step]
            swaps = _up_to(int(variation * size), rng) if step else 0
            swaps = min(swaps, len(free) - grow)
            grown, added = draw(free, grow, swaps, rng)
            present[grown] = True
            if swaps:
                held = np.flatnonzero(present[:token])
                removed = held[:swaps] if oldest_out else draw(held, swaps, 0, rng)[0]
                present[removed] = False
                present[added] = True
            rows[step - block.start] = bits.pack(present)
        yield rows


def _up_to(most: int, rng: np.random.Generator) -> int:
    """Return a uniform integer from 0 to `most`."""
    return int(rng.random() * (most + 1))
