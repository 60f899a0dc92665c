"""Compiled twin of the moves in `kvbound.solvers.annealing.moves`: the same results, one chain at a time."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kvbound.kernels import compiled
from kvbound.solvers.annealing.chains_numba import charge, slot_ticks, update_marginal
from kvbound.solvers.annealing.layout import (
    ABSENT,
    BLOCK,
    CANDIDATES,
    CARRIED,
    DUE,
    FINAL,
    GROWN,
    HIGH,
    LAST,
    LAYER,
    LOW,
    MAX_RUN,
    MAX_VICTIMS,
    PROBES,
    ROW,
    RUN_SHARE,
    STRIDE,
    TARGETED_SHARE,
    UNITS,
    UNLIMITED,
    Ints,
    SearchData,
    Tiers,
)

Floats = NDArray[np.float64]
Occupancy = NDArray[np.signedinteger[Any]]
Reassignment: TypeAlias = tuple[np.int64, np.int64, np.int64, np.uint8]
"""Block, first and last state, new tier."""

_NEVER = np.int64(np.iinfo(np.int64).max)
_FREE = np.int64(0)


@compiled(forceinline=True)
def _update_counts(
    data: SearchData, tier: Tiers, counts: Ints, change: Reassignment, touched: Ints, saved: Ints, number: int
) -> int:
    """Update the counts for a reassignment still to be made; return how many slots are touched by now.

    Parameters
    ----------
    touched, saved
        Slots, and their counts before the move.
    """
    block, low, high, new = change
    steps, tiers = data.steps, len(data.capacity)
    layer = np.int64(data.traits[block, LAYER])
    size = data.sizes[layer]
    within = np.int64(data.traits[block, ROW])
    quiet = data.single and data.movable and data.interval_of[block, low] == data.interval_of[block, high]
    for step in range(low - 1 if low > 0 else 0, high + 1 if high < steps else steps):
        before, after = tier[block, step], tier[block, step + 1]
        if quiet and before == after and low <= step < high:
            continue  # no read and no birth within an interval
        new_before = new if step >= low else before
        new_after = new if step < high else after
        read = np.int64(data.reads[0, block, step])
        grown = np.int64(data.tokens[within, step, GROWN])
        if read == 0 and grown == 0 and before == after and new_before == new_after:
            continue
        if before == new_before and after == new_after:
            continue
        slot = step * data.timed_layers + layer % data.timed_layers
        for n in range(number):
            if touched[n] == slot:
                break
        else:
            touched[number] = slot
            for c in range(3 * tiers):
                saved[number, c] = counts[slot, c]
            number += 1
        carried = np.int64(data.tokens[within, step, CARRIED])
        unread = carried - np.int64(data.reads[-1, block, step])
        share = read * size, carried * size, unread * size, grown * size
        charge(data, counts, slot, share, before, after, -1)
        charge(data, counts, slot, share, new_before, new_after, 1)
    return number


@compiled(forceinline=True)
def _reassign(
    data: SearchData, tier: Tiers, occupancy: Occupancy, change: Reassignment, old_tiers: Tiers, n: int,
    undo: bool,
) -> None:  # fmt: skip
    """Make reassignment n of a move and keep the old tiers, or restore them."""
    block, low, high, new = change
    layers, layer, capacity = data.layers, np.int64(data.traits[block, LAYER]), data.capacity
    last, units = data.traits[block, LAST], data.traits[block, UNITS]
    state = low
    while state <= high:  # in runs of states that change alike
        old, run = tier[block, state], state
        if undo:
            new = old_tiers[n, state - low]
        while state <= high and tier[block, state] == old and (not undo or old_tiers[n, state - low] == new):
            tier[block, state] = new
            if not undo:
                old_tiers[n, state - low] = old
            state += 1
        if old != new:
            start = (run - 1) * layers + layer + 1 if run > 0 else 0
            stop = min(min(state - 1, last) * layers + layer + 1, occupancy.shape[1])
            if capacity[old] < UNLIMITED:
                for t in range(start, stop):
                    occupancy[old, t] -= units
            if capacity[new] < UNLIMITED:
                for t in range(start, stop):
                    occupancy[new, t] += units


@compiled(forceinline=True)
def _legal(data: SearchData, tier: Tiers, block: int, step: int) -> bool:
    """Whether a block may pass from the state before a step's slot to the one after it."""
    if step < 0 or step >= data.steps:
        return True
    before, after = tier[block, step], tier[block, step + 1]
    if before == after:
        return True
    if before == ABSENT or after == ABSENT:
        return True
    return data.legal[int(data.reads[0, block, step] > 0), before, after]


@compiled(forceinline=True)
def _overfull(data: SearchData, occupancy: Occupancy, full: int, block: int, low: int, high: int) -> int:
    """First moment of a block's states at which a tier exceeds its capacity, -1 if none."""
    layers, layer, capacity = data.layers, np.int64(data.traits[block, LAYER]), data.capacity[full]
    if capacity < UNLIMITED:
        start = (low - 1) * layers + layer + 1 if low > 0 else 0
        stop = min(high * layers + layer + 1, occupancy.shape[1])
        for t in range(start, stop):
            if occupancy[full, t] > capacity:
                return t
    return -1


@compiled(forceinline=True)
def _propose(data: SearchData, tier: Tiers, marginal: Ints, draws: Floats, m: int) -> Reassignment:
    """Block, first and last state and new tier of a move."""
    intervals = len(data.intervals)
    s = int(draws[m, 1] * intervals)
    if draws[m, 4] < TARGETED_SHARE:
        for _ in range(CANDIDATES):
            due = data.intervals[s, DUE]
            block, high = data.intervals[s, BLOCK], data.intervals[s, HIGH]
            if due >= 0 and marginal[due, 1] > 0 and tier[block, high] != 0:
                break
            s = s + 1 if s + 1 < intervals else 0
    block, low = np.int64(data.intervals[s, BLOCK]), np.int64(data.intervals[s, LOW])
    high = np.int64(data.intervals[s, HIGH])
    shift = 1 + int(draws[m, 2] * (len(data.capacity) - 1))
    part = int(draws[m, 3] * (high - low + 1))
    if draws[m, 0] < RUN_SHARE:
        further = min(s + 1 + int(draws[m, 3] * (MAX_RUN - 1)), int(data.traits[block, FINAL]))
        high = np.int64(data.intervals[further, HIGH])
    elif draws[m, 0] < RUN_SHARE + data.partial_share:
        low += part
    elif draws[m, 0] < RUN_SHARE + data.partial_share * 2:
        high = low + part
    elif draws[m, 0] < RUN_SHARE + data.partial_share * 3:
        low += part
        shift = 0
    return block, low, high, np.uint8((tier[block, high] + shift) % len(data.capacity))


@compiled(forceinline=True)
def _victim(
    data: SearchData, tier: Tiers, marginal: Ints, t: int, full: int, first: int, start: int, targeted: bool
) -> tuple[int, int]:
    """Block and state to evict at moment t; block -1 if none was found."""
    layers = data.layers
    all_blocks = layers * data.blocks
    stride = STRIDE % all_blocks
    complete = (t - 1) // layers if t > 0 else 0  # steps of which all slots are over
    ahead = t - 1 - complete * layers if t > 0 else -1  # layers up to this one are a state further
    found, found_state, least = -1, 0, _NEVER
    block = start
    for _ in range(PROBES):
        layer = data.traits[block, LAYER]
        state = complete + 1 if layer <= ahead else complete
        if tier[block, state] == full and data.interval_of[block, state] >= 0 and block != first:
            due = data.intervals[data.interval_of[block, state], DUE]
            cost = max(marginal[due, 0], _FREE) if targeted and due >= 0 else _FREE
            if cost < least:
                found, found_state, least = block, state, cost
            if cost == 0:
                break
        block += stride
        if block >= all_blocks:
            block -= all_blocks
    return found, found_state


@compiled(forceinline=True)
def _undo(
    data: SearchData, tier: Tiers, counts: Ints, occupancy: Occupancy, spans: Ints, old_tiers: Tiers,
    changes: int, touched: Ints, saved: Ints, number: int,
) -> None:  # fmt: skip
    """Undo the reassignments of a move, the last one first."""
    for n in range(changes - 1, -1, -1):
        change = spans[n, 0], spans[n, 1], spans[n, 2], np.uint8(0)
        _reassign(data, tier, occupancy, change, old_tiers, n, True)
    for n in range(number):
        for c in range(counts.shape[1]):
            counts[touched[n], c] = saved[n, c]


@compiled(forceinline=True)
def _make(
    data: SearchData, tier: Tiers, counts: Ints, occupancy: Occupancy, marginal: Ints, draws: Floats, m: int,
    spans: Ints, old_tiers: Tiers, touched: Ints, saved: Ints,
) -> tuple[bool, int, int]:  # fmt: skip
    """Reassign a block and evict others; return whether that keeps the rules, and how many blocks and slots
    it changed.
    """
    last = len(data.capacity) - 1
    block, low, high, new = _propose(data, tier, marginal, draws, m)
    full, first, begin, end = new, block, low, high
    number = 0
    for n in range(MAX_VICTIMS + 1):
        change = block, low, high, new
        spans[n, 0], spans[n, 1], spans[n, 2] = block, low, high
        number = _update_counts(data, tier, counts, change, touched, saved, number)
        _reassign(data, tier, occupancy, change, old_tiers, n, False)
        if not _legal(data, tier, block, low - 1) or not _legal(data, tier, block, high):
            return False, n + 1, number
        if n and _overfull(data, occupancy, new, block, low, high) >= 0:
            return False, n + 1, number
        t = _overfull(data, occupancy, full, first, begin, end)
        if t < 0:
            return True, n + 1, number
        if full == last or n == MAX_VICTIMS:
            return False, n + 1, number
        start = int(draws[m, 5 + n] * (data.layers * data.blocks))
        targeted = draws[m, 4] < TARGETED_SHARE
        block, state = _victim(data, tier, marginal, t, full, first, start, targeted)
        if block < 0:
            return False, n + 1, number
        interval = data.interval_of[block, state]
        low = high = state
        while low > data.intervals[interval, LOW] and tier[block, low - 1] == full:
            low -= 1
        while high < data.intervals[interval, HIGH] and tier[block, high + 1] == full:
            high += 1
        new = np.uint8(last - int(draws[m, 2] * (last - full)))
    return False, MAX_VICTIMS + 1, number


@compiled()
def try_moves(
    data: SearchData,
    tier: Tiers,
    counts: Ints,
    occupancy: Occupancy,
    ticks: Ints,
    marginal: Ints,
    draws: Floats,
    limits: Ints,
) -> int:
    """Try moves on one chain; return how many were accepted.

    Parameters
    ----------
    tier, counts, occupancy, ticks, marginal
        Arrays of one chain of `Chains`.
    draws, limits
        As in `kvbound.solvers.annealing.tempering.try_moves`, for one chain: shapes (moves, DRAWS), (moves,).
    """
    old_tiers = np.empty((MAX_VICTIMS + 1, data.steps + 1), np.uint8)
    spans = np.empty((MAX_VICTIMS + 1, 3), np.int64)
    touched = np.empty((MAX_VICTIMS + 1) * (data.steps + 1), np.int64)
    new_ticks, saved = np.empty_like(touched), np.empty((len(touched), counts.shape[1]), np.int64)
    accepted = 0
    for m in range(len(draws)):
        valid, changes, number = _make(
            data, tier, counts, occupancy, marginal, draws, m, spans, old_tiers, touched, saved
        )
        delta = np.int64(0)
        if valid:
            for n in range(number):
                new_ticks[n] = slot_ticks(data, counts, touched[n])
                delta += new_ticks[n] - ticks[touched[n]]
        if not valid or delta > limits[m]:
            _undo(data, tier, counts, occupancy, spans, old_tiers, changes, touched, saved, number)
            continue
        accepted += 1
        for n in range(number):
            ticks[touched[n]] = new_ticks[n]
            update_marginal(data, counts, touched[n], new_ticks[n], marginal)
    return accepted
