"""Compiled twin of the moves in `kvbound.solvers._anneal_moves`: same numbers, chain by chain."""

from __future__ import annotations

from typing import TypeAlias

import numba as nb
import numpy as np
from numpy.typing import NDArray

from kvbound.solvers._anneal_board import Board, Ints, Tiers
from kvbound.solvers._anneal_moves import LONGEST, LOOK, PICKY, PROBES, ROW, STRIDE, VICTIMS

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Held = NDArray[np.int32]
Reads = NDArray[np.uint16]
Part: TypeAlias = tuple[np.int64, np.int64, np.int64, np.uint8]

_NEVER = np.int64(np.iinfo(np.int64).max)
_FREE = np.int64(0)


@nb.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _ticks(rows: Floats, base: Floats, off: Mask, latency: Floats, weighted: bool, count: Ints) -> np.int64:
    """Ticks of a slot with these counts; see `_anneal_moves.slot_ticks`."""
    tiers = len(latency)
    best = np.inf
    for n in range(rows.shape[0]):
        most = -np.inf
        for v in range(rows.shape[1]):
            ticks = base[n, v]
            for c in range(3 * tiers):
                ticks += rows[n, v, c] * count[c]
            most = max(most, ticks)
        if latency.any():
            moved = False
            for k in range(tiers):
                away = off[n, k]
                moved |= away and count[k] > 0
                busy = count[tiers + k] > 0 or count[2 * tiers + k] > 0 or (not away and count[k] > 0)
                busy |= (k == 0 and weighted) or (k == tiers - 1 and moved)
                if busy:
                    most += latency[k]
        best = min(best, most)
    return np.int64(np.rint(best))


@nb.njit(cache=True, nogil=True, inline="always")  # type: ignore[untyped-decorator]
def _charge(
    count: Ints, tiers: int, inclusive: bool, read: int, past: int, newborn: bool, before: int, after: int,
    sign: int,
) -> None:  # fmt: skip
    """Add or take away what a block does in a slot."""
    last = tiers - 1
    if before != 255:
        if read > 0:
            count[before] += sign * read
        if before != after and not (inclusive and after == last):
            count[2 * tiers + after] += sign * past
            count[tiers + before] += sign * (past - read)
    if newborn:
        count[2 * tiers + after] += sign
        if inclusive and after != last:
            count[2 * tiers + last] += sign


@nb.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _paint(
    own: Tiers, reads: Reads, counts: Ints, held: Held, shape: tuple[int, int, int, int, int],
    inclusive: bool, layer: int, local: int, low: int, high: int, fresh: Tiers, touched: Ints, number: int,
) -> int:  # fmt: skip
    """Give a block's states from low on new tiers, leaving the old ones in fresh."""
    steps, layers, prefill, size, tiers = shape
    begin = local * size  # the block's first token
    for step in range(max(low - 1, 0), min(high, steps - 1) + 1):
        before, after = own[step], own[step + 1]
        then = fresh[step - low] if step >= low else before
        next_ = fresh[step + 1 - low] if step < high else after
        read = np.int64(reads[step])
        newborn = begin <= prefill + step < begin + size
        if read == 0 and not newborn and before == after and then == next_:
            continue
        if before == then and after == next_:
            continue
        slot = step * layers + layer
        past = min(prefill + step - begin, size)
        _charge(counts[slot], tiers, inclusive, read, past, newborn, before, after, -1)
        _charge(counts[slot], tiers, inclusive, read, past, newborn, then, next_, 1)
        for n in range(number):
            if touched[n] == slot:
                break
        else:
            touched[number] = slot
            number += 1
    for state in range(low, high + 1):
        old, new = own[state], fresh[state - low]
        if old != new:
            start = (state - 1) * layers + layer + 1 if state > 0 else 0
            stop = min(state * layers + layer + 1, steps * layers + 1)
            for t in range(start, stop):
                held[old, t] -= 1
            for t in range(start, stop):
                held[new, t] += 1
            own[state] = new
            fresh[state - low] = old
    return number


@nb.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _legal(own: Tiers, reads: Reads, up: int, step: int) -> bool:
    """Whether a block may pass from the state before a step's slot to the one after it."""
    if step < 0 or step >= len(reads):
        return True
    before, after = own[step], own[step + 1]
    if before == 255 or before == after:
        return True
    if up == 0:
        return False
    return after > before or up == 2 or reads[step] > 0


@nb.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _overfull(row: NDArray[np.int32], room: int, layers: int, layer: int, low: int, high: int) -> int:
    """First moment of these states at which a tier holds more than it can, -1 if none."""
    start = (low - 1) * layers + layer + 1 if low > 0 else 0
    stop = min(high * layers + layer + 1, len(row))
    for t in range(start, stop):
        if row[t] > room:
            return t
    return -1


@nb.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _margins(
    rows: Floats,
    base: Floats,
    off: Mask,
    latency: Floats,
    weighted: bool,
    count: Ints,
    now: int,
    margin: Ints,
) -> None:
    """See `_anneal_state.margins`."""
    last = len(latency) - 1
    margin[:] = 0
    for n in range(2):
        source, target = (0, last) if n == 0 else (last, 0)
        if count[source] > 0:
            count[source] -= 1
            count[target] += 1
            change = _ticks(rows, base, off, latency, weighted, count) - now
            margin[n] = change if n == 0 else -change
            count[source] += 1
            count[target] -= 1


@nb.njit(cache=True, nogil=True, inline="always")  # type: ignore[untyped-decorator]
def _propose(board: Board, tier: Tiers, margin: Ints, u: Floats) -> Part:
    """Block, first and last state and new tier of a move."""
    stays, steps = len(board.block), board.steps
    s = int(u[1] * stays)
    if u[4] < PICKY:
        for _ in range(LOOK):
            block, high = board.block[s], board.high[s]
            gain = margin[min(high, steps - 1) * board.layers + board.layer[block], 1]
            if high < steps and tier[block, high] != 0 and gain > 0:
                break
            s = s + 1 if s + 1 < stays else 0
    block, low, high = np.int64(board.block[s]), np.int64(board.low[s]), np.int64(board.high[s])
    turn = 1 + int(u[2] * (len(board.room) - 1))
    part = int(u[3] * (high - low + 1))
    if u[0] < ROW:
        high = np.int64(board.high[min(s + 1 + int(u[3] * (LONGEST - 1)), board.stay[block, steps])])
    elif u[0] < ROW + board.cut:
        low += part
    elif u[0] < ROW + board.cut * 2:
        high = low + part
    elif u[0] < ROW + board.cut * 3:
        low += part
        turn = 0
    return block, low, high, np.uint8((tier[block, high] + turn) % len(board.room))


@nb.njit(cache=True, nogil=True, inline="always")  # type: ignore[untyped-decorator]
def _victim(
    board: Board, tier: Tiers, margin: Ints, t: int, full: int, first: int, start: int, picky: bool
) -> tuple[int, int]:
    """Block and state of whoever makes way at moment t; block -1 if nobody was found."""
    layers, steps = board.layers, board.steps
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
            end = np.int64(board.high[board.stay[block, state]])
            cost = _FREE
            if picky and end < steps:
                cost = max(margin[end * layers + layer, 0], _FREE)
            if cost < least:
                found, found_state, least = block, state, cost
            if cost == 0:
                break
        block += stride
        if block >= everything:
            block -= everything
    return found, found_state


@nb.njit(cache=True, nogil=True, inline="always")  # type: ignore[untyped-decorator]
def _undo(
    board: Board, tier: Tiers, counts: Ints, held: Held, spots: Ints, olds: Tiers, done: int, touched: Ints
) -> None:
    """Take back the paints of a move, the last one first."""
    shape = (board.steps, board.layers, board.prefill, board.size, len(board.room))
    for n in range(done - 1, -1, -1):
        block, low, high = spots[n]
        layer = np.int64(board.layer[block])
        local = block - layer * board.blocks
        own, reads = tier[block], board.reads[block]
        _paint(own, reads, counts, held, shape, board.inclusive, layer, local, low, high, olds[n], touched, 0)


@nb.njit(cache=True, nogil=True, inline="always")  # type: ignore[untyped-decorator]
def _make(
    board: Board, tier: Tiers, counts: Ints, held: Held, margin: Ints, u: Floats, spots: Ints, olds: Tiers,
    touched: Ints,
) -> tuple[bool, int, int]:  # fmt: skip
    """Repaint, and let others make way; return whether that keeps the rules, paints, and slots touched."""
    layers, reads, room, last = board.layers, board.reads, board.room, len(board.room) - 1
    shape = (board.steps, layers, board.prefill, board.size, last + 1)
    block, low, high, new = _propose(board, tier, margin, u)
    full, first, begin, end = new, block, low, high
    number = 0
    for done in range(VICTIMS + 1):
        layer = np.int64(board.layer[block])
        local = block - layer * board.blocks
        own = tier[block]
        olds[done, : high - low + 1] = new
        spots[done] = block, low, high
        number = _paint(
            own, reads[block], counts, held, shape, board.inclusive, layer, local, low, high, olds[done],
            touched, number,
        )  # fmt: skip
        if not _legal(own, reads[block], board.up, low - 1) or not _legal(own, reads[block], board.up, high):
            return False, done + 1, number
        if done and _overfull(held[new], room[new], layers, layer, low, high) >= 0:
            return False, done + 1, number
        t = _overfull(held[full], room[full], layers, np.int64(board.layer[first]), begin, end)
        if t < 0:
            return True, done + 1, number
        if full == last or done == VICTIMS:
            return False, done + 1, number
        start = int(u[5 + done] * (layers * board.blocks))
        block, state = _victim(board, tier, margin, t, full, first, start, u[4] < PICKY)
        if block < 0:
            return False, done + 1, number
        stay = board.stay[block, state]
        low = high = state
        while low > board.low[stay] and tier[block, low - 1] == full:
            low -= 1
        while high < board.high[stay] and tier[block, high + 1] == full:
            high += 1
        new = np.uint8(last - int(u[2] * (last - full)))
    return False, VICTIMS + 1, number


@nb.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
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
    """Try one move per row of draws on one chain; see `_anneal_moves.anneal`."""
    rows, base, off, latency, weighted = board.rows, board.base, board.off, board.latency, board.weighted
    olds, spots = np.empty((VICTIMS + 1, board.steps + 1), np.uint8), np.empty((VICTIMS + 1, 3), np.int64)
    touched = np.empty((VICTIMS + 1) * (board.steps + 1), np.int64)
    then = np.empty_like(touched)
    taken = 0
    for m in range(len(draws)):
        fine, done, number = _make(board, tier, counts, held, margin, draws[m], spots, olds, touched)
        delta = np.int64(0)
        if fine:
            for n in range(number):
                slot = touched[n]
                layer = slot % board.layers
                then[n] = _ticks(rows, base[layer], off, latency, weighted[layer], counts[slot])
                delta += then[n] - ticks[slot]
        if not fine or delta > limits[m]:
            _undo(board, tier, counts, held, spots, olds, done, touched)
            continue
        taken += 1
        for n in range(number):
            slot = touched[n]
            layer = slot % board.layers
            ticks[slot] = then[n]
            _margins(rows, base[layer], off, latency, weighted[layer], counts[slot], then[n], margin[slot])
    return taken
