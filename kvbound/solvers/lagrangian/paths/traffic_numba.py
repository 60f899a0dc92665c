"""Compiled twins of the passes in `traffic`: same numbers, block by block."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvbound.bitsets.popcount import popcount_range
from kvbound.kernels import compiled
from kvbound.solvers.lagrangian.subproblem import BLOCKS_AT_ONCE

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]
Bools = NDArray[np.bool_]
Words = NDArray[np.uint64]
Steps = NDArray[np.int32]


@compiled()
def summarise(
    begin: Steps,
    end: Steps,
    size: int,
    start: int,
    steps: int,
    tokens: Ints,
    last_birth: Ints,
    first_end: Ints,
) -> None:
    """Fill in the tokens of blocks from `start` on, and the last birth and first end among these.

    In the steps strictly between the two a move carries all tokens: loops do not call `carried_items` for
    them, as a call with arrays would take most of the time.

    Parameters
    ----------
    begin, end
        Birth step and last step of each token of a layer; see `kvbound.bitsets.lanes.Lanes`.
    """
    for n in range(min(len(tokens), -(-len(begin) // size) - start)):
        tokens[n], last_birth[n], first_end[n] = 0, -1, steps
        for bit in range((start + n) * size, min((start + n + 1) * size, len(begin))):
            if begin[bit] < steps:
                tokens[n] += 1
                last_birth[n], first_end[n] = max(last_birth[n], begin[bit]), min(first_end[n], end[bit])


@compiled()
def carried_items(row: Words, begin: Steps, end: Steps, size: int, lane: int, step: int) -> tuple[int, int]:
    """Count the tokens of a block that its move in a step carries, and those of them that are not read."""
    carried = unread = 0
    for bit in range(lane * size, min(lane * size + size, len(begin))):
        if begin[bit] < step < end[bit]:
            carried += 1
            unread += int((row[bit >> 6] >> np.uint64(bit & 63)) & np.uint64(1) == 0)
    return carried, unread


@compiled()
def born_items(begin: Steps, size: int, lane: int, step: int) -> int:
    """Count the tokens of a block that are born in a step."""
    count = 0
    for bit in range(lane * size, min(lane * size + size, len(begin))):
        count += int(begin[bit] == step)
    return count


@compiled()
def count_traffic(
    rows: Words,
    last_step: Steps,
    begin: Steps,
    end: Steps,
    units: Ints,
    items: Ints,
    size: int,
    charged: Bools,
    birth_writes: Ints,
    start: Bytes,
    plan: Bytes,
    used: Ints,
    held: Ints,
    first: int,
    last: int,
) -> None:
    """Add up the traffic of the chunks first..last-1 under a plan; see `traffic.count_traffic`."""
    steps, tiers = len(plan), held.shape[2]
    chunks = -(-start.shape[1] // BLOCKS_AT_ONCE)
    tokens, last_birth, first_end = np.empty((3, BLOCKS_AT_ONCE), np.int64)
    for chunk in range(first, last):
        layer, low = chunk // chunks, chunk % chunks * BLOCKS_AT_ONCE
        high = min(low + BLOCKS_AT_ONCE, start.shape[1])
        begins, ends, bits = begin[layer], end[layer], begin.shape[1]
        summarise(begins, ends, size, low, steps, tokens, last_birth, first_end)
        for step in range(steps):
            row, counts, holds = rows[step, layer], used[step, layer], held[step, layer]
            before = plan[step - 1, layer] if step > 0 else start[layer]
            for lane in range(low, high):
                old, new, n = np.int64(before[lane]), np.int64(plan[step, layer, lane]), lane - low
                if old < tiers:
                    read = popcount_range(row, lane * size, min(size, bits - lane * size))
                    read *= items[layer, lane]
                    counts[old] += read
                    if new < tiers and charged[old, new]:
                        if last_birth[n] < step < first_end[n]:
                            carried = items[layer, lane] * tokens[n]
                            unread = carried - read
                        else:
                            carried, unread = carried_items(row, begins, ends, size, lane, step)
                        counts[tiers + old] += unread
                        counts[2 * tiers + new] += carried
                if new < tiers:
                    holds[new] += units[layer, lane]
                if step <= last_birth[n] and min(old, new) < tiers:
                    births, tier = born_items(begins, size, lane, step), new if new < tiers else old
                    for k in range(tiers):
                        counts[2 * tiers + k] += births * birth_writes[tier, k]
                    if new < tiers and last_step[layer, lane] == step:
                        holds[new] -= units[layer, lane]  # it leaves in the step of its birth
