"""Best paths of blocks over any number of tiers, under any rules, at given prices.

A block is a state per tier and a shortest path over the steps, swept from the last step to the first, all
blocks at once; a forward sweep then counts what the best paths use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import permutations
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from kvbound.bitsets.lanes import PADDING, PROMPT, Lanes
from kvbound.initial import forced_tiers
from kvbound.instance import Initial, Instance, Migration
from kvbound.kernels import Kernel
from kvbound.solvers.lagrangian.subproblem import CHUNK, Demand, holding_prices, occupancy

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]
_Part = TypeVar("_Part")


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
class _Swept:
    """Outcome of a backward sweep.

    Attributes
    ----------
    value
        What a path costs from the layer's first slot on, by tier, (layers, blocks, K).
    total
        What the paths of blocks born while decoding cost, (layers, blocks).
    births
        Tier into which these are born, (layers, blocks).
    choices
        Tier of each block after every slot, given the one before: (steps, K, layers, blocks), or empty.
    """

    value: Floats
    total: Floats
    births: Bytes
    choices: Bytes


@dataclass(frozen=True, eq=False)
class MultiTierPaths:
    """The blocks of some layers, or a sample of them."""

    instance: Instance
    lanes: Lanes
    kernel: Kernel = "numpy"
    threads: int = 1

    def evaluate(self, prices: Floats, capacity: Floats, demand: bool = True) -> tuple[float, Demand | None]:
        """Return what all best paths cost, and what they use; see `ItemSubproblem`."""
        swept, first, at_start = self._sweep(prices, capacity, demand)
        total = np.where(self.lanes.born == PROMPT, at_start, swept.total)
        cost = float((self.lanes.weight * total.sum(axis=1, where=self.lanes.born != PADDING)).sum())
        if not demand:
            return cost, None
        counts = count_traffic(
            self.instance, self.lanes, first, self._follow(swept, first), self.kernel, self.threads
        )
        used, held = (np.moveaxis(each, -1, 0) * self.lanes.weight for each in counts)
        initial = (first == np.arange(self.instance.tiers)[:, None, None]).sum(axis=2) * self.lanes.weight
        return cost, Demand(used, occupancy(self.instance, initial, held, self.lanes.layers))

    def paths(self, prices: Floats, capacity: Floats) -> tuple[Bytes, Bytes]:
        """Return best paths themselves: the tiers of blocks, or K before they begin.

        Returns
        -------
        At the start, (layers, blocks), and after every slot, (steps, layers, blocks).
        """
        swept, first, _ = self._sweep(prices, capacity, True)
        return first, self._follow(swept, first)

    def _sweep(self, prices: Floats, capacity: Floats, masks: bool) -> tuple[_Swept, Bytes, Floats]:
        """Sweep all paths; return also each block's tier at the start, K for none, and what it costs."""
        tiers, steps, shape = self.instance.tiers, self.instance.decode_steps, self.lanes.blocks.shape
        hold, start = holding_prices(self.instance, capacity, self.lanes.layers)
        swept = _Swept(
            np.zeros((*shape, tiers)), np.zeros(shape), np.zeros(shape, np.uint8),
            np.zeros((steps, tiers, *shape) if masks else (0, 0, 0, 0), np.uint8),
        )  # fmt: skip
        mine = prices[:, :, self.lanes.layers]
        if self.kernel == "numpy":
            self._backward(mine, hold, swept)
        else:
            self._compiled_backward(mine, hold, swept)
        value = swept.value + start.T[:, None]
        first = self._first(value)
        at_start = np.take_along_axis(value, first[..., None].astype(np.int64), 2)[..., 0]
        return swept, np.where(self.lanes.born == PROMPT, first, tiers).astype(np.uint8), at_start

    def _backward(self, mine: Floats, hold: Floats, swept: _Swept) -> None:
        tiers, shape = self.instance.tiers, self.lanes.blocks.shape
        value = np.zeros((tiers, *shape))
        for step in range(self.instance.decode_steps - 1, -1, -1):
            now = _step(self.instance, self.lanes, step)
            value += hold[:, step, :, None]
            entry = value + self._birth_prices(mine[:, step])[..., None]
            np.copyto(swept.total, entry.min(axis=0), where=now.opens)
            np.copyto(swept.births, entry.argmin(axis=0).astype(np.uint8), where=now.opens)
            np.copyto(value, entry, where=now.grows)
            choice = self._move(value, mine[:, step, :, None], now)
            value += now.read * mine[:tiers, step, :, None]
            if swept.choices.size:
                swept.choices[step] = choice
        swept.value[:] = np.moveaxis(value, 0, -1)

    def _compiled_backward(self, mine: Floats, hold: Floats, swept: _Swept) -> None:
        from kvbound.solvers.lagrangian import paths_numba

        instance, lanes = self.instance, self.lanes
        moves = {
            Migration.NONE: paths_numba.FIXED,
            Migration.ON_READ: paths_numba.ON_READ,
            Migration.PREFETCH: paths_numba.PREFETCH,
        }
        by_slot = [np.ascontiguousarray(np.moveaxis(table, 0, -1)) for table in (mine, hold)]

        def part(first: int, last: int) -> None:
            paths_numba.backward(
                lanes.rows, lanes.blocks, lanes.born, *by_slot, instance.granularity,
                instance.prefill_tokens, instance.inclusive, moves[instance.rules.migration],
                swept.value, swept.total, swept.births, swept.choices, first, last,
            )  # fmt: skip

        _share(part, lanes.blocks.shape, self.threads)

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

    def _first(self, value: Floats) -> Bytes:
        """Tier of each block of the prompt, given what they cost, (layers, blocks)."""
        if self.instance.rules.initial is Initial.FREE:
            return value.argmin(axis=-1).astype(np.uint8)
        layer = np.arange(self.instance.layers)[self.lanes.layers, None]
        return forced_tiers(self.instance, self.lanes.blocks, layer).astype(np.uint8)

    def _follow(self, swept: _Swept, first: Bytes) -> Bytes:
        """Return the tiers of blocks after every slot, (steps, layers, blocks)."""
        steps, tiers = swept.choices.shape[:2]
        plan, state = np.empty((steps, *first.shape), np.uint8), first.copy()
        if self.kernel == "numba":
            from kvbound.solvers.lagrangian import paths_numba

            def part(begin: int, end: int) -> None:
                paths_numba.follow(self.lanes.born, swept.births, swept.choices, state, plan, begin, end)

            _share(part, first.shape, self.threads)
            return plan
        for step, choices in enumerate(swept.choices):
            chosen = np.take_along_axis(choices, np.minimum(state, tiers - 1)[None], 0)[0]
            state = np.where(state < tiers, chosen, state)
            state = np.where(self.lanes.born == step, swept.births, state)
            plan[step] = state
        return plan


def count_traffic(
    instance: Instance, lanes: Lanes, first: Bytes, plan: Bytes, kernel: Kernel, threads: int = 1
) -> tuple[Ints, Ints]:
    """Count what blocks do under a plan; see `MultiTierPaths.paths`.

    Returns
    -------
    Items read, read without choice, and written, by tier, (steps, layers, 3K), and blocks in each tier after
    every slot, (steps, layers, K).
    """

    def part(begin: int, end: int) -> tuple[Ints, Ints]:
        counts = [np.zeros((*plan.shape[:2], n * instance.tiers), np.int64) for n in (3, 1)]
        if kernel == "numpy":
            _tally(instance, lanes, first, plan, *counts)
        else:
            from kvbound.solvers.lagrangian import paths_numba

            paths_numba.count_traffic(
                lanes.rows, lanes.blocks, instance.granularity, instance.prefill_tokens, instance.inclusive,
                first, plan, *counts, begin, end,
            )  # fmt: skip
        return counts[0], counts[1]

    (used, held), *rest = _share(part, first.shape, 1 if kernel == "numpy" else threads)
    for more_used, more_held in rest:
        used += more_used
        held += more_held
    return used, held


def _tally(instance: Instance, lanes: Lanes, first: Bytes, plan: Bytes, used: Ints, held: Ints) -> None:
    tiers, layers, before = instance.tiers, len(first), first

    def count(tier: Bytes, amount: NDArray[Any]) -> Ints:
        spread = tier + (tiers + 1) * np.arange(layers)[:, None]
        table = np.bincount(spread.ravel(), amount.ravel(), (tiers + 1) * layers)
        return table.reshape(layers, -1)[:, :tiers].astype(np.int64)

    for step, after in enumerate(plan):
        now = _step(instance, lanes, step)
        reads, extra, writes = np.moveaxis(used[step].reshape(layers, 3, tiers), 1, 0)
        reads += count(before, now.read)
        paid = (before < tiers) & (after != before)
        if instance.inclusive:
            paid &= after != tiers - 1
        extra += count(before, np.where(paid, now.born - now.read, 0))
        writes += count(after, np.where(paid, now.born, 0))
        born = count(after, now.opens | now.grows)
        writes += born
        if instance.inclusive:
            writes[:, -1] += born[:, :-1].sum(axis=1)
        held[step] = count(after, np.ones_like(after))
        before = after


def _step(instance: Instance, lanes: Lanes, step: int) -> _Step:
    size, token = instance.granularity, instance.prefill_tokens + step
    bits = np.unpackbits(lanes.rows[step].view(np.uint8), axis=1, bitorder="little")
    read = np.add.reduceat(bits, np.arange(0, bits.shape[1], size), axis=1, dtype=np.int64)
    first = lanes.blocks * size
    born = np.clip(token - first, 0, size)
    return _Step(read, born, lanes.born == step, (first < token) & (token < first + size))


def _share(part: Callable[[int, int], _Part], shape: tuple[int, int], threads: int) -> list[_Part]:
    """Run `part` on ranges of chunks of (layers, blocks), each of its own."""
    if threads == 1:
        return [part(0, shape[0] * -(-shape[1] // CHUNK))]
    edges = np.unique(shape[0] * -(-shape[1] // CHUNK) * np.arange(2 * threads + 1) // (2 * threads)).tolist()
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(part, edges[:-1], edges[1:]))
