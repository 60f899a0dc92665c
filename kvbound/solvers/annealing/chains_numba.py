"""Compiled twins of the functions in `kvbound.solvers.annealing.chains`, for one slot of one chain."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from kvbound.kernels import compiled
from kvbound.solvers.annealing.layout import ABSENT, Ints, SearchData

Share: TypeAlias = tuple[int, int, int, int]
"""Tokens of a block that the slot reads, that a move carries, those of them unread, and those born."""


@compiled(forceinline=True)
def slot_ticks(data: SearchData, counts: Ints, slot: int) -> np.int64:
    """Return the time of a slot with these counts, shape (slots, 3K)."""
    facets, tiers, layer = data.facets, len(data.capacity), slot % data.timed_layers
    kind = layer if len(facets) > 1 else 0
    best = np.inf
    for n in range(facets.shape[1]):
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
            if data.has_waits:
                ticks += data.waits[v, serving]
            most = max(most, ticks)
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
