"""Moves of annealing on packed bits, compiled: one chain of an instance of any size.

The bits of an item run over time, 64 steps to a word, and the words of neighbouring tokens are neighbours. A
move puts a *run* of an item into the other tier: consecutive states in the same tier within one interval
between reads. Victims are looked for among neighbouring tokens.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kvbound.bitsets.next_use import last_read, next_read
from kvbound.kernels import compiled
from kvbound.solvers.annealing.chains_numba import charge, slot_ticks, update_marginal
from kvbound.solvers.annealing.layout import (
    ABSENT,
    MAX_VICTIMS,
    PACKED_CANDIDATES,
    PACKED_PROBES,
    PACKED_TRIES,
    TARGETED_SHARE,
    Ints,
    SearchData,
)

Words = NDArray[np.uint64]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Run: TypeAlias = tuple[int, int, int, int]
"""Layer, token, first and last state."""

_NEVER, _FREE = np.int64(np.iinfo(np.int64).max), np.int64(0)
_ONE = np.uint64(1)
_ALL = ~np.uint64(0)
_GOLDEN = 0.6180339887498949
"""Fractional part of the golden ratio: its multiples, modulo 1, are spread evenly."""


class FastBits(NamedTuple):
    """Which items are in tier 0; a tuple of its own, as compiled functions are faster with fewer arrays.

    Attributes
    ----------
    start
        Whether items are there before the first slot, shape (layers, prompt tokens).
    after
        Bits of the steps after whose slots an item is there, lowest first, shape
        (layers, ceil(steps / 64), tokens).
    """

    start: Bools
    after: Words


class PackedChain(NamedTuple):
    """A schedule between two tiers as bits, with its counts and times, for compiled code.

    Attributes
    ----------
    reads
        Bits of the steps that read an item, in the form of `FastBits.after`.
    fast
        The schedule.
    fixed_start
        Whether the rules fix that.
    life
        Birth step and last step of each token, shape (layers, tokens, 2), of one layer if all are alike.
    ids
        Range of the tokens that may exist in each state or in the one before: first id, and last id plus 1,
        shape (steps + 1, 2).
    counts, ticks, marginal
        As in `kvbound.solvers.annealing.chains.Chains`, of one chain.
    occupancy
        Units in tier 0 at the start and after every slot, shape (slots + 1,).
    """

    reads: Words
    fast: FastBits
    fixed_start: bool
    life: NDArray[np.int32]
    ids: Ints
    counts: Ints
    occupancy: Ints
    ticks: Ints
    marginal: Ints


@compiled(forceinline=True)
def _in_fast(fast: FastBits, layer: int, token: int, state: int) -> bool:
    """Whether an item is in tier 0 in a state: 0 the start, i after the slot of step i - 1."""
    if state == 0:
        return token < fast.start.shape[1] and fast.start[layer, token]
    n = state - 1
    return (fast.after[layer, n >> 6, token] >> np.uint64(n & 63)) & _ONE != 0


@compiled(forceinline=True)
def _life(chain: PackedChain, layer: int, token: int) -> tuple[int, int]:
    """Birth step and last step of an item."""
    kind = layer if len(chain.life) > 1 else 0
    return int(chain.life[kind, token, 0]), int(chain.life[kind, token, 1])


@compiled(forceinline=True)
def _run_around(data: SearchData, chain: PackedChain, layer: int, token: int, state: int) -> Run:
    """The run of an item around a state."""
    inside, (born, end) = _in_fast(chain.fast, layer, token, state), _life(chain, layer, token)
    low = max(last_read(chain.reads[layer], token, state), born) + 1
    high = min(next_read(chain.reads[layer], token, state, data.steps), end)
    first = last = state
    while first > low and _in_fast(chain.fast, layer, token, first - 1) == inside:
        first -= 1
    while last < high and _in_fast(chain.fast, layer, token, last + 1) == inside:
        last += 1
    return layer, token, first, last


@compiled(forceinline=True)
def _is_read(reads: Words, layer: int, token: int, step: int) -> bool:
    """Whether a step reads an item."""
    return (reads[layer, step >> 6, token] >> np.uint64(step & 63)) & _ONE != 0


@compiled(forceinline=True)
def _put(data: SearchData, chain: PackedChain, run: Run, inside: bool) -> None:
    """Put a run into tier 0, or out of it, and update the occupancy."""
    layer, token, first, last = run
    if first == 0:
        chain.fast.start[layer, token] = inside
    for chunk in range(max(first - 1, 0) >> 6, ((last - 1) >> 6) + 1):
        low, high = max(first - 1 - 64 * chunk, 0), min(last - 1 - 64 * chunk, 63)
        mask = (_ALL << np.uint64(low)) & (_ALL >> np.uint64(63 - high))
        if inside:
            chain.fast.after[layer, chunk, token] |= mask
        else:
            chain.fast.after[layer, chunk, token] &= ~mask
    begin = (first - 1) * data.layers + layer + 1 if first > 0 else 0
    change = data.units[layer] if inside else -data.units[layer]
    for t in range(begin, min(last * data.layers + layer + 1, len(chain.occupancy))):
        chain.occupancy[t] += change


@compiled(forceinline=True)
def _move(
    data: SearchData, chain: PackedChain, run: Run, inside: bool, touched: Ints, saved: Ints, number: int
) -> int:
    """Put a run into tier 0, or out of it, and update the counts; return how many slots are touched by now.

    Parameters
    ----------
    touched, saved
        Slots, and their counts before the move.
    """
    layer, token, first, last = run
    for step in (first - 1, last):
        if not 0 <= step < data.steps:
            continue
        slot, read = step * data.layers + layer, int(_is_read(chain.reads, layer, token, step))
        for n in range(number):
            if touched[n] == slot:
                break
        else:
            touched[number] = slot
            for c in range(6):
                saved[number, c] = chain.counts[slot, c]
            number += 1
        for sign in (-1, 1):
            run_inside = inside == (sign == 1)  # where the run is: before the move, then after it
            before = _in_fast(chain.fast, layer, token, step) if step < first else run_inside
            after = _in_fast(chain.fast, layer, token, step + 1) if step + 1 > last else run_inside
            # the end of a token is counted as a move to the last tier, which costs nothing either
            newborn = _life(chain, layer, token)[0] == step
            old = ABSENT if newborn else np.uint8(not before)
            share = read, 1, 1 - read, int(newborn)
            charge(data, chain.counts, slot, share, old, np.uint8(not after), sign)
    _put(data, chain, run, inside)
    return number


@compiled(forceinline=True)
def _overfull(data: SearchData, chain: PackedChain, run: Run) -> int:
    """First moment of a run at which tier 0 exceeds its capacity, -1 if none."""
    layer, _, first, last = run
    begin = (first - 1) * data.layers + layer + 1 if first > 0 else 0
    for t in range(begin, min(last * data.layers + layer + 1, len(chain.occupancy))):
        if chain.occupancy[t] > data.capacity[0]:
            return t
    return -1


@compiled(forceinline=True)
def existing(chain: PackedChain, layer: int, u: float, state: int) -> tuple[int, int]:
    """A token, drawn by a uniform number, that exists in a layer in a state or the one before, and the later
    of these states in which it exists; token -1 if none was found.
    """
    first, count = chain.ids[state, 0], chain.ids[state, 1] - chain.ids[state, 0]
    for _ in range(PACKED_TRIES if count > 0 else 0):
        token = first + int(u * count)
        born, end = _life(chain, layer, token)
        latest = min(state, end)
        if latest >= state - 1 and latest > born:
            return token, latest
        u = u + _GOLDEN if u + _GOLDEN < 1 else u + _GOLDEN - 1
    return -1, 0


@compiled(forceinline=True)
def _propose(data: SearchData, chain: PackedChain, draws: Floats, m: int) -> tuple[bool, bool, Run]:
    """Whether there is a move, whether it goes to tier 0, and the run that moves."""
    layer, state = int(draws[m, 0] * data.layers), 1 + int(draws[m, 1] * data.steps)
    token, state = existing(chain, layer, draws[m, 2], state)
    if token < 0:
        return False, True, (layer, token, state, state)
    inside = False
    if draws[m, 3] < TARGETED_SHARE:
        for _ in range(PACKED_CANDIDATES):
            due = next_read(chain.reads[layer], token, state, data.steps)
            if due == data.steps:
                return False, True, (layer, token, state, state)
            state = due
            gain = chain.marginal[due * data.layers + layer, 1]
            if gain > 0 and not _in_fast(chain.fast, layer, token, due):
                break
            state += 1
        else:
            return False, True, (layer, token, state, state)
    else:
        inside = _in_fast(chain.fast, layer, token, state)
    _, _, first, last = _run_around(data, chain, layer, token, state)
    promotes_unread = data.legal[0, 1, 0]
    if promotes_unread and not inside and draws[m, 4] < data.partial_share:  # the promotion may come later
        first += int(draws[m, 4] / data.partial_share * (last - first + 1))
    valid = not (chain.fixed_start and first == 0)
    if valid and not inside and not promotes_unread and first > 0:
        # enters tier 0 on a read or at birth, or is there already
        step = first - 1
        valid = _life(chain, layer, token)[0] == step or _in_fast(chain.fast, layer, token, step)
        valid |= _is_read(chain.reads, layer, token, step)
    return valid, not inside, (layer, token, first, last)


@compiled(forceinline=True)
def _victim(
    data: SearchData, chain: PackedChain, t: int, run: Run, draws: Floats, m: int, number: int
) -> Run:
    """The run to evict at a moment; token -1 if none was found."""
    layer = int(draws[m, 5 + 2 * number] * data.layers)
    state = 0
    if t > 0:
        state = (t - 1) // data.layers + ((t - 1) % data.layers >= layer)
    begin, end = chain.ids[state, 0], chain.ids[state, 1]
    token, _ = existing(chain, layer, draws[m, 6 + 2 * number], state)
    found, least, latest = -1, _NEVER, -1
    for _ in range(min(PACKED_PROBES, end - begin) if token >= 0 else 0):
        if (layer != run[0] or token != run[1]) and _in_fast(chain.fast, layer, token, state):
            due = next_read(chain.reads[layer], token, state, data.steps)
            cost = _FREE
            if due < data.steps and _in_fast(chain.fast, layer, token, due):
                cost = max(chain.marginal[due * data.layers + layer, 0], cost)
            if cost < least or (cost == least and due > latest):
                found, least, latest = token, cost, due
        token += 1
        if token == end:
            token = begin
    if found < 0:
        return layer, -1, 0, 0
    return _run_around(data, chain, layer, found, state)


@compiled()
def try_moves(data: SearchData, chain: PackedChain, draws: Floats) -> None:
    """Try moves by rows of uniform numbers, shape (moves, PACKED_DRAWS), and keep those that add no ticks."""
    most = 2 * (MAX_VICTIMS + 1)
    touched, new_ticks = np.empty(most, np.int64), np.empty(most, np.int64)
    saved = np.empty((most, 6), np.int64)
    runs = np.empty((MAX_VICTIMS + 1, 4), np.int64)
    for m in range(len(draws)):
        valid, inside, first = _propose(data, chain, draws, m)
        if not valid:
            continue
        run, number, done = first, 0, 0
        while True:
            number = _move(data, chain, run, inside if done == 0 else False, touched, saved, number)
            runs[done, 0], runs[done, 1], runs[done, 2], runs[done, 3] = run
            done += 1
            t = _overfull(data, chain, first) if inside else -1
            if t < 0:
                break
            valid = done <= MAX_VICTIMS
            if valid:
                run = _victim(data, chain, t, first, draws, m, done - 1)
                valid = run[1] >= 0 and not (chain.fixed_start and run[2] == 0)
            if not valid:
                break
        delta = np.int64(0)
        if valid:
            for n in range(number):
                new_ticks[n] = slot_ticks(data, chain.counts, touched[n])
                delta += new_ticks[n] - chain.ticks[touched[n]]
        if not valid or delta > 0:
            for n in range(done - 1, -1, -1):
                old = runs[n, 0], runs[n, 1], runs[n, 2], runs[n, 3]
                _put(data, chain, old, not inside if n == 0 else True)
            for n in range(number):
                for c in range(6):
                    chain.counts[touched[n], c] = saved[n, c]
            continue
        for n in range(number):
            chain.ticks[touched[n]] = new_ticks[n]
            update_marginal(data, chain.counts, touched[n], new_ticks[n], chain.marginal)


@compiled()
def transpose_back(transposed: Words, rows: Words) -> None:
    """Set bits of rows (steps, words) from bits over time (chunks, tokens)."""
    steps = len(rows)
    for chunk in range(len(transposed)):
        for token in range(transposed.shape[1]):
            bits, step = transposed[chunk, token], 64 * chunk
            while bits != 0 and step < steps:
                if bits & _ONE:
                    rows[step, token >> 6] |= _ONE << np.uint64(token & 63)
                bits >>= _ONE
                step += 1
