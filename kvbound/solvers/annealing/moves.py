"""The moves of annealing, in NumPy, all chains at once.

A move changes the tier of a block for an interval, for a few consecutive ones, or for a part of one. Where
that overfills the new tier, blocks that are there at the first overfull moment are evicted, up to
MAX_VICTIMS of them, each for its own interval. A move that still does not fit, or breaks a rule, is undone,
and so is one that the temperature rejects. Most moves are *targeted*: they take a block whose next read
gains time as a hit, and evict one whose miss costs least. On a slow link this is decisive: a slot takes as
long as its busiest resource, so that a miss is free where the link idles, and a hit gains nothing there.

A move is determined by `DRAWS` uniform random numbers, drawn by the caller. The compiled twin,
`kvbound.solvers.annealing.moves_numba`, makes the same moves from the same numbers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvbound.solvers.annealing.chains import Chains, Mask, Share, charge, marginal_ticks, slot_ticks
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

_NEVER = np.iinfo(np.int64).max


def try_moves(data: SearchData, chains: Chains, draws: Floats, limits: Ints) -> Ints:
    """Try moves on all chains; see `kvbound.solvers.annealing.tempering.try_moves`."""
    accepted = np.zeros(chains.count, np.int64)
    for u, limit in zip(draws, limits, strict=True):
        accepted += _Moves(data, chains, u).run(limit)
    return accepted


class _Reassignment(NamedTuple):
    """Blocks given new tiers, at most one per chain, and what is needed to undo that."""

    chain: Ints
    block: Ints
    low: Ints
    high: Ints
    row: Ints
    """For every state that changed hands, the position of its block in the arrays above."""
    old: Tiers
    """Former tier of each of these states."""
    slots: Ints
    """Slots whose counts changed, as chain * slots of counts + slot."""


class _Moves:
    """One move of every chain."""

    def __init__(self, data: SearchData, chains: Chains, u: Floats) -> None:
        self.data, self.chains, self.u = data, chains, u
        self.last = data.tiers - 1
        self.reassigned: list[_Reassignment] = []

    def run(self, limit: Ints) -> Mask:
        """Make the moves and undo those beyond the limit; return which chains kept theirs."""
        valid = self._make()
        slot = np.unique(np.concatenate([each.slots for each in self.reassigned]))
        slot = slot[valid[slot // self.data.timed_slots]]
        chain, slot = np.divmod(slot, self.data.timed_slots)
        layer, count = slot % self.data.timed_layers, self.chains.counts[chain, slot]
        ticks = slot_ticks(self.data, count, layer)
        delta = np.zeros(len(valid), np.int64)
        np.add.at(delta, chain, ticks - self.chains.ticks[chain, slot])
        kept = valid & (delta <= limit)
        for each in reversed(self.reassigned):
            undo = ~kept[each.chain]
            chains, block = each.chain[undo], each.block[undo]
            self._reassign(chains, block, each.low[undo], each.high[undo], each.old[undo[each.row]])
        here = kept[chain]
        chain, slot = chain[here], slot[here]
        self.chains.ticks[chain, slot] = ticks[here]
        self.chains.marginal[chain, slot] = marginal_ticks(self.data, count[here], layer[here], ticks[here])
        return kept

    def _make(self) -> Mask:
        """Reassign blocks and evict others; return in which chains the outcome keeps the rules."""
        chain, block, low, high, new = self._propose()
        valid = np.ones(len(chain), bool)
        first, begin, end, target = block, low, high, new
        for victims in range(MAX_VICTIMS + 1):
            row, _ = _concatenated(low, high)
            self.reassigned.append(self._reassign(chain, block, low, high, new[row]))
            legal = self._legal(chain, block, low - 1) & self._legal(chain, block, high)
            if victims:
                legal &= self._overfull(chain, block, low, high, new) < 0
            valid[chain[~legal]] = False
            chain = chain[legal]
            t = self._overfull(chain, first[chain], begin[chain], end[chain], target[chain])
            overfull = t >= 0
            # nothing can be evicted from the slowest tier
            hopeless = overfull & ((target[chain] == self.last) | (victims == MAX_VICTIMS))
            valid[chain[hopeless]] = False
            chain, t = chain[overfull & ~hopeless], t[overfull & ~hopeless]
            if not len(chain):
                break
            block, state, found = self._victims(chain, t, target[chain], first[chain], victims)
            valid[chain[~found]] = False
            chain, block, state = chain[found], block[found], state[found]
            if not len(chain):
                break
            low, high = self._run_in_tier(chain, block, state, target[chain])
            slower = self.last - target[chain].astype(np.int64)
            new = (self.last - (self.u[chain, 2] * slower).astype(np.int64)).astype(np.uint8)
        return valid

    def _propose(self) -> tuple[Ints, Ints, Ints, Ints, Tiers]:
        """Chain, block, first and last state and new tier of every chain's move."""
        data, u, tier = self.data, self.u, self.chains.tier
        chain = np.arange(len(u))
        s = self._choose_intervals()
        block, low, high = (data.intervals[s, column].astype(np.int64) for column in (BLOCK, LOW, HIGH))
        further = np.minimum(s + 1 + (u[:, 3] * (MAX_RUN - 1)).astype(np.int64), data.traits[block, FINAL])
        part = (u[:, 3] * (high - low + 1)).astype(np.int64)
        kind = np.searchsorted(RUN_SHARE + data.partial_share * np.arange(4), u[:, 0], side="right")
        high = np.select(
            [kind == 0, kind == 2], [data.intervals[further, HIGH].astype(np.int64), low + part], high
        )
        low = np.where((kind == 1) | (kind == 3), low + part, low)
        step = 1 + (u[:, 2] * (data.tiers - 1)).astype(np.int64)
        new = (tier[chain, block, high] + np.where(kind == 3, 0, step)) % data.tiers
        return chain, block, low, high, new.astype(np.uint8)

    def _choose_intervals(self) -> Ints:
        """The interval that each chain moves: for targeted moves, one whose next read gains by a hit."""
        data, u, intervals = self.data, self.u, len(self.data.intervals)
        s = (u[:, 1] * intervals).astype(np.int64)
        chain = np.flatnonzero(u[:, 4] < TARGETED_SHARE)
        near = (s[chain, None] + np.arange(CANDIDATES)) % intervals
        block, high, due = (data.intervals[near, column] for column in (BLOCK, HIGH, DUE))
        gains = (due >= 0) & (self.chains.marginal[chain[:, None], np.maximum(due, 0), 1] > 0)
        gains &= self.chains.tier[chain[:, None], block, high] != 0
        ahead = np.where(gains.any(axis=1), gains.argmax(axis=1), CANDIDATES)
        s[chain] = (s[chain] + ahead) % intervals
        return s

    def _victims(
        self, chain: Ints, t: Ints, full: Tiers, first: Ints, victims: int
    ) -> tuple[Ints, Ints, Mask]:
        """Block and state to evict in each chain at moment t, and where one was found."""
        data, layers = self.data, self.data.layers
        all_blocks = layers * data.blocks
        start = (self.u[chain, 5 + victims] * all_blocks).astype(np.int64)
        block = (start[:, None] + STRIDE * np.arange(PROBES)) % all_blocks
        layer, t = block // data.blocks, t[:, None]
        state = np.where(t > layer, (t - 1 - layer) // layers + 1, 0)
        interval = data.interval_of[block, state]
        there = self.chains.tier[chain[:, None], block, state] == full[:, None]
        there &= (interval >= 0) & (block != first[:, None])
        due = data.intervals[interval, DUE]
        cost = np.where(due >= 0, self.chains.marginal[chain[:, None], np.maximum(due, 0), 0], 0)
        cost = np.where(self.u[chain, 4, None] < TARGETED_SHARE, np.maximum(cost, 0), 0)
        best = np.where(there, cost, _NEVER).argmin(axis=1)
        rows = np.arange(len(chain))
        return block[rows, best], state[rows, best], there.any(axis=1)

    def _run_in_tier(self, chain: Ints, block: Ints, state: Ints, full: Tiers) -> tuple[Ints, Ints]:
        """First and last of the states around one, within its interval, that are in the same tier."""
        interval = self.data.interval_of[block, state]
        low, high = (self.data.intervals[interval, column].astype(np.int64) for column in (LOW, HIGH))
        row, at = _concatenated(low, high)
        other = self.chains.tier[chain[row], block[row], at] != full[row]
        begin = _range_starts(low, high)
        before = np.where(other & (at < state[row]), at + 1, low[row])
        after = np.where(other & (at > state[row]), at - 1, high[row])
        return np.maximum.reduceat(before, begin), np.minimum.reduceat(after, begin)

    def _legal(self, chain: Ints, block: Ints, step: Ints) -> Mask:
        """Whether blocks may pass from the state before a step's slot to the one after it."""
        inside = (step >= 0) & (step < self.data.steps)
        step = np.where(inside, step, 0)
        before, after = (self.chains.tier[chain, block, step + n] for n in (0, 1))
        read = (self.data.reads[0][block, step] > 0).astype(np.int64)
        moves = self.data.legal[read, np.minimum(before, self.last), np.minimum(after, self.last)]
        return ~inside | (before == ABSENT) | (after == ABSENT) | (before == after) | moves

    def _overfull(self, chain: Ints, block: Ints, low: Ints, high: Ints, tier: Tiers) -> Ints:
        """First moment of these states at which a tier exceeds its capacity, -1 if none."""
        if not len(chain):
            return chain
        start, stop = self._moments(block // self.data.blocks, low, high)
        row, at = _concatenated(start, stop)
        over = self.chains.occupancy[chain[row], tier[row], at] > self.data.capacity[tier[row]]
        t = np.minimum.reduceat(np.where(over, at, _NEVER), _range_starts(start, stop))
        return np.where(t == _NEVER, -1, t)

    def _moments(self, layer: Ints, low: Ints, high: Ints) -> tuple[Ints, Ints]:
        """First and last of the moments (0 the start, s + 1 after slot s) in which states hold."""
        layers = self.data.layers
        start = np.where(low > 0, (low - 1) * layers + layer + 1, 0)
        return start, np.minimum(high * layers + layer, self.data.slots)

    def _reassign(self, chain: Ints, block: Ints, low: Ints, high: Ints, new: Tiers) -> _Reassignment:
        """Give blocks new tiers, state by state, and update counts and occupancy."""
        if not len(chain):
            return _Reassignment(chain, block, low, high, chain, new, chain)
        data, tier = self.data, self.chains.tier
        slots = self._update_counts(chain, block, low, high, new)
        row, state = _concatenated(low, high)
        old = tier[chain[row], block[row], state]
        changed = (old != new) & (state <= data.traits[block[row], LAST])  # beyond, no room is taken
        where = row[changed]
        layer = block[where] // data.blocks
        units = data.traits[block[where], UNITS]
        moments, at = _concatenated(*self._moments(layer, state[changed], state[changed]))
        occupancy, where = self.chains.occupancy, chain[where[moments]]
        for states, change in ((old, -1), (new, 1)):
            of = states[changed][moments]
            occupancy[where, of, at] += change * units[moments] * (data.capacity[of] < UNLIMITED)
        tier[chain[row], block[row], state] = new
        return _Reassignment(chain, block, low, high, row, old, slots)

    def _update_counts(self, chain: Ints, block: Ints, low: Ints, high: Ints, new: Tiers) -> Ints:
        """Update the counts of the slots around states that get new tiers; return these slots."""
        data = self.data
        begin = np.maximum(low - 1, 0)
        row, step = _concatenated(begin, np.minimum(high, data.steps - 1))
        at = (_range_starts(low, high) - low)[row] + step  # position in `new` of the state before the slot
        chains, blocks = chain[row], block[row]
        before, after = (self.chains.tier[chains, blocks, step + n] for n in (0, 1))
        new_before = np.where(step >= low[row], new[np.maximum(at, 0)], before)
        new_after = np.where(step < high[row], new[np.minimum(at + 1, len(new) - 1)], after)
        layer, within = blocks // data.blocks, data.traits[blocks, ROW]
        read, grown = data.reads[0][blocks, step], data.tokens[within, step, GROWN]
        busy = (read > 0) | (grown > 0) | (before != after) | (new_before != new_after)
        busy &= (before != new_before) | (after != new_after)
        size, step, layer = data.sizes[layer[busy]], step[busy], layer[busy]
        carried = data.tokens[within[busy], step, CARRIED].astype(np.int64) * size
        unread = carried - data.reads[-1][blocks[busy], step].astype(np.int64) * size
        share = Share(
            read[busy].astype(np.int64) * size, carried, unread, grown[busy].astype(np.int64) * size
        )
        chains, slot = chains[busy], step * data.timed_layers + layer % data.timed_layers
        given = data, self.chains.counts, chains, slot, share
        charge(*given, before[busy], after[busy], -1)
        charge(*given, new_before[busy], new_after[busy], 1)
        return chains * data.timed_slots + slot


def _range_starts(low: Ints, high: Ints) -> Ints:
    """Where each of the ranges low..high begins in their concatenation."""
    length = high - low + 1
    return np.cumsum(length) - length


def _concatenated(low: Ints, high: Ints) -> tuple[Ints, Ints]:
    """Concatenate the ranges low..high: for every entry the number of its range, and the value."""
    length = high - low + 1
    row = np.repeat(np.arange(len(length)), length)
    return row, np.arange(len(row)) + (low - _range_starts(low, high))[row]
