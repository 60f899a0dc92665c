"""Compiled twin of the moves in `kvbound.solvers.annealing.moves`: same numbers, chain by chain."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from kvbound.kernels import compiled
from kvbound.solvers.annealing.layout import (
    LONGEST,
    LOOK,
    PICKY,
    PROBES,
    ROW,
    STRIDE,
    UNBORN,
    UNLIMITED,
    VICTIMS,
    Board,
    Ints,
    Tiers,
)

Floats = NDArray[np.float64]
Held = NDArray[np.int32]
Paint: TypeAlias = tuple[np.int64, np.int64, np.int64, np.uint8]

_NEVER = np.int64(np.iinfo(np.int64).max)
_FREE = np.int64(0)


@compiled(forceinline=True)
def _ticks(board: Board, counts: Ints, slot: int) -> np.int64:
    """Ticks of a slot with these counts; see `chains.slot_ticks`."""
    rows, tiers, layer = board.rows, len(board.room), slot % board.layers
    best = np.inf
    for n in range(rows.shape[0]):
        most = -np.inf
        for v in range(rows.shape[1]):
            ticks = board.base[layer, n, v]
            for c in range(3 * tiers):
                ticks += rows[n, v, c] * counts[slot, c]
            most = max(most, ticks)
        if board.late:
            moved = False
            for k in range(tiers):
                away = board.off[n, k]
                moved |= away and counts[slot, k] > 0
                busy = counts[slot, tiers + k] > 0 or counts[slot, 2 * tiers + k] > 0
                busy |= not away and counts[slot, k] > 0
                busy |= (k == 0 and board.weighted[layer]) or (k == tiers - 1 and moved)
                if busy:
                    most += board.latency[k]
        best = min(best, most)
    return np.int64(np.rint(best))


@compiled(forceinline=True)
def _charge(
    counts: Ints, slot: int, tiers: int, inclusive: bool, read: int, past: int, newborn: bool, before: int,
    after: int, sign: int,
) -> None:  # fmt: skip
    """Add or take away what a block does in a slot."""
    last = tiers - 1
    if before != UNBORN:
        if read > 0:
            counts[slot, before] += sign * read
        if before != after and not (inclusive and after == last):
            counts[slot, 2 * tiers + after] += sign * past
            counts[slot, tiers + before] += sign * (past - read)
    if newborn:
        counts[slot, 2 * tiers + after] += sign
        if inclusive and after != last:
            counts[slot, 2 * tiers + last] += sign


@compiled(forceinline=True)
def _count(
    board: Board, tier: Tiers, counts: Ints, paint: Paint, touched: Ints, kept: Ints, number: int
) -> int:
    """Count what a paint changes, before it does; return how many slots are touched by now.

    Parameters
    ----------
    touched, kept
        Slots, and what their counts were before the move.
    """
    block, low, high, new = paint
    steps, layers, size, tiers = board.steps, board.layers, board.size, len(board.room)
    layer = np.int64(board.layer[block])
    begin = (block - layer * board.blocks) * size  # the block's first token
    quiet = size == 1 and board.up > 0 and board.stay[block, low] == board.stay[block, high]
    for step in range(low - 1 if low > 0 else 0, high + 1 if high < steps else steps):
        before, after = tier[block, step], tier[block, step + 1]
        if quiet and before == after and low <= step < high:
            continue  # neither read nor born
        then = new if step >= low else before
        next_ = new if step < high else after
        read = np.int64(board.reads[block, step])
        newborn = begin <= board.prefill + step < begin + size
        if read == 0 and not newborn and before == after and then == next_:
            continue
        if before == then and after == next_:
            continue
        slot = step * layers + layer
        for n in range(number):
            if touched[n] == slot:
                break
        else:
            touched[number] = slot
            for c in range(3 * tiers):
                kept[number, c] = counts[slot, c]
            number += 1
        past = min(board.prefill + step - begin, size)
        _charge(counts, slot, tiers, board.inclusive, read, past, newborn, before, after, -1)
        _charge(counts, slot, tiers, board.inclusive, read, past, newborn, then, next_, 1)
    return number


@compiled(forceinline=True)
def _swap(board: Board, tier: Tiers, held: Held, paint: Paint, olds: Tiers, done: int, back: bool) -> None:
    """Paint, and keep what was there before; or put that back."""
    block, low, high, new = paint
    layers, layer, room = board.layers, np.int64(board.layer[block]), board.room
    state = low
    while state <= high:  # in runs of states that change alike
        old, run = tier[block, state], state
        if back:
            new = olds[done, state - low]
        while state <= high and tier[block, state] == old and (not back or olds[done, state - low] == new):
            tier[block, state] = new
            if not back:
                olds[done, state - low] = old
            state += 1
        if old != new:
            start = (run - 1) * layers + layer + 1 if run > 0 else 0
            stop = min((state - 1) * layers + layer + 1, held.shape[1])
            if room[old] < UNLIMITED:
                for t in range(start, stop):
                    held[old, t] -= 1
            if room[new] < UNLIMITED:
                for t in range(start, stop):
                    held[new, t] += 1


@compiled(forceinline=True)
def _legal(board: Board, tier: Tiers, block: int, step: int) -> bool:
    """Whether a block may pass from the state before a step's slot to the one after it."""
    if step < 0 or step >= board.steps:
        return True
    before, after = tier[block, step], tier[block, step + 1]
    if before == after:
        return True
    if board.up == 0:
        return before == UNBORN
    return after > before or before == UNBORN or board.up == 2 or board.reads[block, step] > 0


@compiled(forceinline=True)
def _overfull(board: Board, held: Held, full: int, block: int, low: int, high: int) -> int:
    """First moment of a block's states at which a tier holds more than it can, -1 if none."""
    layers, layer, room = board.layers, np.int64(board.layer[block]), board.room[full]
    if room < UNLIMITED:
        start = (low - 1) * layers + layer + 1 if low > 0 else 0
        stop = min(high * layers + layer + 1, held.shape[1])
        for t in range(start, stop):
            if held[full, t] > room:
                return t
    return -1


@compiled(forceinline=True)
def _margins(board: Board, counts: Ints, slot: int, now: int, margin: Ints) -> None:
    """See `chains.margins`."""
    last = len(board.room) - 1
    for n in range(2):
        source, target = (0, last) if n == 0 else (last, 0)
        margin[slot, n] = 0
        if counts[slot, source] > 0:
            counts[slot, source] -= 1
            counts[slot, target] += 1
            change = _ticks(board, counts, slot) - now
            margin[slot, n] = change if n == 0 else -change
            counts[slot, source] += 1
            counts[slot, target] -= 1


@compiled(forceinline=True)
def _propose(board: Board, tier: Tiers, margin: Ints, draws: Floats, m: int) -> Paint:
    """Block, first and last state and new tier of a move."""
    stays, steps = len(board.block), board.steps
    s = int(draws[m, 1] * stays)
    if draws[m, 4] < PICKY:
        for _ in range(LOOK):
            due = board.due[s]
            if due >= 0 and margin[due, 1] > 0 and tier[board.block[s], board.high[s]] != 0:
                break
            s = s + 1 if s + 1 < stays else 0
    block, low, high = np.int64(board.block[s]), np.int64(board.low[s]), np.int64(board.high[s])
    turn = 1 + int(draws[m, 2] * (len(board.room) - 1))
    part = int(draws[m, 3] * (high - low + 1))
    if draws[m, 0] < ROW:
        high = np.int64(board.high[min(s + 1 + int(draws[m, 3] * (LONGEST - 1)), board.stay[block, steps])])
    elif draws[m, 0] < ROW + board.cut:
        low += part
    elif draws[m, 0] < ROW + board.cut * 2:
        high = low + part
    elif draws[m, 0] < ROW + board.cut * 3:
        low += part
        turn = 0
    return block, low, high, np.uint8((tier[block, high] + turn) % len(board.room))


@compiled(forceinline=True)
def _victim(
    board: Board, tier: Tiers, margin: Ints, t: int, full: int, first: int, start: int, picky: bool
) -> tuple[int, int]:
    """Block and state of whoever makes way at moment t; block -1 if nobody was found."""
    layers = board.layers
    everything = layers * board.blocks
    stride = STRIDE % everything
    full_steps = (t - 1) // layers if t > 0 else 0
    begun = t - 1 - full_steps * layers if t > 0 else -1  # layers up to this one are a state further
    found, found_state, least = -1, 0, _NEVER
    block = start
    for _ in range(PROBES):
        layer = board.layer[block]
        state = full_steps + 1 if layer <= begun else full_steps
        if tier[block, state] == full and board.stay[block, state] >= 0 and block != first:
            due = board.due[board.stay[block, state]]
            cost = max(margin[due, 0], _FREE) if picky and due >= 0 else _FREE
            if cost < least:
                found, found_state, least = block, state, cost
            if cost == 0:
                break
        block += stride
        if block >= everything:
            block -= everything
    return found, found_state


@compiled(forceinline=True)
def _undo(
    board: Board, tier: Tiers, counts: Ints, held: Held, spots: Ints, olds: Tiers, done: int, touched: Ints,
    kept: Ints, number: int,
) -> None:  # fmt: skip
    """Take back the paints of a move, the last one first."""
    for n in range(done - 1, -1, -1):
        paint = spots[n, 0], spots[n, 1], spots[n, 2], np.uint8(0)
        _swap(board, tier, held, paint, olds, n, True)
    for n in range(number):
        for c in range(counts.shape[1]):
            counts[touched[n], c] = kept[n, c]


@compiled(forceinline=True)
def _make(
    board: Board, tier: Tiers, counts: Ints, held: Held, margin: Ints, draws: Floats, m: int, spots: Ints,
    olds: Tiers, touched: Ints, kept: Ints,
) -> tuple[bool, int, int]:  # fmt: skip
    """Repaint, and let others make way; return whether that keeps the rules, paints, and slots touched."""
    last = len(board.room) - 1
    block, low, high, new = _propose(board, tier, margin, draws, m)
    full, first, begin, end = new, block, low, high
    number = 0
    for done in range(VICTIMS + 1):
        paint = block, low, high, new
        spots[done, 0], spots[done, 1], spots[done, 2] = block, low, high
        number = _count(board, tier, counts, paint, touched, kept, number)
        _swap(board, tier, held, paint, olds, done, False)
        if not _legal(board, tier, block, low - 1) or not _legal(board, tier, block, high):
            return False, done + 1, number
        if done and _overfull(board, held, new, block, low, high) >= 0:
            return False, done + 1, number
        t = _overfull(board, held, full, first, begin, end)
        if t < 0:
            return True, done + 1, number
        if full == last or done == VICTIMS:
            return False, done + 1, number
        start = int(draws[m, 5 + done] * (board.layers * board.blocks))
        block, state = _victim(board, tier, margin, t, full, first, start, draws[m, 4] < PICKY)
        if block < 0:
            return False, done + 1, number
        stay = board.stay[block, state]
        low = high = state
        while low > board.low[stay] and tier[block, low - 1] == full:
            low -= 1
        while high < board.high[stay] and tier[block, high + 1] == full:
            high += 1
        new = np.uint8(last - int(draws[m, 2] * (last - full)))
    return False, VICTIMS + 1, number


@compiled()
def anneal(
    board: Board,
    tier: Tiers,
    counts: Ints,
    held: Held,
    ticks: Ints,
    margin: Ints,
    draws: Floats,
    limits: Ints,
) -> int:
    """Try one move per row of draws on one chain; see `moves.anneal`."""
    olds, spots = np.empty((VICTIMS + 1, board.steps + 1), np.uint8), np.empty((VICTIMS + 1, 3), np.int64)
    touched = np.empty((VICTIMS + 1) * (board.steps + 1), np.int64)
    then, kept = np.empty_like(touched), np.empty((len(touched), counts.shape[1]), np.int64)
    taken = 0
    for m in range(len(draws)):
        fine, done, number = _make(board, tier, counts, held, margin, draws, m, spots, olds, touched, kept)
        delta = np.int64(0)
        if fine:
            for n in range(number):
                then[n] = _ticks(board, counts, touched[n])
                delta += then[n] - ticks[touched[n]]
        if not fine or delta > limits[m]:
            _undo(board, tier, counts, held, spots, olds, done, touched, kept, number)
            continue
        taken += 1
        for n in range(number):
            ticks[touched[n]] = then[n]
            _margins(board, counts, touched[n], then[n], margin)
    return taken
