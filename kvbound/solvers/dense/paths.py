"""Cheapest paths where every slot reads all items: one dynamic program for each layer and last step.

Items that end in the same step cost the same from every slot on, so that a vector over the tiers stands for
all of them; a forward pass then follows how many of them are in each tier.

Equations: "Dense reads" in docs/methods.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvbound.arithmetic import combine
from kvbound.cost.transitions import Transitions
from kvbound.instance import Instance
from kvbound.kernels import Kernel
from kvbound.solvers.dense.items import DenseItems
from kvbound.solvers.lagrangian.subproblem import Demand, columns, holding_prices, map_ranges, occupancy

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Prices:
    """Prices by slot and tier, each (layers, steps, K).

    Attributes
    ----------
    read, write
        Of an item read in a tier, and moved into it.
    birth
        All writes of an item born into a tier.
    hold
        Of holding an item in a tier after the slot; see `holding_prices`.
    """

    read: Floats
    write: Floats
    birth: Floats
    hold: Floats


@dataclass(frozen=True, eq=False)
class Counts:
    """What the paths do, in items.

    Attributes
    ----------
    reads, writes, held
        Items read in, written to, and held after the slot in each tier, (layers, steps, K).
    start
        Items in each tier at the start, (layers, K).
    """

    reads: Ints
    writes: Ints
    held: Ints
    start: Ints


@dataclass(frozen=True, eq=False)
class DensePaths:
    """The items of some layers, all of which are read in every slot; see `ItemSubproblem`."""

    instance: Instance
    items: DenseItems
    kernel: Kernel = "numpy"
    threads: int = 1

    def evaluate(self, prices: Floats, capacity: Floats, demand: bool = True) -> tuple[float, Demand | None]:
        """Return the total cost of the cheapest paths, and their demand; see `ItemSubproblem`."""
        instance, layers = self.instance, self.items.layers
        units = instance.units[layers]
        hold, start = (part * units for part in holding_prices(instance, capacity, layers))
        price = columns(prices[:, :, layers])
        birth = combine(Transitions.of(instance).birth_writes.astype(np.float64), price.writes)
        table = Prices(*(_by_layer(each) for each in (price.reads, price.writes, birth, hold)))
        run = _run_numpy if self.kernel == "numpy" else self._run_numba
        cost, counts = run(self.instance, self.items, table, start.T, demand)
        if counts is None:
            return cost, None
        used = np.zeros_like(prices[:, :, layers])
        parts = columns(used)
        parts.reads[:], parts.writes[:] = (_by_tier(each) for each in (counts.reads, counts.writes))
        held = _by_tier(counts.held) * units
        return cost, Demand(used, occupancy(instance, (counts.start.T * units).astype(float), held, layers))

    def _run_numba(
        self, instance: Instance, items: DenseItems, prices: Prices, start: Floats, demand: bool
    ) -> tuple[float, Counts | None]:
        from kvbound.solvers.dense import paths_numba

        transitions, counts = Transitions.of(instance), _no_counts(instance, items)
        forced = np.zeros((0, 0, 0), np.int64) if items.forced is None else items.forced
        tables = prices.read, prices.write, prices.birth, prices.hold, start
        births = items.first, items.layer, items.kind, items.count
        cost = np.zeros(len(items.prompt))

        def run(first: int, last: int) -> None:
            for layer in range(first, last):
                paths_numba.follow(
                    layer, *tables, items.ends, items.prompt, forced, *births, transitions.legal[1],
                    transitions.charged, transitions.birth_writes,
                    cost, counts.reads, counts.writes, counts.held, counts.start, demand,
                )  # fmt: skip

        map_ranges(run, len(cost), self.threads)
        return float(cost.sum()), counts if demand else None


def _by_layer(table: Floats) -> Floats:
    """Return (K, steps, layers) as (layers, steps, K)."""
    return np.ascontiguousarray(table.transpose(2, 1, 0))


def _by_tier(table: Ints) -> Floats:
    """Return (layers, steps, K) as (K, steps, layers)."""
    return np.ascontiguousarray(table.transpose(2, 1, 0), np.float64)


def _no_counts(instance: Instance, items: DenseItems) -> Counts:
    shape = len(items.prompt), instance.decode_steps, instance.tiers
    reads, writes, held = np.zeros((3, *shape), np.int64)
    return Counts(reads, writes, held, np.zeros((shape[0], shape[2]), np.int64))


def _run_numpy(
    instance: Instance, items: DenseItems, prices: Prices, start: Floats, demand: bool
) -> tuple[float, Counts | None]:
    """Run both passes for all layers at once; return the cost and, if wanted, the counts."""
    transitions, (layers, kinds) = Transitions.of(instance), items.prompt.shape
    steps, tiers = instance.decode_steps, instance.tiers
    value = np.zeros((layers, kinds, tiers))
    choices = np.zeros((steps, layers, kinds, tiers) if demand else (0, 0, 0, 0), np.uint8)
    entry, cost = np.zeros(len(items.count), np.int64), np.zeros(layers)
    moves = transitions.moves(read=True)
    for step in range(steps - 1, -1, -1):
        present = int(np.searchsorted(items.ends, step))
        after = int(np.searchsorted(items.ends, step, side="right"))
        value[:, present:] += prices.hold[:, step, None]
        value[:, present:after] = 0
        births = slice(items.first[step], items.first[step + 1])
        layer = items.layer[births]
        price = value[layer, items.kind[births]] + prices.birth[layer, step]
        entry[births] = price.argmin(axis=1)
        np.add.at(cost, layer, items.count[births] * price.min(axis=1))
        there = value[:, after:].copy()
        choice = np.broadcast_to(np.arange(tiers, dtype=np.uint8), there.shape).copy()
        for source, target in moves:
            moved = there[..., target]
            if transitions.charged[source, target]:
                moved = moved + prices.write[:, step, None, target]
            better = moved < value[:, after:, source]
            np.copyto(value[:, after:, source], moved, where=better)
            choice[..., source][better] = target
        value[:, present:] += prices.read[:, step, None]
        if demand:
            choices[step, :, after:] = choice
    at_start = value + start[:, None]
    best = at_start.argmin(axis=2)
    number = np.zeros((tiers, layers, kinds), np.int64)
    if items.forced is None:
        np.put_along_axis(number, best[None], items.prompt[None], 0)
    else:
        number[:] = items.forced
    total = np.zeros(layers)
    for kind, tier in np.ndindex(kinds, tiers):  # in the order of the compiled twin
        total += number[tier, :, kind] * at_start[:, kind, tier]
    cost += total
    if not demand:
        return float(cost.sum()), None
    return float(cost.sum()), _count_numpy(instance, items, number, choices, entry)


def _count_numpy(instance: Instance, items: DenseItems, number: Ints, choices: Bytes, entry: Ints) -> Counts:
    """Follow numbers of items by tier, (K, layers, classes), from slot to slot."""
    transitions, counts = Transitions.of(instance), _no_counts(instance, items)
    counts.start[:] = number.sum(axis=2).T
    for step, chosen in enumerate(choices):
        after = int(np.searchsorted(items.ends, step, side="right"))
        counts.reads[:, step] = number.sum(axis=2).T
        number[:, :, :after] = 0
        moved = np.zeros_like(number)
        for source, target in np.ndindex(len(number), len(number)):
            some = np.where(chosen[..., source] == target, number[source], 0)
            moved[target] += some
            if source != target and transitions.charged[source, target]:
                counts.writes[:, step, target] += some.sum(axis=1)
        number = moved
        births = slice(items.first[step], items.first[step + 1])
        layer, kind, tier, count = (each[births] for each in (items.layer, items.kind, entry, items.count))
        np.add.at(counts.writes[:, step], layer, transitions.birth_writes[tier] * count[:, None])
        lasting = items.ends[kind] > step
        np.add.at(number, (tier[lasting], layer[lasting], kind[lasting]), count[lasting])
        counts.held[:, step] = number.sum(axis=2).T
    return counts
