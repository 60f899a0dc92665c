"""Best paths of blocks over any number of tiers, under any rules, at given prices.

A block is a state per tier and a shortest path over the steps, swept from the last step to the first, all
blocks at once; a forward sweep then counts what the best paths use.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from kvbound.instance import Initial, Instance, Migration
from kvbound.solvers._dual_items import NOBODY, PROMPT, Demand, Lanes, forced_tiers, holds, occupancy

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Step:
    """One step of all lanes."""

    read: Ints
    """Tokens read of each block, (layers, blocks)."""
    born: Ints
    """Tokens of each block that exist before the step, (layers, blocks)."""
    opens: NDArray[np.bool_]
    """Blocks that begin with this step's token, (layers, blocks)."""
    grows: NDArray[np.bool_]
    """Blocks to which this step's token is added."""


@dataclass(frozen=True, eq=False)
class ManyTiers:
    """The blocks of some layers, or a sample of them."""

    instance: Instance
    lanes: Lanes

    def evaluate(self, prices: Floats, capacity: Floats, demand: bool = True) -> tuple[float, Demand | None]:
        """Return what all best paths cost, and what they use; see `Items`."""
        instance, tiers, steps = self.instance, self.instance.tiers, self.instance.decode_steps
        mine = prices[:, :, self.lanes.layers]
        hold, start = holds(instance, capacity, self.lanes.layers)
        shape = self.lanes.blocks.shape
        value, total = np.zeros((tiers, *shape)), np.zeros(shape)
        choices = np.zeros((steps if demand else 0, tiers, *shape), np.uint8)
        births = np.zeros(shape, np.uint8)
        for step in range(steps - 1, -1, -1):
            now = self._step(step)
            value += hold[:, step, :, None]
            birth = self._birth_prices(mine[:, step])[..., None]
            entry = value + birth
            np.copyto(total, entry.min(axis=0), where=now.opens)
            np.copyto(births, entry.argmin(axis=0).astype(np.uint8), where=now.opens)
            np.copyto(value, entry, where=now.grows)
            choice = self._move(value, mine[:, step, :, None], now)
            value += now.read * mine[:tiers, step, :, None]
            if demand:
                choices[step] = choice
        value += start[:, :, None]
        first = self._first(value)
        prompt = self.lanes.born == PROMPT
        at_start = np.take_along_axis(value, first[None].astype(np.int64), 0)[0]
        np.copyto(total, at_start, where=prompt)
        cost = float((self.lanes.weight * total.sum(axis=1, where=self.lanes.born != NOBODY)).sum())
        if not demand:
            return cost, None
        return cost, self._follow(choices, births, np.where(prompt, first, tiers).astype(np.int64))

    def _step(self, step: int) -> _Step:
        size, token = self.instance.granularity, self.instance.prefill_tokens + step
        bits = np.unpackbits(self.lanes.rows[step].view(np.uint8), axis=1, bitorder="little")
        shape = self.lanes.blocks.shape
        read = bits[:, : shape[1] * size].reshape(*shape, size).sum(axis=2, dtype=np.int64)
        first = self.lanes.blocks * size
        born = np.clip(token - first, 0, size)
        return _Step(read, born, self.lanes.born == step, (first < token) & (token < first + size))

    def _birth_prices(self, prices: Floats) -> Floats:
        """Price of a birth into each tier, (K, layers); inclusive births are written through."""
        tiers = self.instance.tiers
        birth = prices[2 * tiers :].copy()
        if self.instance.inclusive:
            birth[:-1] += prices[-1]
        return birth

    def _moves(self) -> Iterator[tuple[int, int, bool]]:
        """Allowed moves: from, to, and whether something is written."""
        if self.instance.rules.migration is Migration.NONE:
            return
        tiers = self.instance.tiers
        for old, new in permutations(range(tiers), 2):
            yield old, new, not (self.instance.inclusive and new == tiers - 1)

    def _move(self, value: Floats, prices: Floats, now: _Step) -> NDArray[np.uint8]:
        """Let every block move first if that is cheaper; return where it goes, (K, layers, blocks)."""
        tiers, after = self.instance.tiers, value.copy()
        choice = np.empty(value.shape, np.uint8)
        choice[:] = np.arange(tiers, dtype=np.uint8)[:, None, None]
        on_read = self.instance.rules.migration is Migration.ON_READ
        for old, new, written in self._moves():
            price = after[new]
            if written:
                unread = now.born - now.read
                price = price + now.born * prices[2 * tiers + new] + unread * prices[tiers + old]
            better = price < value[old]
            if on_read and new < old:
                better &= now.read > 0
            np.copyto(value[old], price, where=better)
            choice[old][better] = new
        return choice

    def _first(self, value: Floats) -> NDArray[np.uint8]:
        """Tier of each block of the prompt, (layers, blocks)."""
        if self.instance.rules.initial is Initial.FREE:
            return value.argmin(axis=0).astype(np.uint8)
        layer = np.arange(self.instance.layers)[self.lanes.layers, None]
        return forced_tiers(self.instance, self.lanes.blocks, layer).astype(np.uint8)

    def _follow(self, choices: NDArray[np.uint8], births: NDArray[np.uint8], state: Ints) -> Demand:
        """Count what the best paths use; state K stands for a block that has not begun."""
        instance, tiers, steps = self.instance, self.instance.tiers, self.instance.decode_steps
        layers = len(state)
        used = np.zeros((3 * tiers, steps, layers))
        after = np.zeros((tiers, steps, layers))

        def tally(tier: Ints, amount: Ints | NDArray[np.bool_]) -> Floats:
            spread = tier + (tiers + 1) * np.arange(layers)[:, None]
            table = np.bincount(spread.ravel(), amount.ravel(), (tiers + 1) * layers)
            return table.reshape(layers, -1)[:, :tiers].T * self.lanes.weight

        initial = tally(state, np.ones_like(state))
        for step in range(steps):
            now = self._step(step)
            reads, extra, writes = used[:, step].reshape(3, tiers, layers)
            reads += tally(state, now.read)
            new = np.take_along_axis(choices[step], np.minimum(state, tiers - 1)[None], 0)[0].astype(np.int64)
            new = np.where(state == tiers, tiers, new)
            paid = new != state
            if instance.inclusive:
                paid &= new != tiers - 1
            extra += tally(state, np.where(paid, now.born - now.read, 0))
            writes += tally(new, np.where(paid, now.born, 0))
            state = np.where(now.opens, births, new).astype(np.int64)
            born = tally(state, now.opens | now.grows)
            writes += born
            if instance.inclusive:
                writes[-1] += born[:-1].sum(axis=0)
            after[:, step] = tally(state, np.ones_like(state))
        return Demand(used, occupancy(instance, initial, after, self.lanes.layers))
