"""Moves of annealing on packed bits, compiled: one chain of an instance of any size.

Items are bits over time, 64 steps to a word, token beside token. A move puts a run of states of one item,
all alike and within one stay, into the other tier; who makes way is looked for among neighbours.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kvbound.bitsets.next_use import last_read, next_read
from kvbound.kernels import compiled
from kvbound.solvers.annealing.layout import PICKY, UNBORN, VICTIMS, Board, Ints
from kvbound.solvers.annealing.moves_numba import _charge, _margins, _ticks

Words = NDArray[np.uint64]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Held = NDArray[np.int32]
Run: TypeAlias = tuple[int, int, int, int]
"""Layer, token, first and last state."""

DRAWS = 5 + 2 * VICTIMS
"""Layer, step, token, picky or not, how much of a run, and where to look for each victim."""
LOOK = 16
"""Stays of an item that a picky move looks at for one worth moving."""
PROBES = 64
"""Neighbours looked at for a victim."""
_NEVER, _FREE = np.int64(np.iinfo(np.int64).max), np.int64(0)
_ONE = np.uint64(1)
_ALL = ~np.uint64(0)


class Bits(NamedTuple):
    """Who is where, for compiled code.

    Attributes
    ----------
    reads, after
        Bits of the steps that read an item, and after whose slots it is in tier 0, lowest first,
        (layers, ceil(steps / 64), tokens).
    start
        Who is in tier 0 before the first slot, (layers, prompt); `fixed` if nobody may be put there.
    counts, held, ticks, margin
        As in `chains.Chains`, of one chain; of tier 0 alone what is held, (slots + 1,).
    """

    reads: Words
    after: Words
    start: Bools
    fixed: bool
    counts: Ints
    held: Held
    ticks: Ints
    margin: Ints


@compiled(forceinline=True)
def _there(bits: Bits, layer: int, token: int, state: int) -> bool:
    """Whether an item is in tier 0 in a state: 0 the start, i after the slot of step i - 1."""
    if state == 0:
        return token < bits.start.shape[1] and bits.start[layer, token]
    n = state - 1
    return (bits.after[layer, n >> 6, token] >> np.uint64(n & 63)) & _ONE != 0


@compiled(forceinline=True)
def _run(board: Board, bits: Bits, layer: int, token: int, state: int) -> Run:
    """States around one, within its stay, in which the item is in the same tier."""
    inside = _there(bits, layer, token, state)
    low = max(last_read(bits.reads[layer], token, state), token - board.prefill, -1) + 1
    high = next_read(bits.reads[layer], token, state, board.steps)
    first = last = state
    while first > low and _there(bits, layer, token, first - 1) == inside:
        first -= 1
    while last < high and _there(bits, layer, token, last + 1) == inside:
        last += 1
    return layer, token, first, last


@compiled(forceinline=True)
def _read(bits: Bits, layer: int, token: int, step: int) -> bool:
    """Whether a step reads an item."""
    return (bits.reads[layer, step >> 6, token] >> np.uint64(step & 63)) & _ONE != 0


@compiled(forceinline=True)
def _put(board: Board, bits: Bits, run: Run, inside: bool) -> None:
    """Put a run into tier 0, or out of it."""
    layer, token, first, last = run
    if first == 0:
        bits.start[layer, token] = inside
    for chunk in range(max(first - 1, 0) >> 6, ((last - 1) >> 6) + 1):
        low, high = max(first - 1 - 64 * chunk, 0), min(last - 1 - 64 * chunk, 63)
        mask = (_ALL << np.uint64(low)) & (_ALL >> np.uint64(63 - high))
        if inside:
            bits.after[layer, chunk, token] |= mask
        else:
            bits.after[layer, chunk, token] &= ~mask
    begin = (first - 1) * board.layers + layer + 1 if first > 0 else 0
    change = 1 if inside else -1
    for t in range(begin, min(last * board.layers + layer + 1, len(bits.held))):
        bits.held[t] += change


@compiled(forceinline=True)
def _move(board: Board, bits: Bits, run: Run, inside: bool, touched: Ints, kept: Ints, number: int) -> int:
    """Put a run into the other tier and count that; return how many slots are touched by now."""
    layer, token, first, last = run
    for step in (first - 1, last):
        if not 0 <= step < board.steps:
            continue
        slot, read = step * board.layers + layer, int(_read(bits, layer, token, step))
        for n in range(number):
            if touched[n] == slot:
                break
        else:
            touched[number] = slot
            for c in range(6):
                kept[number, c] = bits.counts[slot, c]
            number += 1
        for sign in (-1, 1):
            then = inside == (sign == 1)  # in tier 0 with this sign
            before = _there(bits, layer, token, step) if step < first else then
            after = _there(bits, layer, token, step + 1) if step + 1 > last else then
            newborn = token - board.prefill == step
            old = UNBORN if newborn else np.uint8(not before)
            _charge(bits.counts, slot, 2, True, read, 1, newborn, old, np.uint8(not after), sign)
    _put(board, bits, run, inside)
    return number


@compiled(forceinline=True)
def _overfull(board: Board, bits: Bits, run: Run) -> int:
    """First moment of a run at which tier 0 holds more than it can, -1 if none."""
    layer, _, first, last = run
    begin = (first - 1) * board.layers + layer + 1 if first > 0 else 0
    for t in range(begin, min(last * board.layers + layer + 1, len(bits.held))):
        if bits.held[t] > board.room[0]:
            return t
    return -1


@compiled(forceinline=True)
def _propose(board: Board, bits: Bits, draws: Floats, m: int) -> tuple[bool, bool, Run]:
    """Whether there is a move, whether it goes to tier 0, and what moves."""
    layer, state = int(draws[m, 0] * board.layers), 1 + int(draws[m, 1] * board.steps)
    token = int(draws[m, 2] * (board.prefill + state))
    inside = False
    if draws[m, 3] < PICKY:
        for _ in range(LOOK):
            due = next_read(bits.reads[layer], token, state, board.steps)
            if due == board.steps:
                return False, True, (layer, token, state, state)
            state = due
            if bits.margin[due * board.layers + layer, 1] > 0 and not _there(bits, layer, token, due):
                break
            state += 1
        else:
            return False, True, (layer, token, state, state)
    else:
        inside = _there(bits, layer, token, state)
    _, _, first, last = _run(board, bits, layer, token, state)
    if board.up == 2 and not inside and draws[m, 4] < board.cut:  # comes in later
        first += int(draws[m, 4] / board.cut * (last - first + 1))
    fine = not (bits.fixed and first == 0)
    if fine and not inside and board.up == 1 and first > 0:
        # in on a read or a birth only, unless it was there
        step = first - 1
        fine = token - board.prefill == step or _there(bits, layer, token, step)
        fine |= _read(bits, layer, token, step)
    return fine, not inside, (layer, token, first, last)


@compiled(forceinline=True)
def _victim(board: Board, bits: Bits, t: int, run: Run, draws: Floats, m: int, number: int) -> Run:
    """Run of whoever makes way at a moment; token -1 if nobody was found."""
    layer = int(draws[m, 5 + 2 * number] * board.layers)
    state = 0
    if t > 0:
        state = (t - 1) // board.layers + ((t - 1) % board.layers >= layer)
    tokens = board.prefill + state
    token = int(draws[m, 6 + 2 * number] * tokens)
    found, least, latest = -1, _NEVER, -1
    for _ in range(min(PROBES, tokens)):
        if (layer != run[0] or token != run[1]) and _there(bits, layer, token, state):
            due = next_read(bits.reads[layer], token, state, board.steps)
            cost = _FREE
            if due < board.steps and _there(bits, layer, token, due):
                cost = max(bits.margin[due * board.layers + layer, 0], cost)
            if cost < least or (cost == least and due > latest):
                found, least, latest = token, cost, due
        token += 1
        if token == tokens:
            token = 0
    if found < 0:
        return layer, -1, 0, 0
    return _run(board, bits, layer, found, state)


@compiled()
def anneal(board: Board, bits: Bits, draws: Floats) -> None:
    """Try moves by rows of uniform numbers, (moves, DRAWS), and keep those that add no ticks."""
    most = 2 * (VICTIMS + 1)
    touched, then, kept = np.empty(most, np.int64), np.empty(most, np.int64), np.empty((most, 6), np.int64)
    runs = np.empty((VICTIMS + 1, 4), np.int64)
    for m in range(len(draws)):
        fine, inside, first = _propose(board, bits, draws, m)
        if not fine:
            continue
        run, number, done = first, 0, 0
        while True:
            number = _move(board, bits, run, inside if done == 0 else False, touched, kept, number)
            runs[done, 0], runs[done, 1], runs[done, 2], runs[done, 3] = run
            done += 1
            t = _overfull(board, bits, first) if inside else -1
            if t < 0:
                break
            fine = done <= VICTIMS
            if fine:
                run = _victim(board, bits, t, first, draws, m, done - 1)
                fine = run[1] >= 0 and not (bits.fixed and run[2] == 0)
            if not fine:
                break
        delta = np.int64(0)
        if fine:
            for n in range(number):
                then[n] = _ticks(board, bits.counts, touched[n])
                delta += then[n] - bits.ticks[touched[n]]
        if not fine or delta > 0:
            for n in range(done - 1, -1, -1):
                back = runs[n, 0], runs[n, 1], runs[n, 2], runs[n, 3]
                _put(board, bits, back, not inside if n == 0 else True)
            for n in range(number):
                for c in range(6):
                    bits.counts[touched[n], c] = kept[n, c]
            continue
        for n in range(number):
            bits.ticks[touched[n]] = then[n]
            _margins(board, bits.counts, touched[n], then[n], bits.margin)


@compiled()
def turn_back(turned: Words, rows: Words) -> None:
    """Turn bits over time, (chunks, tokens), into rows of tokens, (steps, words)."""
    steps = len(rows)
    for chunk in range(len(turned)):
        for token in range(turned.shape[1]):
            bits, step = turned[chunk, token], 64 * chunk
            while bits != 0 and step < steps:
                if bits & _ONE:
                    rows[step, token >> 6] |= _ONE << np.uint64(token & 63)
                bits >>= _ONE
                step += 1
