"""Compiled twins of the passes in `kvbound.solvers.lagrangian.paths.two_tier`: same numbers, word by word."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvbound.bitsets.popcount import popcount
from kvbound.kernels import compiled
from kvbound.solvers.lagrangian.subproblem import WORDS_AT_ONCE

Floats = NDArray[np.float64]
Words = NDArray[np.uint64]

_EMPTY, _ONE = np.uint64(0), np.uint64(1)


@compiled()
def _place_new_tokens(
    step: int, born: NDArray[np.int32], hold: float, birth: float, value: Floats, gain: Floats
) -> np.uint64:
    """Choose the birth tier of the lanes born in this step; return those in tier 0."""
    inside = _EMPTY
    for lane in range(64):
        if born[lane] == step:
            x = value[lane] + hold
            if x + birth < 0:
                gain[lane] += x + birth
                inside |= _ONE << np.uint64(lane)
            value[lane] = -hold
    return inside


@compiled()
def _end_before(step: int, last: NDArray[np.int32]) -> int:
    """Return the last step before a given one in which any of 64 lanes ends, or -1."""
    found = -1
    for lane in range(64):
        if found < last[lane] < step:
            found = last[lane]
    return found


@compiled()
def _take_ends(step: int, last: NDArray[np.int32], hold: float, value: Floats) -> np.uint64:
    """Let both tiers cost the same after a step for the lanes that end in it; return these lanes' bits."""
    ended = _EMPTY
    for lane in range(64):
        if last[lane] == step:
            value[lane] = -hold
            ended |= _ONE << np.uint64(lane)
    return ended


@compiled()
def _step_back(
    bits: np.uint64,
    hold: float,
    miss: float,
    read_floor: float,
    unread_floor: float,
    demote: float,
    value: Floats,
    gain: Floats,
) -> tuple[np.uint64, np.uint64]:
    """Take 64 lanes back over one step; return those that enter tier 0, and those that stay there."""
    enters, stays = _EMPTY, _EMPTY
    for lane in range(64):
        read = (bits >> np.uint64(lane)) & _ONE
        x = value[lane] + hold
        floor = read_floor if read else unread_floor
        enters |= np.uint64(x < floor) << np.uint64(lane)
        stays |= np.uint64(x < demote) << np.uint64(lane)
        gain[lane] += min(x - floor, 0.0)
        value[lane] = max(min(x, demote), floor) - (miss if read else 0.0)
    return enters, stays


@compiled()
def backward(
    rows: Words,
    born: NDArray[np.int32],
    last_step: NDArray[np.int32],
    table: Floats,
    value: Floats,
    gain: Floats,
    enters: Words,
    stays: Words,
    first: int,
    last: int,
) -> None:
    """Run the dynamic program of the words first..last-1; fill in the arrays of `_BackwardPass`.

    Parameters
    ----------
    table
        Prices (6, steps, layers); see `two_tier.HOLD`.
    """
    steps, _, width = rows.shape
    masks = enters.size > 0
    # of each word the step of its first and last birth, that of its last end, and the end that comes next
    earliest, latest, final, end = np.empty((4, WORDS_AT_ONCE), np.int64)
    for start in range(first, last, WORDS_AT_ONCE):
        stop = min(start + WORDS_AT_ONCE, last)
        for word in range(start, stop):
            layer, lanes = word // width, slice(word % width * 64, word % width * 64 + 64)
            n, births, ends = word - start, born[layer, lanes], last_step[layer, lanes]
            earliest[n], latest[n], final[n] = births.min(), births.max(), ends.max()
            end[n] = _end_before(steps, ends)
        for step in range(steps - 1, -1, -1):
            for word in range(start, stop):
                n = word - start
                if step < earliest[n] or step > final[n]:
                    continue  # no lane is born yet, or all have ended
                layer, w = word // width, word % width
                lanes = slice(64 * w, 64 * w + 64)
                hold, miss, promote, prefetch, demote, birth = table[:, step, layer]
                v, g, inside, ended = value[layer, lanes], gain[layer, lanes], _EMPTY, _EMPTY
                if step == end[n]:
                    ended = _take_ends(step, last_step[layer, lanes], hold, v)
                    end[n] = _end_before(step, last_step[layer, lanes])
                if step <= latest[n]:
                    inside = _place_new_tokens(step, born[layer, lanes], hold, birth, v, g)
                entering, staying = _step_back(
                    rows[step, layer, w], hold, miss, -promote, -prefetch, demote, v, g
                )
                if masks:
                    enters[step, layer, w] = entering | inside
                    stays[step, layer, w] = staying & ~ended


@compiled()
def forward(
    rows: Words,
    enters: Words,
    stays: Words,
    state: Words,
    counts: NDArray[np.int64],
    after: Words,
    first: int,
    last: int,
) -> None:
    """Follow the cheapest paths of the words first..last-1; fill in bits after every slot, or else counts.

    Parameters
    ----------
    state
        Bits of the lanes in tier 0 at the start, (layers, words); changed.
    counts
        (steps, some, 4), from the layer of the first word on; see `two_tier.MISSES`.
    after
        Bits of the lanes in tier 0 after every slot, (steps, layers, words), or empty.
    """
    steps, _, width = rows.shape
    base = first // width
    for start in range(first, last, WORDS_AT_ONCE):
        stop = min(start + WORDS_AT_ONCE, last)
        for step in range(steps):
            for word in range(start, stop):
                layer, w = word // width, word % width
                before = state[layer, w]
                read, entering = rows[step, layer, w], enters[step, layer, w]
                now = state[layer, w] = entering | (stays[step, layer, w] & before)
                if after.size > 0:
                    after[step, layer, w] = now
                    continue
                entering &= ~before
                counts[step, layer - base, 0] += popcount(read & ~before)
                if entering:
                    counts[step, layer - base, 1] += popcount(entering & ~read)
                    counts[step, layer - base, 2] += popcount(entering)
                counts[step, layer - base, 3] += popcount(now)
