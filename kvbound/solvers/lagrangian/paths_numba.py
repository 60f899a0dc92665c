"""Compiled twins of the passes in `kvbound.solvers.lagrangian.paths`: same numbers, block by block."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvbound.bitsets.lanes import PADDING
from kvbound.bitsets.popcount import popcount_range
from kvbound.kernels import compiled
from kvbound.solvers.lagrangian.subproblem import BLOCKS_AT_ONCE

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]
Bools = NDArray[np.bool_]
Words = NDArray[np.uint64]


@compiled()
def backward(
    rows: Words,
    blocks: Ints,
    born: NDArray[np.int32],
    read_price: Floats,
    extra_price: Floats,
    write_price: Floats,
    birth_price: Floats,
    hold_price: Floats,
    size: int,
    prefill: int,
    legal: Bools,
    charged: Bools,
    value: Floats,
    total: Floats,
    births: Bytes,
    choices: Bytes,
    first: int,
    last: int,
) -> None:
    """Run the dynamic program of the chunks first..last-1; fill in the arrays of `paths._BackwardPass`.

    Parameters
    ----------
    read_price, extra_price, write_price, birth_price, hold_price
        By slot, (steps, layers, K).
    legal, charged
        See `kvbound.cost.transitions.Transitions`.
    """
    steps, _, tiers = hold_price.shape
    chunks = -(-born.shape[1] // BLOCKS_AT_ONCE)
    after = np.empty(tiers)
    for chunk in range(first, last):
        layer, begin = chunk // chunks, chunk % chunks * BLOCKS_AT_ONCE
        for step in range(steps - 1, -1, -1):
            row, token, hold = rows[step, layer], prefill + step, hold_price[step, layer]
            extra, write = extra_price[step, layer], write_price[step, layer]
            for lane in range(begin, min(begin + BLOCKS_AT_ONCE, born.shape[1])):
                if born[layer, lane] == PADDING or born[layer, lane] > step:
                    continue
                older = min(token - blocks[layer, lane] * size, size)
                for k in range(tiers):
                    after[k] = value[layer, lane, k] + hold[k]
                    if older < size:
                        after[k] += birth_price[step, layer, k]
                if older == 0:
                    births[layer, lane] = np.argmin(after)
                    total[layer, lane] = after.min()
                    continue
                read = popcount_range(row, lane * size, older)
                allowed = legal[1 if read > 0 else 0]
                for source in range(tiers):
                    best, chosen = after[source], source
                    for target in range(tiers):
                        if not allowed[source, target]:
                            continue
                        price = after[target]
                        if charged[source, target]:
                            price = price + older * write[target] + (older - read) * extra[source]
                        if price < best:
                            best, chosen = price, target
                    value[layer, lane, source] = best + read * read_price[step, layer, source]
                    if choices.size > 0:
                        choices[step, source, layer, lane] = chosen


@compiled()
def follow(
    born: NDArray[np.int32],
    births: Bytes,
    choices: Bytes,
    tier: Bytes,
    plan: Bytes,
    first: int,
    last: int,
) -> None:
    """Follow the cheapest paths of the chunks first..last-1.

    Parameters
    ----------
    tier
        Tier of each block at the start, K before it begins, (layers, blocks); changed.
    plan
        Tiers after every slot, (steps, layers, blocks); filled in.
    """
    steps, tiers = choices.shape[:2]
    chunks = -(-born.shape[1] // BLOCKS_AT_ONCE)
    for chunk in range(first, last):
        layer, begin = chunk // chunks, chunk % chunks * BLOCKS_AT_ONCE
        for step in range(steps):
            for lane in range(begin, min(begin + BLOCKS_AT_ONCE, born.shape[1])):
                now = tier[layer, lane]
                if now < tiers:
                    now = choices[step, now, layer, lane]
                elif born[layer, lane] == step:
                    now = births[layer, lane]
                tier[layer, lane] = plan[step, layer, lane] = now


@compiled()
def count_traffic(
    rows: Words,
    blocks: Ints,
    size: int,
    prefill: int,
    charged: Bools,
    birth_writes: Ints,
    start: Bytes,
    plan: Bytes,
    used: Ints,
    held: Ints,
    first: int,
    last: int,
) -> None:
    """Add up the traffic of the chunks first..last-1 under a plan; see `paths.count_traffic`."""
    steps, tiers = len(plan), held.shape[2]
    chunks = -(-start.shape[1] // BLOCKS_AT_ONCE)
    for chunk in range(first, last):
        layer, begin = chunk // chunks, chunk % chunks * BLOCKS_AT_ONCE
        for step in range(steps):
            row, token, counts = rows[step, layer], prefill + step, used[step, layer]
            before = plan[step - 1, layer] if step > 0 else start[layer]
            for lane in range(begin, min(begin + BLOCKS_AT_ONCE, start.shape[1])):
                old, new = np.int64(before[lane]), np.int64(plan[step, layer, lane])
                older = min(token - blocks[layer, lane] * size, size)
                if old < tiers:
                    read = popcount_range(row, lane * size, older)
                    counts[old] += read
                    if charged[old, new]:
                        counts[tiers + old] += older - read
                        counts[2 * tiers + new] += older
                if new < tiers:
                    held[step, layer, new] += 1
                    if older < size:
                        for k in range(tiers):
                            counts[2 * tiers + k] += birth_writes[new, k]
