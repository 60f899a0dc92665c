"""Cheapest paths of items between two inclusive tiers, at given prices.

The dynamic program of an item needs one number, its cost from tier 0 minus its cost from tier 1, carried from
the last step to the first. Items are lanes, 64 to a word of the packed reads; a forward pass over whole words
then counts the traffic of the cheapest paths. Prices must not be negative: then an item that ends in the step
of its birth is born into tier 1, and an item does not move where both costs are equal.

Equations: "Shortest paths" in docs/methods.md.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvbound.bitsets.lanes import PROMPT, Lanes
from kvbound.cost.transitions import Transitions
from kvbound.initial import forced_tiers
from kvbound.instance import Instance
from kvbound.kernels import Kernel
from kvbound.rules import Initial
from kvbound.solvers.lagrangian.subproblem import (
    WORDS_AT_ONCE,
    Demand,
    columns,
    holding_prices,
    map_ranges,
    occupancy,
)

Floats = NDArray[np.float64]
Words = NDArray[np.uint64]
Counts = NDArray[np.int64]
Bools = NDArray[np.bool_]
Lane = NDArray[np.intp]

HOLD, MISS, PROMOTE, PREFETCH, DEMOTE, BIRTH = range(6)
"""Rows of a price table (6, steps, layers): holding in tier 0 after the slot; a read served by tier 1 instead
of tier 0; moving up when read, and when not; the value above which moving down pays: 0, or inf where
that is forbidden; birth in tier 0."""
MISSES, UNREAD, WRITES, HELD = range(4)
"""Columns of the counts of paths: reads served by tier 1, unread items moved up, writes to tier 0 (births
included), items in tier 0 after the slot."""


@dataclass(frozen=True, eq=False)
class _BackwardPass:
    """Outcome of the dynamic program.

    Attributes
    ----------
    value
        Cost from tier 0 minus cost from tier 1 when the layer's first slot begins, (layers, lanes).
    gain
        Cost of a lane's cheapest path relative to never being in tier 0, at most 0, (layers, lanes).
    enters, stays
        Lanes in tier 0 after the slot wherever they were before, and lanes that remain if they were there
        before, (steps, layers, words), or empty.
    """

    value: Floats
    gain: Floats
    enters: Words
    stays: Words


@dataclass(frozen=True, eq=False)
class TwoTierPaths:
    """The items of some layers, or a sample of them, between two inclusive tiers; see `ItemSubproblem`."""

    instance: Instance
    lanes: Lanes
    kernel: Kernel
    threads: int

    def evaluate(self, prices: Floats, capacity: Floats, demand: bool = True) -> tuple[float, Demand | None]:
        """Return the total cost of the cheapest paths, and their demand; see `ItemSubproblem`."""
        instance, lanes = self.instance, self.lanes
        prices = prices[:, :, lanes.layers]
        backward, at_start, inside = self._solve(prices, capacity, demand)
        price = columns(prices)
        gain = backward.gain.sum(axis=1) + np.where(inside, at_start, 0.0).sum(axis=1)
        births = instance.timeline.births[:, None]
        never_inside = (price.reads[1] * lanes.reads + price.writes[1] * births).sum()
        value = float((lanes.weight * gain).sum() + never_inside)
        if not demand:
            return value, None
        counts = self._count(backward, inside) * lanes.weight
        traffic = np.zeros_like(prices)
        used = columns(traffic)
        np.subtract(lanes.reads, counts[..., MISSES], out=used.reads[0])
        used.reads[1], used.extra_reads[1] = counts[..., MISSES], counts[..., UNREAD]
        used.writes[0], used.writes[1] = counts[..., WRITES], births
        units = instance.units[lanes.layers]
        first, after = inside.sum(axis=1) * lanes.weight * units, counts[..., HELD] * units
        held = occupancy(instance, first[None], after[None], lanes.layers)
        return value, Demand(traffic, np.concatenate([held, np.zeros_like(held)]))

    def paths(self, prices: Floats, capacity: Floats) -> tuple[Bools, Words]:
        """Return the cheapest paths themselves.

        Returns
        -------
        Whether each lane is in tier 0 at the start, (layers, lanes), and bits of the lanes there after every
        slot, (steps, layers, words).
        """
        backward, _, inside = self._solve(prices[:, :, self.lanes.layers], capacity, True)
        after = np.zeros_like(backward.stays)
        self._forward(backward, inside, np.zeros((0, 0, 0), np.int64), after)
        return inside, after

    def _solve(self, prices: Floats, capacity: Floats, masks: bool) -> tuple[_BackwardPass, Floats, Bools]:
        """Run the dynamic program; return also each lane's cost of starting in tier 0, and if it does."""
        instance, lanes = self.instance, self.lanes
        units = instance.units[lanes.layers]
        hold, start = (part[0] * units for part in holding_prices(instance, capacity[:1], lanes.layers))
        backward = self._backward(self._price_table(prices, hold), masks)
        at_start = np.where(lanes.born == PROMPT, backward.value + start[:, None], 0.0)
        inside = at_start < 0
        if instance.rules.initial is Initial.PREFILL_FIRST:
            layer = np.arange(instance.layers)[lanes.layers, None]
            inside = (lanes.born == PROMPT) & (forced_tiers(instance, lanes.blocks, layer) == 0)
        return backward, at_start, inside

    def _price_table(self, prices: Floats, hold: Floats) -> Floats:
        """Prices of a lane's options in each slot, infinite where they are forbidden, (6, steps, layers)."""
        legal, price = Transitions.of(self.instance).legal, columns(prices)
        table = np.full((6, *hold.shape), np.inf)
        table[HOLD], table[BIRTH] = hold, price.writes[0]
        np.subtract(price.reads[1], price.reads[0], out=table[MISS])
        if legal[1, 1, 0]:
            table[PROMOTE] = price.writes[0]
        if legal[0, 1, 0]:
            np.add(price.writes[0], price.extra_reads[1], out=table[PREFETCH])
        if legal[0, 0, 1]:
            table[DEMOTE] = 0.0
        return table

    def _backward(self, table: Floats, masks: bool) -> _BackwardPass:
        lanes, (steps, layers, width) = self.lanes, self.lanes.rows.shape
        shape = (steps, layers, width) if masks else (0, 0, 0)
        backward = _BackwardPass(
            np.zeros((layers, 64 * width)), np.zeros((layers, 64 * width)),
            np.zeros(shape, np.uint64), np.zeros(shape, np.uint64),
        )  # fmt: skip
        if self.kernel == "numpy":
            _backward_numpy(lanes, table, backward)
            return backward
        from kvbound.solvers.lagrangian.paths import two_tier_numba

        def run(first: int, last: int) -> None:
            outcome = backward.value, backward.gain, backward.enters, backward.stays
            two_tier_numba.backward(lanes.rows, lanes.born, lanes.last, table, *outcome, first, last)

        map_ranges(run, layers * width, self.threads, WORDS_AT_ONCE)
        return backward

    def _count(self, backward: _BackwardPass, inside: Bools) -> Counts:
        """Count the traffic of the cheapest paths, (steps, layers, 4); see `MISSES`.

        Parameters
        ----------
        inside
            Whether each lane is in tier 0 at the start, (layers, lanes).
        """
        lanes = self.lanes
        counts = np.zeros((*lanes.rows.shape[:2], 4), np.int64)
        self._forward(backward, inside, counts, np.zeros((0, 0, 0), np.uint64))
        layer, lane = np.nonzero(lanes.born >= 0)
        step = lanes.born[layer, lane]
        word = backward.enters[step, layer, lane >> 6]
        births = word >> (lane & 63).astype(np.uint64) & np.uint64(1) != 0
        np.add.at(counts, (step[births], layer[births], UNREAD), -1)  # a birth is no move
        return counts

    def _forward(self, backward: _BackwardPass, inside: Bools, counts: Counts, after: Words) -> None:
        """Follow the cheapest paths; fill in bits after every slot, or if these are empty the counts."""
        lanes, (_, layers, width) = self.lanes, self.lanes.rows.shape
        state = np.packbits(inside, axis=1, bitorder="little").view(np.uint64)
        if self.kernel == "numpy":
            _forward_numpy(lanes, backward, state, counts, after)
            return
        from kvbound.solvers.lagrangian.paths import two_tier_numba

        masks = backward.enters, backward.stays

        def run(first: int, last: int) -> tuple[slice, Counts]:
            some = slice(first // width, (last - 1) // width + 1)
            counted = np.zeros_like(counts[:, some])
            two_tier_numba.forward(lanes.rows, *masks, state, counted, after, first, last)
            return some, counted

        for some, counted in map_ranges(run, layers * width, self.threads, WORDS_AT_ONCE):
            counts[:, some] += counted


def _backward_numpy(lanes: Lanes, table: Floats, backward: _BackwardPass) -> None:
    value, gain, steps = backward.value, backward.gain, len(lanes.rows)
    births, ends = _by_step(lanes.born, steps), _by_step(lanes.last, steps)
    x, floor = np.empty_like(value), np.empty_like(value)
    for step in range(steps - 1, -1, -1):
        hold, miss, promote, prefetch, demote, birth = table[:, step, :, None]
        np.add(value, hold, out=x)
        x[ends[step]] = 0  # it has left: both tiers cost the same
        born = births[step]
        entry = x[born] + birth[born[0], 0]
        gain[born] += np.minimum(entry, 0)
        x[born] = 0
        read = np.unpackbits(lanes.rows[step].view(np.uint8), axis=1, bitorder="little")
        for floors, low, bits in zip(np.hstack([-prefetch, -promote]), floor, read, strict=True):
            floors.take(bits, out=low, mode="clip")  # many times faster than where
        if backward.enters.size:
            enters, stays = x < floor, x < demote
            enters[born] = entry < 0
            stays[ends[step]] = False
            backward.enters[step] = np.packbits(enters, axis=1, bitorder="little").view(np.uint64)
            backward.stays[step] = np.packbits(stays, axis=1, bitorder="little").view(np.uint64)
        np.maximum(x, floor, out=floor)
        np.minimum(floor, demote, out=value)
        np.subtract(x, floor, out=x)
        np.add(gain, x, out=gain)
        np.multiply(read, miss, out=x)
        np.subtract(value, x, out=value)


def _by_step(steps_of_lanes: NDArray[np.int32], steps: int) -> list[tuple[Lane, Lane]]:
    """Return the layers and lanes that have each step, given one step per lane, (layers, lanes)."""
    layer, lane = np.nonzero((steps_of_lanes >= 0) & (steps_of_lanes < steps))
    order = np.argsort(steps_of_lanes[layer, lane], kind="stable")
    layer, lane = layer[order], lane[order]
    edges = np.searchsorted(steps_of_lanes[layer, lane], np.arange(steps + 1)).tolist()
    return [(layer[a:b], lane[a:b]) for a, b in itertools.pairwise(edges)]


def _forward_numpy(lanes: Lanes, backward: _BackwardPass, state: Words, counts: Counts, after: Words) -> None:
    for step, read in enumerate(lanes.rows):
        enters, before = backward.enters[step], state
        state = enters | (backward.stays[step] & before)
        if after.size:
            after[step] = state
            continue
        entering = enters & ~before
        columns = np.stack([read & ~before, entering & ~read, entering, state], axis=-1)
        counts[step] = np.bitwise_count(columns).sum(axis=1, dtype=np.int64)
