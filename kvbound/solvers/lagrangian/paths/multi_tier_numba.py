"""Compiled twins of the passes in `multi_tier`: same numbers, block by block."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvbound.bitsets.popcount import popcount_range
from kvbound.kernels import compiled
from kvbound.solvers.lagrangian.paths.traffic_numba import born_items, carried_items, summarise
from kvbound.solvers.lagrangian.subproblem import BLOCKS_AT_ONCE

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]
Bools = NDArray[np.bool_]
Words = NDArray[np.uint64]
Steps = NDArray[np.int32]


@compiled()
def backward(
    rows: Words,
    born: Steps,
    last_step: Steps,
    begin: Steps,
    end: Steps,
    units: Ints,
    counts: Ints,
    read_price: Floats,
    extra_price: Floats,
    write_price: Floats,
    birth_price: Floats,
    hold_price: Floats,
    touch_price: Floats,
    size: int,
    legal: Bools,
    charged: Bools,
    value: Floats,
    total: Floats,
    birth_tier: Bytes,
    choices: Bytes,
    first: int,
    last: int,
) -> None:
    """Run the dynamic program of the chunks first..last-1; fill in the arrays of `multi_tier._BackwardPass`.

    Parameters
    ----------
    read_price, extra_price, write_price, birth_price, hold_price
        By slot, (steps, layers, K).
    touch_price
        Price of a block's first byte read from a tier, (steps, layers, lanes, K), or empty.
    legal, charged
        See `kvbound.cost.transitions.Transitions`.
    """
    steps, _, tiers = hold_price.shape
    chunks = -(-born.shape[1] // BLOCKS_AT_ONCE)
    after, touch = np.empty(tiers), np.zeros(tiers)
    tokens, last_birth, first_end = np.empty((3, BLOCKS_AT_ONCE), np.int64)
    for chunk in range(first, last):
        layer, start = chunk // chunks, chunk % chunks * BLOCKS_AT_ONCE
        stop = min(start + BLOCKS_AT_ONCE, born.shape[1])
        begins, ends, bits = begin[layer], end[layer], begin.shape[1]
        summarise(begins, ends, size, start, steps, tokens, last_birth, first_end)
        for step in range(steps - 1, -1, -1):
            row, hold = rows[step, layer], hold_price[step, layer]
            extra, write = extra_price[step, layer], write_price[step, layer]
            for lane in range(start, stop):
                if born[layer, lane] > step or last_step[layer, lane] < step:
                    continue
                n, leaves = lane - start, last_step[layer, lane] == step
                size_held, items = units[layer, lane], counts[layer, lane]
                for k in range(tiers):
                    after[k] = 0.0 if leaves else value[layer, lane, k] + hold[k] * size_held
                if step <= last_birth[n]:
                    births = born_items(begins, size, lane, step)
                    for k in range(tiers):
                        after[k] += births * birth_price[step, layer, k]
                    if born[layer, lane] == step:
                        birth_tier[layer, lane] = np.argmin(after)
                        total[layer, lane] = after.min()
                        continue
                read = items * popcount_range(row, lane * size, min(size, bits - lane * size))
                if touch_price.size > 0:
                    touch[:] = touch_price[step, layer, lane]
                if leaves:
                    for k in range(tiers):
                        value[layer, lane, k] = after[k] + read * read_price[step, layer, k]
                        if read > 0:
                            value[layer, lane, k] += touch[k]
                    continue
                if last_birth[n] < step < first_end[n]:
                    carried, unread = items * tokens[n], items * tokens[n] - read
                else:  # no chunk of weights
                    carried, unread = carried_items(row, begins, ends, size, lane, step)
                allowed = legal[1 if read > 0 else 0]
                for source in range(tiers):
                    best, chosen = after[source], source
                    for target in range(tiers):
                        if not allowed[source, target]:
                            continue
                        price = after[target]
                        if charged[source, target]:
                            price = price + carried * write[target] + unread * extra[source]
                            if read == 0 and carried > 0:
                                price += touch[source]
                        if price < best:
                            best, chosen = price, target
                    value[layer, lane, source] = best + read * read_price[step, layer, source]
                    if read > 0:
                        value[layer, lane, source] += touch[source]
                    if choices.size > 0:
                        choices[step, source, layer, lane] = chosen


@compiled()
def follow(
    born: Steps,
    last_step: Steps,
    birth_tier: Bytes,
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
        Tier of each block at the start, K where there is no block, (layers, blocks); changed.
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
                    now = choices[step, now, layer, lane] if step < last_step[layer, lane] else tiers
                elif born[layer, lane] == step:
                    now = birth_tier[layer, lane]
                tier[layer, lane] = plan[step, layer, lane] = now
