"""Compiled twins of the functions in `kvbound.solvers.annealing.chains`, for one slot of one chain."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from kvbound.kernels import compiled
from kvbound.solvers.annealing.layout import ABSENT, EXACT, Ints, SearchData

Share: TypeAlias = tuple[int, int, int, int]
"""Tokens of a block that the slot reads, that a move carries, those of them unread, and those born."""


@compiled(forceinline=True)
def _ramped_wait(data: SearchData, counts: Ints, slot: int, n: int, v: int, serving: int) -> np.float64:
    """Return what a facet waits if a tier's latency counts the more, the more items are read there.

    Parameters
    ----------
    n
        Set of tiers whose reads the last one serves.
    serving
        Number of the set of tiers that serve reads.
    """
    tiers, most = len(data.capacity), len(data.ramp) - 1
    wait, items = np.float64(0), 0
    for k in range(tiers - 1):
        if data.diverted[n, k]:
            items += counts[slot, k]
    for k in range(tiers - 1, -1, -1):
        items += counts[slot, tiers + k]
        if k == tiers - 1 or not data.diverted[n, k]:
            items += counts[slot, k]
        if k == 0 and data.has_weights[slot % data.timed_layers]:
            items = most
        if serving >> k & 1:
            upto, below = serving & ((2 << k) - 1), serving & ((1 << k) - 1)
            wait += (data.waits[v, upto] - data.waits[v, below]) * data.ramp[min(items, most)]
    return wait


@compiled(forceinline=True)
def _is_idle(data: SearchData, counts: Ints, slot: int, n: int) -> bool:
    """Whether a slot reads nothing of a tier in a set of diverted ones: it costs what a smaller set does."""
    idle = False
    for k in range(len(data.capacity) - 1):
        idle |= data.diverted[n, k] and counts[slot, k] == 0
    return idle


@compiled(forceinline=True)
def slot_ticks(data: SearchData, counts: Ints, slot: int) -> np.int64:
    """Return the time of a slot with these counts, shape (slots, 3K)."""
    facets, tiers, layer = data.facets, len(data.capacity), slot % data.timed_layers
    kind = layer if len(facets) > 1 else 0
    best = np.inf
    for n in range(facets.shape[1]):
        if _is_idle(data, counts, slot, n):
            continue
        serving = 0
        if data.has_waits:
            helps = False
            for k in range(tiers):
                read = data.keeps[layer] and counts[slot, k] > 0
                extra = data.keeps[layer] and counts[slot, tiers + k] > 0
                away = k < tiers - 1 and data.diverted[n, k]
                weights = k == 0 and data.has_weights[layer]
                if extra or weights or (read and not away) or (k == tiers - 1 and helps):
                    serving |= 1 << k
                helps |= read and data.diverted[n, tiers - 1]
        most = -np.inf
        for v in range(facets.shape[2]):
            ticks = data.weight_ticks[layer, n, v]
            for c in range(3 * tiers):
                ticks += facets[kind, n, v, c] * counts[slot, c]
            if len(data.ramp) > EXACT:
                ticks += _ramped_wait(data, counts, slot, n, v, serving)
            elif data.has_waits:
                ticks += data.waits[v, serving]
            most = max(most, ticks)
            if most >= best:
                break
        best = min(best, most)
    return np.int64(np.rint(best))


@compiled(forceinline=True)
def update_marginal(data: SearchData, counts: Ints, slot: int, now: int, marginal: Ints) -> None:
    """Set what one more miss adds to a slot of time `now` and what one fewer saves."""
    last = len(data.capacity) - 1
    for n in range(2):
        source, target = (0, last) if n == 0 else (last, 0)
        marginal[slot, n] = 0
        if counts[slot, source] > 0:
            counts[slot, source] -= 1
            counts[slot, target] += 1
            change = slot_ticks(data, counts, slot) - now
            marginal[slot, n] = change if n == 0 else -change
            counts[slot, source] += 1
            counts[slot, target] -= 1


@compiled(forceinline=True)
def charge(
    data: SearchData, counts: Ints, slot: int, share: Share, before: int, after: int, sign: int
) -> None:
    """Add the traffic of a block in a slot to the counts, or subtract it."""
    read, carried, unread, grown = share
    tiers = len(data.capacity)
    free = tiers - 1 if data.inclusive else tiers  # moves there cost nothing, births are written there anyway
    if before != ABSENT:
        if read > 0:
            counts[slot, before] += sign * read
        if before != after and after != ABSENT and after != free:
            counts[slot, 2 * tiers + after] += sign * carried
            counts[slot, tiers + before] += sign * unread
    if grown > 0:
        into = after if after != ABSENT else before
        counts[slot, 2 * tiers + into] += sign * grown
        if data.inclusive and into != free:
            counts[slot, 2 * tiers + free] += sign * grown
