"""What one more miss costs a slot."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvbound.cost.slot import SlotCost
from kvbound.instance import Instance

Ints = NDArray[np.int64]


def free_misses(instance: Instance, writes: NDArray[np.float64], cheap: float = 0.0) -> Ints:
    """How many reads of each slot tier 1 can serve without the slot taking longer, (steps, layers).

    Parameters
    ----------
    writes
        Items written into tier 0 in each slot, (steps, layers).
    cheap
        Count as free what takes at most this share of the time that a miss takes at the most.
    """
    cost, size = SlotCost.of(instance), instance.item_bytes
    reads = instance.trace.past_counts()
    q = np.zeros((*reads.shape, 6))
    q[..., 2], q[..., 4], q[..., 5] = instance.llm.weight_reads, writes * size, size

    def times(misses: Ints) -> NDArray[np.float64]:
        q[..., 0], q[..., 1] = (reads - misses) * size, misses * size
        return cost.times(q)

    low, high = np.zeros_like(reads), reads.copy()
    dearest = times(reads) - times(np.maximum(reads - 1, 0))
    least = times(low) * (1 + 1e-12) + cheap * dearest
    while np.any(low < high):
        middle = (low + high + 1) // 2
        free = times(middle) <= least
        low, high = np.where(free, middle, low), np.where(free, high, middle - 1)
    return low
