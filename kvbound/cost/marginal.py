"""The cost of a further miss in a slot: how many are free, and where the slope of the slot time changes.

A miss is a read that the slow tier serves. The slot time is convex in the number of misses, and constant up
to some number: these are free, because the slow tier serves them while another resource is busy.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from kvbound.cost.slot import SlotCost
from kvbound.cost.traffic import Columns, fixed_traffic
from kvbound.instance import Instance

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def free_misses(instance: Instance, writes: Floats, cheap: float = 0.0) -> Ints:
    """Return how many reads of each slot tier 1 can serve at no cost to the objective, (steps, layers).

    For single tokens and two tiers with inclusive copies; latencies count.

    Parameters
    ----------
    writes
        Items written into tier 0 in each slot, (steps, layers).
    cheap
        Misses also count as free if all together take at most this share of the time of the most expensive
        miss.
    """
    cost, size = SlotCost.of(instance), instance.item_bytes
    reads = instance.trace.past_counts()
    traffic = fixed_traffic(instance)
    columns = Columns.of(traffic)
    columns.writes[..., 0] = writes * size

    def times(misses: Ints) -> Floats:
        columns.reads[..., 0], columns.reads[..., 1] = (reads - misses) * size, misses * size
        return cost.times(traffic)

    low, high = np.zeros_like(reads), reads.copy()
    dearest = times(reads) - times(np.maximum(reads - 1, 0))
    least = times(low) * (1 + 1e-12) + cheap * dearest
    while np.any(low < high):
        middle = (low + high + 1) // 2
        free = times(middle) <= least
        low, high = np.where(free, middle, low), np.where(free, high, middle - 1)
    return low


def breakpoints(constant: Floats, slope: Floats, reads: Ints) -> Ints:
    """Return how many misses are free in each slot if its time is a maximum of affine functions of them.

    Parameters
    ----------
    constant
        Each function's value without misses, in seconds, shape (facets, steps, layers).
    slope
        Each function's seconds per miss, in a shape that broadcasts with that of `constant`.
    reads
        Largest number of misses, shape (steps, layers).
    """
    top, steepest = constant.max(axis=0), slope.max(initial=0.0)
    rising = np.flatnonzero(slope.max(axis=(1, 2)) > 1e-9 * steepest)
    if not rising.size:
        return reads.copy()
    seconds = np.where(slope[rising] > 0, slope[rising], steepest)  # without KV there are no misses
    free = ((top - constant[rising]) / seconds).min(axis=0)
    return np.clip(np.floor(free + 1e-9), 0, reads).astype(np.int64)


def chords(times: Callable[[Floats], Floats], reads: int) -> list[tuple[float, float]]:
    """Return slope and constant of each chord of a slot's time that lies above it between two integers.

    The time is convex in the number of misses, which is an integer. A chord between neighbouring integers is
    therefore a lower bound at all integers, and a stronger one than the time itself where its slope changes
    between the two.

    Parameters
    ----------
    times
        The function from numbers of misses to slot times.
    reads
        Largest number of misses.
    """
    misses = np.arange(reads + 1, dtype=float)
    ends, between = times(misses), times(misses[:-1] + 0.5)
    slopes = np.diff(ends)
    bends = np.flatnonzero(ends[:-1] + slopes / 2 > between * (1 + 1e-9))
    return [(float(slopes[m]), float(ends[m] - slopes[m] * m)) for m in bends]
