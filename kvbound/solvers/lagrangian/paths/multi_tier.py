"""Cheapest paths of blocks over any number of tiers, under any rules, at given prices.

A block's states are the tiers. Dynamic programming from the last step to the first finds its cheapest path,
for all blocks at once; a forward pass then follows the paths and counts their traffic.

Equations: "Shortest paths" in docs/methods.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvbound.arithmetic import combine
from kvbound.bitsets.lanes import PADDING, PROMPT, Lanes
from kvbound.cost.transitions import Transitions
from kvbound.initial import forced_tiers
from kvbound.instance import Instance
from kvbound.kernels import Kernel
from kvbound.rules import Initial
from kvbound.solvers.lagrangian.paths.traffic import Step, count_chunks, count_starts, count_traffic
from kvbound.solvers.lagrangian.subproblem import (
    Demand,
    columns,
    holding_prices,
    map_ranges,
    occupancy,
)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class PathPrices:
    """Prices by tier of everything that paths do in the lanes' layers, (K, steps, layers) unless said."""

    read: Floats
    extra_read: Floats
    write: Floats
    birth: Floats
    """All writes of a token born into a tier."""
    hold: Floats
    """Holding a unit after the slot; see `holding_prices`."""
    charged: Bools
    """Which moves cost anything, (K, K); see `Transitions`."""
    touch: Floats | None = None
    """Price of reading anything of a block from a tier, (steps, layers, blocks, K); None for none."""

    @classmethod
    def of(
        cls, instance: Instance, lanes: Lanes, prices: Floats, capacity: Floats, touch: Floats | None = None
    ) -> PathPrices:
        """Return the prices of paths at those of counts, capacity and touches; see `ItemSubproblem`."""
        read, extra_read, write = columns(prices[:, :, lanes.layers])
        transitions = Transitions.of(instance)
        birth = combine(transitions.birth_writes.astype(np.float64), write)
        hold, _ = holding_prices(instance, capacity, lanes.layers)
        return cls(read, extra_read, write, birth, hold, transitions.charged, touch)

    def moved(self, cost: Floats, step: int, now: Step, source: int, target: int) -> Floats:
        """Add the price of a move in a step to a cost, (layers, blocks)."""
        if not self.charged[source, target]:
            return cost
        write, extra_read = self.write[target, step, :, None], self.extra_read[source, step, :, None]
        cost = cost + now.carried * write + now.unread * extra_read
        if self.touch is None:
            return cost
        return cost + np.where((now.read == 0) & (now.carried > 0), self.touch[step, ..., source], 0)

    def add_reads(self, value: Floats, step: int, now: Step) -> None:
        """Add the price of the reads of a step from each tier to a cost by tier, (K, layers, blocks)."""
        value += now.read * self.read[:, step, :, None]
        if self.touch is not None:
            value += np.where(now.read > 0, np.moveaxis(self.touch[step], -1, 0), 0)


@dataclass(frozen=True, eq=False)
class _BackwardPass:
    """Outcome of the dynamic program.

    Attributes
    ----------
    value
        Cost of the cheapest path from the layer's first slot on, by tier, (layers, blocks, K).
    total
        Cost of the paths of blocks that begin while decoding, (layers, blocks).
    births
        Tier into which these are born, (layers, blocks).
    choices
        Tier of each block after every slot, given the tier before: (steps, K, layers, blocks), or empty.
    """

    value: Floats
    total: Floats
    births: Bytes
    choices: Bytes


@dataclass(frozen=True, eq=False)
class MultiTierPaths:
    """The blocks of some layers, or a sample of them; see `ItemSubproblem`.

    Attributes
    ----------
    touch
        Prices of touches; see `PathPrices`.
    """

    instance: Instance
    lanes: Lanes
    kernel: Kernel = "numpy"
    threads: int = 1
    touch: Floats | None = None

    def evaluate(self, prices: Floats, capacity: Floats, demand: bool = True) -> tuple[float, Demand | None]:
        """Return the total cost of the cheapest paths, and their demand; see `ItemSubproblem`."""
        backward, first, at_start = self._solve(prices, capacity, demand)
        total = np.where(self.lanes.born == PROMPT, at_start, backward.total)
        cost = float((self.lanes.weight * total.sum(axis=1, where=self.lanes.born != PADDING)).sum())
        if not demand:
            return cost, None
        plan = self._follow(backward, first)
        counts = count_traffic(self.instance, self.lanes, first, plan, self.kernel, self.threads)
        used, held = (np.moveaxis(each, -1, 0) * self.lanes.weight for each in counts)
        initial = count_starts(self.lanes, first, self.instance.tiers) * self.lanes.weight
        held = occupancy(self.instance, initial, held, self.lanes.layers)
        return cost, Demand(used, held, None if self.touch is None else np.concatenate([first[None], plan]))

    def paths(self, prices: Floats, capacity: Floats) -> tuple[Bytes, Bytes]:
        """Return the cheapest paths themselves: the tiers of blocks, or K where there is no block.

        Returns
        -------
        At the start, (layers, blocks), and after every slot, (steps, layers, blocks). A block has no tier
        before it begins and after the slot in which it leaves; one that leaves in the step of its birth has
        the tier into which it is born in that step alone.
        """
        backward, first, _ = self._solve(prices, capacity, True)
        return first, self._follow(backward, first)

    def _solve(self, prices: Floats, capacity: Floats, choices: bool) -> tuple[_BackwardPass, Bytes, Floats]:
        """Run the dynamic program; return also each block's first tier, K for none, and its path's cost."""
        transitions, shape = Transitions.of(self.instance), self.lanes.blocks.shape
        tiers, steps = self.instance.tiers, self.instance.decode_steps
        start = holding_prices(self.instance, capacity, self.lanes.layers)[1]
        backward = _BackwardPass(
            np.zeros((*shape, tiers)), np.zeros(shape), np.zeros(shape, np.uint8),
            np.zeros((steps, tiers, *shape) if choices else (0, 0, 0, 0), np.uint8),
        )  # fmt: skip
        run = self._backward_numpy if self.kernel == "numpy" else self._backward_numba
        run(PathPrices.of(self.instance, self.lanes, prices, capacity, self.touch), transitions, backward)
        value = backward.value + start.T[:, None] * self.lanes.units[..., None]
        first = self._first_tiers(value)
        at_start = np.take_along_axis(value, first[..., None].astype(np.int64), 2)[..., 0]
        return backward, np.where(self.lanes.born == PROMPT, first, tiers).astype(np.uint8), at_start

    def _backward_numpy(self, prices: PathPrices, transitions: Transitions, backward: _BackwardPass) -> None:
        lanes = self.lanes
        value = np.zeros((self.instance.tiers, *lanes.blocks.shape))
        for step in range(self.instance.decode_steps - 1, -1, -1):
            now = Step.of(self.instance, lanes, step)
            value += prices.hold[:, step, :, None] * lanes.units
            leaves, grows, opens = lanes.last == step, now.grown > 0, lanes.born == step
            value[:, leaves] = 0
            birth = np.broadcast_to(prices.birth[:, step, :, None], value.shape)
            value[:, grows] += now.grown[grows] * birth[:, grows]
            backward.total[opens] = value[:, opens].min(axis=0)
            backward.births[opens] = value[:, opens].argmin(axis=0)
            choice = best_moves(transitions, value, prices, step, now, ~leaves)
            prices.add_reads(value, step, now)
            if backward.choices.size:
                backward.choices[step] = choice
        backward.value[:] = np.moveaxis(value, 0, -1)

    def _backward_numba(self, prices: PathPrices, transitions: Transitions, backward: _BackwardPass) -> None:
        from kvbound.solvers.lagrangian.paths import multi_tier_numba

        instance, lanes = self.instance, self.lanes
        tables = prices.read, prices.extra_read, prices.write, prices.birth, prices.hold
        by_slot = [np.ascontiguousarray(np.moveaxis(table, 0, -1)) for table in tables]
        touch = np.zeros((0, 0, 0, 0)) if prices.touch is None else prices.touch

        def run(first: int, last: int) -> None:
            multi_tier_numba.backward(
                lanes.rows, lanes.born, lanes.last, lanes.begin, lanes.end, lanes.units, lanes.counts,
                *by_slot, touch, instance.granularity,
                transitions.legal, transitions.charged,
                backward.value, backward.total, backward.births, backward.choices, first, last,
            )  # fmt: skip

        map_ranges(run, count_chunks(lanes), self.threads)

    def _first_tiers(self, value: Floats) -> Bytes:
        """Tier of each block of the prompt at the start, given its costs by tier, (layers, blocks)."""
        if self.instance.rules.initial is Initial.FREE:
            return value.argmin(axis=-1).astype(np.uint8)
        layer = np.arange(self.instance.layers)[self.lanes.layers, None]
        return forced_tiers(self.instance, self.lanes.blocks, layer)

    def _follow(self, backward: _BackwardPass, first: Bytes) -> Bytes:
        """Return the tiers of blocks after every slot, (steps, layers, blocks)."""
        plan = np.empty((len(backward.choices), *first.shape), np.uint8)
        if self.kernel == "numpy":
            _follow_numpy(self.lanes, backward, first, plan)
            return plan
        from kvbound.solvers.lagrangian.paths import multi_tier_numba

        tiers, born, last = first.copy(), self.lanes.born, self.lanes.last

        def run(begin: int, end: int) -> None:
            multi_tier_numba.follow(born, last, backward.births, backward.choices, tiers, plan, begin, end)

        map_ranges(run, count_chunks(self.lanes), self.threads)
        return plan


def best_moves(
    transitions: Transitions, value: Floats, prices: PathPrices, step: int, now: Step, movable: Bools
) -> Bytes:
    """Let blocks move where that is cheaper; change values, and return tiers after, (K, layers, blocks).

    Parameters
    ----------
    value
        Cost from after the slot's moves on, by tier, (K, layers, blocks).
    movable
        Blocks that may move in the step, (layers, blocks).
    """
    tiers, after = len(value), value.copy()
    choice = np.empty(value.shape, np.uint8)
    choice[:] = np.arange(tiers, dtype=np.uint8)[:, None, None]
    for source, target, may in legal_moves(transitions, now, movable):
        price = prices.moved(after[target], step, now, source, target)
        better = (price < value[source]) & may
        np.copyto(value[source], price, where=better)
        choice[source][better] = target
    return choice


def legal_moves(transitions: Transitions, now: Step, movable: Bools) -> Iterator[tuple[int, int, Bools]]:
    """Yield source and target of each move, and the movable blocks that may make it, (layers, blocks)."""
    for source, target in transitions.moves(read=True):
        yield source, target, movable if transitions.legal[0, source, target] else movable & (now.read > 0)


def _follow_numpy(lanes: Lanes, backward: _BackwardPass, first: Bytes, plan: Bytes) -> None:
    """Fill in the tiers of blocks after every slot, (steps, layers, blocks)."""
    tier, tiers = first, backward.choices.shape[1]
    for step, choices in enumerate(backward.choices):
        chosen = np.take_along_axis(choices, np.minimum(tier, tiers - 1)[None], 0)[0]
        tier = np.where((tier < tiers) & (lanes.last > step), chosen, tiers).astype(np.uint8)
        np.copyto(tier, backward.births, where=lanes.born == step)
        plan[step] = tier
