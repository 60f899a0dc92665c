"""Compiled twins of the passes in `multi_tier`: same numbers, block by block."""

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
def _summarise(
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

    In the steps strictly between the two a move carries all tokens; the loops below do not call `_carried`
    for them, as a call with arrays would take most of the time.

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
def _carried(row: Words, begin: Steps, end: Steps, size: int, lane: int, step: int) -> tuple[int, int]:
    """Count the tokens of a block that its move in a step carries, and those of them that are not read."""
    carried = unread = 0
    for bit in range(lane * size, min(lane * size + size, len(begin))):
        if begin[bit] < step < end[bit]:
            carried += 1
            unread += int((row[bit >> 6] >> np.uint64(bit & 63)) & np.uint64(1) == 0)
    return carried, unread


@compiled()
def _born(begin: Steps, size: int, lane: int, step: int) -> int:
    """Count the tokens of a block that are born in a step."""
    count = 0
    for bit in range(lane * size, min(lane * size + size, len(begin))):
        count += int(begin[bit] == step)
    return count


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
    """Run the dynamic program of the chunks first..last-1; fill in the arrays of `paths._BackwardPass`.

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
        _summarise(begins, ends, size, start, steps, tokens, last_birth, first_end)
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
                    births = _born(begins, size, lane, step)
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
                    carried, unread = _carried(row, begins, ends, size, lane, step)
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
    """Add up the traffic of the chunks first..last-1 under a plan; see `paths.count_traffic`."""
    steps, tiers = len(plan), held.shape[2]
    chunks = -(-start.shape[1] // BLOCKS_AT_ONCE)
    tokens, last_birth, first_end = np.empty((3, BLOCKS_AT_ONCE), np.int64)
    for chunk in range(first, last):
        layer, low = chunk // chunks, chunk % chunks * BLOCKS_AT_ONCE
        high = min(low + BLOCKS_AT_ONCE, start.shape[1])
        begins, ends, bits = begin[layer], end[layer], begin.shape[1]
        _summarise(begins, ends, size, low, steps, tokens, last_birth, first_end)
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
                            carried, unread = _carried(row, begins, ends, size, lane, step)
                        counts[tiers + old] += unread
                        counts[2 * tiers + new] += carried
                if new < tiers:
                    holds[new] += units[layer, lane]
                if step <= last_birth[n] and min(old, new) < tiers:
                    births, tier = _born(begins, size, lane, step), new if new < tiers else old
                    for k in range(tiers):
                        counts[2 * tiers + k] += births * birth_writes[tier, k]
                    if new < tiers and last_step[layer, lane] == step:
                        holds[new] -= units[layer, lane]  # it leaves in the step of its birth
