"""The moves of annealing, all chains at once.

A move repaints a stay of a block, a few stays in a row, or a part of one. Where that overfills its new
tier, blocks that are there at the first overfull moment make way, up to VICTIMS of them, each with its
own stay; what still does not fit, or breaks a rule, is undone, and so is what the temperature refuses.
Most moves are *picky*: they take an item whose next read gains time if it is a hit, and send away one
whose miss costs least. On a slow link that is what matters: a slot takes as long as its busiest resource,
so a miss is free where the link idles, and a hit is worth nothing there.

A move is decided by one row of uniform random numbers, drawn by the caller: `DRAWS` of them. The
compiled twin, `kvbound.solvers.annealing.moves_numba`, makes the same moves from the same numbers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvbound.solvers.annealing.chains import Chains, margins, slot_ticks
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
Mask = NDArray[np.bool_]


class _Paint(NamedTuple):
    """Blocks given new tiers, one per chain named: what was there before, state by state."""

    chain: Ints
    block: Ints
    low: Ints
    high: Ints
    row: Ints
    """Position of every repainted state's block in the arrays above."""
    old: Tiers
    slots: Ints
    """Slots whose counts changed, as chain * slots + slot."""


class _Moves:
    """One move of every chain."""

    def __init__(self, board: Board, chains: Chains, u: Floats) -> None:
        self.board, self.chains, self.u = board, chains, u
        self.last = board.tiers - 1
        self.paints: list[_Paint] = []

    def run(self, limit: Ints) -> Mask:
        """Make the moves, keep what is within the limit; return who kept theirs."""
        fine = self._make()
        slot = np.unique(np.concatenate([paint.slots for paint in self.paints]))
        slot = slot[fine[slot // self.board.slots]]
        chain, slot = np.divmod(slot, self.board.slots)
        layer, count = slot % self.board.layers, self.chains.counts[chain, slot]
        ticks = slot_ticks(self.board, count, layer)
        delta = np.zeros(len(fine), np.int64)
        np.add.at(delta, chain, ticks - self.chains.ticks[chain, slot])
        kept = fine & (delta <= limit)
        for paint in reversed(self.paints):
            lost = ~kept[paint.chain]
            chains, block = paint.chain[lost], paint.block[lost]
            self._paint(chains, block, paint.low[lost], paint.high[lost], paint.old[lost[paint.row]])
        here = kept[chain]
        chain, slot = chain[here], slot[here]
        self.chains.ticks[chain, slot] = ticks[here]
        self.chains.margin[chain, slot] = margins(self.board, count[here], layer[here], ticks[here])
        return kept

    def _make(self) -> Mask:
        """Repaint, and let others make way; return where the outcome keeps the rules."""
        chain, block, low, high, new = self._propose()
        fine = np.ones(len(chain), bool)
        first, begin, end, target = block, low, high, new
        for victims in range(VICTIMS + 1):
            row, _ = _ragged(low, high)
            self.paints.append(self._paint(chain, block, low, high, new[row]))
            good = self._legal(chain, block, low - 1) & self._legal(chain, block, high)
            if victims:
                good &= self._overfull(chain, block, low, high, new) < 0
            fine[chain[~good]] = False
            chain = chain[good]
            t = self._overfull(chain, first[chain], begin[chain], end[chain], target[chain])
            open_ = t >= 0
            # what the slowest tier cannot hold has nowhere to go
            hopeless = open_ & ((target[chain] == self.last) | (victims == VICTIMS))
            fine[chain[hopeless]] = False
            chain, t = chain[open_ & ~hopeless], t[open_ & ~hopeless]
            if not len(chain):
                break
            block, state, found = self._victim(chain, t, target[chain], first[chain], victims)
            fine[chain[~found]] = False
            chain, block, state = chain[found], block[found], state[found]
            if not len(chain):
                break
            low, high = self._run(chain, block, state, target[chain])
            below = self.last - target[chain].astype(np.int64)
            new = (self.last - (self.u[chain, 2] * below).astype(np.int64)).astype(np.uint8)
        return fine

    def _propose(self) -> tuple[Ints, Ints, Ints, Ints, Tiers]:
        """Chain, block, first and last state and new tier of every chain's move."""
        board, u, tier = self.board, self.u, self.chains.tier
        chain = np.arange(len(u))
        s = self._stay()
        block, low, high = (each[s].astype(np.int64) for each in (board.block, board.low, board.high))
        further = np.minimum(
            s + 1 + (u[:, 3] * (LONGEST - 1)).astype(np.int64), board.stay[block, board.steps]
        )
        part = (u[:, 3] * (high - low + 1)).astype(np.int64)
        kind = np.searchsorted(ROW + board.cut * np.arange(4), u[:, 0], side="right")
        high = np.select([kind == 0, kind == 2], [board.high[further].astype(np.int64), low + part], high)
        low = np.where((kind == 1) | (kind == 3), low + part, low)
        step = 1 + (u[:, 2] * (board.tiers - 1)).astype(np.int64)
        new = (tier[chain, block, high] + np.where(kind == 3, 0, step)) % board.tiers
        return chain, block, low, high, new.astype(np.uint8)

    def _stay(self) -> Ints:
        """The stays to move; picky moves look for one whose next read could become a hit that counts."""
        board, u, stays = self.board, self.u, len(self.board.block)
        s = (u[:, 1] * stays).astype(np.int64)
        chain = np.flatnonzero(u[:, 4] < PICKY)
        near = (s[chain, None] + np.arange(LOOK)) % stays
        block, high = board.block[near], board.high[near]
        slot = np.minimum(high, board.steps - 1).astype(np.int64) * board.layers + block // board.blocks
        worth = self.chains.margin[chain[:, None], slot, 1] > 0
        worth &= (self.chains.tier[chain[:, None], block, high] != 0) & (high < board.steps)
        ahead = np.where(worth.any(axis=1), worth.argmax(axis=1), LOOK)
        s[chain] = (s[chain] + ahead) % stays
        return s

    def _victim(
        self, chain: Ints, t: Ints, full: Tiers, first: Ints, victims: int
    ) -> tuple[Ints, Ints, Mask]:
        """Block and state of whoever makes way at moment t, and where somebody was found."""
        board, layers = self.board, self.board.layers
        everything = layers * board.blocks
        start = (self.u[chain, 5 + victims] * everything).astype(np.int64)
        block = (start[:, None] + STRIDE * np.arange(PROBES)) % everything
        layer, t = block // board.blocks, t[:, None]
        state = np.where(t > layer, (t - 1 - layer) // layers + 1, 0)
        stay = board.stay[block, state]
        there = self.chains.tier[chain[:, None], block, state] == full[:, None]
        there &= (stay >= 0) & (block != first[:, None])
        end = board.high[stay].astype(np.int64)
        slot = np.minimum(end, board.steps - 1) * layers + layer
        cost = np.where(end < board.steps, self.chains.margin[chain[:, None], slot, 0], 0)
        cost = np.where(self.u[chain, 4, None] < PICKY, np.maximum(cost, 0), 0)
        best = np.where(there, cost, _NEVER).argmin(axis=1)
        rows = np.arange(len(chain))
        return block[rows, best], state[rows, best], there.any(axis=1)

    def _run(self, chain: Ints, block: Ints, state: Ints, full: Tiers) -> tuple[Ints, Ints]:
        """First and last state of a stay, around one, that are in the same tier."""
        stay = self.board.stay[block, state]
        low, high = self.board.low[stay].astype(np.int64), self.board.high[stay].astype(np.int64)
        row, at = _ragged(low, high)
        other = self.chains.tier[chain[row], block[row], at] != full[row]
        begin = _starts(low, high)
        before = np.where(other & (at < state[row]), at + 1, low[row])
        after = np.where(other & (at > state[row]), at - 1, high[row])
        return np.maximum.reduceat(before, begin), np.minimum.reduceat(after, begin)

    def _legal(self, chain: Ints, block: Ints, step: Ints) -> Mask:
        """Whether blocks may pass from the state before a step's slot to the one after it."""
        inside = (step >= 0) & (step < self.board.steps)
        step = np.where(inside, step, 0)
        before, after = (self.chains.tier[chain, block, step + n] for n in (0, 1))
        up = np.full(len(chain), self.board.up == 2) | (self.board.reads[block, step] > 0)
        moves = (after > before) | up if self.board.up else np.zeros(len(chain), bool)
        return ~inside | (before == UNBORN) | (before == after) | moves

    def _overfull(self, chain: Ints, block: Ints, low: Ints, high: Ints, tier: Tiers) -> Ints:
        """First moment of these states at which a tier holds more than it can, -1 if none."""
        if not len(chain):
            return chain
        start, stop = self._moments(block // self.board.blocks, low, high)
        row, at = _ragged(start, stop)
        over = self.chains.held[chain[row], tier[row], at] > self.board.room[tier[row]]
        t = np.minimum.reduceat(np.where(over, at, _NEVER), _starts(start, stop))
        return np.where(t == _NEVER, -1, t)

    def _moments(self, layer: Ints, low: Ints, high: Ints) -> tuple[Ints, Ints]:
        """First and last of the moments (0 the start, s + 1 after slot s) that states last."""
        layers = self.board.layers
        start = np.where(low > 0, (low - 1) * layers + layer + 1, 0)
        return start, np.minimum(high * layers + layer, self.board.slots)

    def _paint(self, chain: Ints, block: Ints, low: Ints, high: Ints, new: Tiers) -> _Paint:
        """Give blocks new tiers, state by state, and bring all counts up to date."""
        if not len(chain):
            return _Paint(chain, block, low, high, chain, new, chain)
        board, tier = self.board, self.chains.tier
        layer = block // board.blocks
        slots = self._recount(chain, block, low, high, new)
        row, state = _ragged(low, high)
        old = tier[chain[row], block[row], state]
        changed = old != new
        where = row[changed]
        moments, at = _ragged(*self._moments(layer[where], state[changed], state[changed]))
        held, where = self.chains.held, chain[where[moments]]
        for states, change in ((old, -1), (new, 1)):
            of = states[changed][moments]
            held[where, of, at] += change * (board.room[of] < UNLIMITED)
        tier[chain[row], block[row], state] = new
        return _Paint(chain, block, low, high, row, old, slots)

    def _recount(self, chain: Ints, block: Ints, low: Ints, high: Ints, new: Tiers) -> Ints:
        """Bring the counts of the slots around repainted states up to date; return these slots."""
        board = self.board
        begin = np.maximum(low - 1, 0)
        row, step = _ragged(begin, np.minimum(high, board.steps - 1))
        at = (_starts(low, high) - low)[row] + step  # of the state before the step's slot in `new`
        who, where = chain[row], block[row]
        before, after = (self.chains.tier[who, where, step + n] for n in (0, 1))
        then = np.where(step >= low[row], new[np.maximum(at, 0)], before)
        next_ = np.where(step < high[row], new[np.minimum(at + 1, len(new) - 1)], after)
        layer = where // board.blocks
        token = board.prefill + step
        past = np.minimum(token - (where - layer * board.blocks) * board.size, board.size)
        newborn = token // board.size == where - layer * board.blocks
        read = board.reads[where, step].astype(np.int64)
        busy = (read > 0) | newborn | (before != after) | (then != next_)
        busy &= (before != then) | (after != next_)
        who, slot = who[busy], (step * board.layers + layer)[busy]
        about = (read[busy], past[busy], newborn[busy])
        self._charge(who, slot, *about, before[busy], after[busy], -1)
        self._charge(who, slot, *about, then[busy], next_[busy], 1)
        return who * board.slots + slot

    def _charge(
        self, chain: Ints, slot: Ints, read: Ints, past: Ints, newborn: Mask, before: Tiers, after: Tiers,
        sign: int,
    ) -> None:  # fmt: skip
        """Add or take away what blocks do in slots, each chain's slot at most once."""
        counts, tiers, copied = self.chains.counts, self.board.tiers, self.board.inclusive
        there = before != UNBORN
        counts[chain[there], slot[there], before[there]] += sign * read[there]
        moved = there & (before != after) & ~(copied & (after == self.last))
        counts[chain[moved], slot[moved], tiers + before[moved]] += sign * (past - read)[moved]
        counts[chain[moved], slot[moved], 2 * tiers + after[moved]] += sign * past[moved]
        counts[chain[newborn], slot[newborn], 2 * tiers + after[newborn]] += sign
        through = newborn & copied & (after != self.last)
        counts[chain[through], slot[through], 2 * tiers + self.last] += sign


_NEVER = np.iinfo(np.int64).max


def _starts(low: Ints, high: Ints) -> Ints:
    """Where each of the ranges low..high begins when they are laid end to end."""
    length = high - low + 1
    return np.cumsum(length) - length


def _ragged(low: Ints, high: Ints) -> tuple[Ints, Ints]:
    """Lay the ranges low..high end to end: the number of the range, and the value."""
    length = high - low + 1
    row = np.repeat(np.arange(len(length)), length)
    return row, np.arange(len(row)) + (low - _starts(low, high))[row]
