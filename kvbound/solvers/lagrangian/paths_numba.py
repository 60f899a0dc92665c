"""Compiled twins of the sweeps in `kvbound.solvers.lagrangian.paths`: same numbers, lane by lane."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvbound.bitsets.lanes import PADDING
from kvbound.bitsets.popcount import popcount
from kvbound.kernels import compiled
from kvbound.solvers.lagrangian.subproblem import CHUNK

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]
Words = NDArray[np.uint64]

FIXED, ON_READ, PREFETCH = range(3)
"""Who may move: nobody, up what is read, anybody."""


@compiled()
def _count(row: Words, begin: int, size: int) -> np.int64:
    """Count the bits that are set among `size` of them."""
    count, word, shift = np.int64(0), begin >> 6, begin & 63
    while size > 0:
        bits = row[word] >> np.uint64(shift)
        take = min(size, 64 - shift)
        if take < 64:
            bits &= (np.uint64(1) << np.uint64(take)) - np.uint64(1)
        count += popcount(bits)
        size -= take
        word, shift = word + 1, 0
    return count


@compiled()
def backward(
    rows: Words,
    blocks: Ints,
    born: NDArray[np.int32],
    prices: Floats,
    hold: Floats,
    size: int,
    prefill: int,
    inclusive: bool,
    migration: int,
    value: Floats,
    total: Floats,
    births: Bytes,
    choices: Bytes,
    first: int,
    last: int,
) -> None:
    """Sweep the chunks first..last-1 from the last step to the first; see `paths._Swept`.

    Parameters
    ----------
    prices, hold
        By slot, (steps, layers, 3K) and (steps, layers, K).
    """
    steps, tiers = hold.shape[0], hold.shape[2]
    parts = -(-born.shape[1] // CHUNK)
    after = np.empty(tiers)
    for part in range(first, last):
        layer, begin = part // parts, part % parts * CHUNK
        for step in range(steps - 1, -1, -1):
            row, token, stay = rows[step, layer], prefill + step, hold[step, layer]
            read_price = prices[step, layer, :tiers]
            extra, write = prices[step, layer, tiers : 2 * tiers], prices[step, layer, 2 * tiers :]
            for lane in range(begin, min(begin + CHUNK, born.shape[1])):
                if born[layer, lane] == PADDING or born[layer, lane] > step:
                    continue
                older = min(token - blocks[layer, lane] * size, size)
                for k in range(tiers):
                    after[k] = value[layer, lane, k] + stay[k]
                    if older < size:
                        after[k] += write[k] + (write[-1] if inclusive and k < tiers - 1 else 0.0)
                if older == 0:
                    births[layer, lane] = np.argmin(after)
                    total[layer, lane] = after.min()
                    continue
                read = _count(row, lane * size, older)
                for old in range(tiers):
                    best, to = after[old], old
                    for new in range(0 if migration == PREFETCH or read > 0 else old, tiers):
                        if new == old or migration == FIXED:
                            continue
                        price = after[new]
                        if not (inclusive and new == tiers - 1):
                            price = price + older * write[new] + (older - read) * extra[old]
                        if price < best:
                            best, to = price, new
                    value[layer, lane, old] = best + read * read_price[old]
                    if choices.size > 0:
                        choices[step, old, layer, lane] = to


@compiled()
def follow(
    born: NDArray[np.int32],
    births: Bytes,
    choices: Bytes,
    state: Bytes,
    plan: Bytes,
    first: int,
    last: int,
) -> None:
    """Follow the best paths of the chunks first..last-1.

    Parameters
    ----------
    state
        Tier of each lane at the start, K before it begins, (layers, lanes); changed.
    plan
        States after every slot, (steps, layers, lanes), to be filled.
    """
    steps, tiers = choices.shape[:2]
    parts = -(-born.shape[1] // CHUNK)
    for part in range(first, last):
        layer, begin = part // parts, part % parts * CHUNK
        for step in range(steps):
            for lane in range(begin, min(begin + CHUNK, born.shape[1])):
                now = state[layer, lane]
                if now < tiers:
                    now = choices[step, now, layer, lane]
                elif born[layer, lane] == step:
                    now = births[layer, lane]
                state[layer, lane] = plan[step, layer, lane] = now


@compiled()
def count_traffic(
    rows: Words,
    blocks: Ints,
    size: int,
    prefill: int,
    inclusive: bool,
    start: Bytes,
    plan: Bytes,
    used: Ints,
    held: Ints,
    first: int,
    last: int,
) -> None:
    """Add up what the chunks first..last-1 do under a plan; see `paths.count_traffic`."""
    steps, tiers = len(plan), held.shape[2]
    parts = -(-start.shape[1] // CHUNK)
    for part in range(first, last):
        layer, begin = part // parts, part % parts * CHUNK
        for step in range(steps):
            row, token, mine = rows[step, layer], prefill + step, used[step, layer]
            before = plan[step - 1, layer] if step > 0 else start[layer]
            for lane in range(begin, min(begin + CHUNK, start.shape[1])):
                old, new = np.int64(before[lane]), np.int64(plan[step, layer, lane])
                older = min(token - blocks[layer, lane] * size, size)
                if old < tiers:
                    read = _count(row, lane * size, older)
                    mine[old] += read
                    if new != old and not (inclusive and new == tiers - 1):
                        mine[tiers + old] += older - read
                        mine[2 * tiers + new] += older
                if new < tiers:
                    held[step, layer, new] += 1
                    if older < size:
                        mine[2 * tiers + new] += 1
                        if inclusive and new < tiers - 1:
                            mine[3 * tiers - 1] += 1
