"""Compiled twins of the item paths in `paths_two_tier`: same numbers, word by word."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvbound.bitsets.popcount import _ONE, popcount
from kvbound.kernels import compiled

Floats = NDArray[np.float64]
Words = NDArray[np.uint64]

BLOCK = 16
"""Words swept together: their rows share cache lines, their values stay in the first-level cache."""

_NONE = np.uint64(0)


@compiled()
def _bear(
    step: int, born: NDArray[np.int32], hold: float, birth: float, d: Floats, gain: Floats
) -> np.uint64:
    """Let the lanes born in this step choose a tier; return who chose tier 0."""
    chosen = _NONE
    for lane in range(64):
        if born[lane] == step:
            x = d[lane] + hold
            if x + birth < 0:
                gain[lane] += x + birth
                chosen |= _ONE << np.uint64(lane)
            d[lane] = -hold
    return chosen


@compiled()
def _pass(
    bits: np.uint64, hold: float, miss: float, up: float, unread: float, drop: float, d: Floats, gain: Floats
) -> tuple[np.uint64, np.uint64]:
    """Take one step of 64 lanes; return who is pulled into tier 0 and who stays there."""
    pulled, kept = _NONE, _NONE
    for lane in range(64):
        read = (bits >> np.uint64(lane)) & _ONE
        x = d[lane] + hold
        floor = up if read else unread
        pulled |= np.uint64(x < floor) << np.uint64(lane)
        kept |= np.uint64(x < drop) << np.uint64(lane)
        gain[lane] += min(x - floor, 0.0)
        d[lane] = max(min(x, drop), floor) - (miss if read else 0.0)
    return pulled, kept


@compiled()
def backward(
    rows: Words,
    born: NDArray[np.int32],
    prices: Floats,
    value: Floats,
    gain: Floats,
    pull: Words,
    keep: Words,
    first: int,
    last: int,
) -> None:
    """Sweep the words first..last-1 from the last step to the first; see `paths_two_tier.sweep`."""
    steps, _, width = rows.shape
    masks = pull.size > 0
    low, high = np.empty(BLOCK, np.int64), np.empty(BLOCK, np.int64)
    for start in range(first, last, BLOCK):
        stop = min(start + BLOCK, last)
        for word in range(start, stop):
            births = born[word // width, word % width * 64 : word % width * 64 + 64]
            low[word - start], high[word - start] = births.min(), births.max()
        for step in range(steps - 1, -1, -1):
            for word in range(start, stop):
                if step < low[word - start]:
                    continue  # nobody is born yet
                layer, w = word // width, word % width
                lanes = slice(64 * w, 64 * w + 64)
                hold, miss, up, unread, drop, birth = prices[:, step, layer]
                d, cost, chosen = value[layer, lanes], gain[layer, lanes], _NONE
                if step <= high[word - start]:
                    chosen = _bear(step, born[layer, lanes], hold, birth, d, cost)
                pulled, kept = _pass(rows[step, layer, w], hold, miss, -up, -unread, drop, d, cost)
                if masks:
                    pull[step, layer, w] = pulled | chosen
                    keep[step, layer, w] = kept


@compiled()
def forward(
    rows: Words,
    pull: Words,
    keep: Words,
    state: Words,
    counts: NDArray[np.int64],
    after: Words,
    first: int,
    last: int,
) -> None:
    """Follow the best paths of the words first..last-1; counts begin with the first one's layer."""
    steps, _, width = rows.shape
    base = first // width
    for start in range(first, last, BLOCK):
        stop = min(start + BLOCK, last)
        for step in range(steps):
            for word in range(start, stop):
                layer, w = word // width, word % width
                held = state[layer, w]
                read, pulled = rows[step, layer, w], pull[step, layer, w]
                enter, before = pulled & ~held, held
                held = state[layer, w] = pulled | (keep[step, layer, w] & held)
                if after.size > 0:
                    after[step, layer, w] = held
                    continue
                counts[step, layer - base, 0] += popcount(read & ~before)
                if enter:
                    counts[step, layer - base, 1] += popcount(enter & ~read)
                    counts[step, layer - base, 2] += popcount(enter)
                counts[step, layer - base, 3] += popcount(held)
