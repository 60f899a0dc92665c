"""Best paths of items between two tiers, inclusive, at given prices: the dual's inner problem.

An item's cost-to-go needs one number, d = V(in tier 0) - V(in tier 1), swept from the last step to the
first. Items are lanes, 64 to a word of the packed read sets; a forward sweep over whole words then
counts what the best paths do, which is the slope of the dual function.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from kvbound.bitsets.lanes import PROMPT, Lanes
from kvbound.initial import forced_tiers
from kvbound.instance import Initial, Instance, Migration
from kvbound.kernels import Kernel
from kvbound.solvers.lagrangian.subproblem import Demand, holding_prices, occupancy

Floats = NDArray[np.float64]
Words = NDArray[np.uint64]
Counts = NDArray[np.int64]
Bools = NDArray[np.bool_]

_Part = TypeVar("_Part")
_NOWHERE, _UNCOUNTED = np.zeros((0, 0, 0), np.uint64), np.zeros((0, 0, 0), np.int64)

HOLD, MISS, UP, UNREAD, DROP, BIRTH = range(6)
"""Rows of a price table (6, steps, layers): staying in tier 0 after the slot, a read served by tier 1,
going up when read and when not, the most a drop may gain (0, or inf where drops are forbidden), birth."""


@dataclass(frozen=True, eq=False)
class Swept:
    """Outcome of a backward sweep.

    Attributes
    ----------
    value
        V(in) - V(out) when the layer's first slot begins, (layers, lanes).
    gain
        What a lane's best path saves against never being in tier 0, <= 0, (layers, lanes).
    pull, keep
        Words (steps, layers, words): who enters tier 0 after the slot wherever it was, and who stays.
    """

    value: Floats
    gain: Floats
    pull: Words
    keep: Words


def sweep(lanes: Lanes, prices: Floats, kernel: Kernel, threads: int = 1, masks: bool = True) -> Swept:
    """Run every lane's path backwards."""
    steps, layers, width = lanes.rows.shape
    shape = (steps, layers, width) if masks else (0, 0, 0)
    swept = Swept(
        np.zeros((layers, 64 * width)), np.zeros((layers, 64 * width)),
        np.zeros(shape, np.uint64), np.zeros(shape, np.uint64),
    )  # fmt: skip
    if kernel == "numpy":
        _backward(lanes, prices, swept)
        return swept
    from kvbound.solvers.lagrangian import paths_two_tier_numba

    def part(first: int, last: int) -> None:
        arrays = lanes.rows, lanes.born, prices, swept.value, swept.gain, swept.pull, swept.keep
        paths_two_tier_numba.backward(*arrays, first, last)

    _share(part, layers * width, paths_two_tier_numba.BLOCK, threads)
    return swept


def _share(part: Callable[[int, int], _Part], words: int, block: int, threads: int) -> list[_Part]:
    """Run `part` on ranges of words, each of its own, and return what each returns."""
    if threads == 1:
        return [part(0, words)]
    edges = np.unique([*(words * np.arange(2 * threads) // (2 * threads) // block * block), words])
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(part, edges[:-1].tolist(), edges[1:].tolist()))


def _backward(lanes: Lanes, prices: Floats, swept: Swept) -> None:
    d, gain, steps = swept.value, swept.gain, len(lanes.rows)
    at, lane = np.nonzero(lanes.born >= 0)
    order = np.argsort(lanes.born[at, lane], kind="stable")
    at, lane = at[order], lane[order]
    ends = np.searchsorted(lanes.born[at, lane], np.arange(steps + 1))
    x, floor = np.empty_like(d), np.empty_like(d)
    for step in range(steps - 1, -1, -1):
        hold, miss, up, unread, drop, birth = prices[:, step, :, None]
        np.add(d, hold, out=x)
        new = at[ends[step] : ends[step + 1]], lane[ends[step] : ends[step + 1]]
        entry = x[new] + birth[new[0], 0]
        gain[new] += np.minimum(entry, 0)
        x[new] = 0
        read = np.unpackbits(lanes.rows[step].view(np.uint8), axis=1, bitorder="little")
        for floors, low, bits in zip(np.hstack([-unread, -up]), floor, read, strict=True):
            floors.take(bits, out=low, mode="clip")  # many times faster than where
        if swept.pull.size:
            pulled = x < floor
            pulled[new] = entry < 0
            swept.pull[step] = np.packbits(pulled, axis=1, bitorder="little").view(np.uint64)
            swept.keep[step] = np.packbits(x < drop, axis=1, bitorder="little").view(np.uint64)
        np.maximum(x, floor, out=floor)
        np.minimum(floor, drop, out=d)
        np.subtract(x, floor, out=x)
        np.add(gain, x, out=gain)
        np.multiply(read, miss, out=x)
        np.subtract(d, x, out=d)


@dataclass(frozen=True, eq=False)
class TwoTierPaths:
    """The items of some layers, or a sample of them, between two tiers with inclusive copies."""

    instance: Instance
    lanes: Lanes
    kernel: Kernel
    threads: int

    def evaluate(self, prices: Floats, capacity: Floats, demand: bool = True) -> tuple[float, Demand | None]:
        """Return what all best paths cost, and what they ask for; see `subproblem.ItemSubproblem`."""
        instance, lanes = self.instance, self.lanes
        mine = prices[:, :, lanes.layers]
        swept, at_start, inside = self._sweep(mine, capacity, demand)
        gain = swept.gain.sum(axis=1) + np.where(inside, at_start, 0.0).sum(axis=1)
        value = float((lanes.weight * gain).sum() + (mine[1] * lanes.reads + mine[5]).sum())
        if not demand:
            return value, None
        counts = follow(lanes, swept, inside, self.kernel, self.threads) * lanes.weight
        used = np.zeros_like(mine)
        used[1], used[3], used[4], used[5] = counts[..., 0], counts[..., 1], counts[..., 2], 1
        used[0] = lanes.reads - used[1]
        first = inside.sum(axis=1) * lanes.weight
        held = occupancy(instance, first[None], counts[None, ..., 3], lanes.layers)
        return value, Demand(used, np.concatenate([held, np.zeros_like(held)]))

    def paths(self, prices: Floats, capacity: Floats) -> tuple[Bools, Words]:
        """Return best paths themselves.

        Returns
        -------
        Who is in tier 0 at the start, (layers, lanes), and bits of who is there after every slot,
        (steps, layers, words).
        """
        swept, _, inside = self._sweep(prices[:, :, self.lanes.layers], capacity, True)
        after = np.zeros_like(swept.keep)
        _forward(self.lanes, swept, inside, self.kernel, self.threads, after=after)
        return inside, after

    def _sweep(self, mine: Floats, capacity: Floats, masks: bool) -> tuple[Swept, Floats, Bools]:
        """Sweep all paths; return also what a start in tier 0 costs each lane, and who starts there."""
        instance, lanes, rules = self.instance, self.lanes, self.instance.rules
        hold, start = (part[0] for part in holding_prices(instance, capacity[:1], lanes.layers))
        table = np.zeros((6, *hold.shape))
        table[HOLD], table[UP], table[BIRTH], table[UNREAD] = hold, mine[4], mine[4], np.inf
        np.subtract(mine[1], mine[0], out=table[MISS])
        if rules.migration is Migration.PREFETCH:
            np.add(mine[4], mine[3], out=table[UNREAD])
        if rules.migration is Migration.NONE:
            table[UP] = table[DROP] = np.inf
        swept = sweep(lanes, table, self.kernel, self.threads, masks)
        at_start = np.where(lanes.born == PROMPT, swept.value + start[:, None], 0.0)
        inside = at_start < 0
        if rules.initial is Initial.PREFILL_FIRST:
            layer = np.arange(instance.layers)[lanes.layers, None]
            inside = (lanes.born == PROMPT) & (forced_tiers(instance, lanes.blocks, layer) == 0)
        return swept, at_start, inside


def follow(lanes: Lanes, swept: Swept, inside: Bools, kernel: Kernel, threads: int = 1) -> Counts:
    """Count what the best paths do.

    Parameters
    ----------
    inside
        Who is in tier 0 at the start, (layers, lanes).

    Returns
    -------
    (steps, layers, 4): reads served by tier 1, unread items going up, writes to tier 0 (births
    included), lanes in tier 0 after the slot.
    """
    counts = np.zeros((*lanes.rows.shape[:2], 4), np.int64)
    _forward(lanes, swept, inside, kernel, threads, counts=counts)
    layer, lane = np.nonzero(lanes.born >= 0)
    step = lanes.born[layer, lane]
    chose = swept.pull[step, layer, lane >> 6] >> (lane & 63).astype(np.uint64) & np.uint64(1) != 0
    np.add.at(counts, (step[chose], layer[chose], 1), -1)
    return counts


def _forward(
    lanes: Lanes,
    swept: Swept,
    inside: Bools,
    kernel: Kernel,
    threads: int,
    *,
    counts: Counts = _UNCOUNTED,
    after: Words = _NOWHERE,
) -> None:
    """Follow the best paths; either count, or fill in who is in tier 0 after every slot."""
    _, layers, width = lanes.rows.shape
    state = np.packbits(inside, axis=1, bitorder="little").view(np.uint64)
    if kernel == "numpy":
        _forward_numpy(lanes, swept, state, counts, after)
        return
    from kvbound.solvers.lagrangian import paths_two_tier_numba

    def part(first: int, last: int) -> tuple[slice, Counts]:
        mine = slice(first // width, (last - 1) // width + 1)
        counted = np.zeros_like(counts[:, mine])
        paths_two_tier_numba.forward(lanes.rows, swept.pull, swept.keep, state, counted, after, first, last)
        return mine, counted

    for mine, counted in _share(part, layers * width, paths_two_tier_numba.BLOCK, threads):
        counts[:, mine] += counted


def _forward_numpy(lanes: Lanes, swept: Swept, state: Words, counts: Counts, after: Words) -> None:
    for step, read in enumerate(lanes.rows):
        pull, before = swept.pull[step], state
        state = pull | (swept.keep[step] & before)
        if after.size:
            after[step] = state
            continue
        enter = pull & ~before
        parts = np.stack([read & ~before, enter & ~read, enter, state], axis=-1)
        counts[step] = np.bitwise_count(parts).sum(axis=1, dtype=np.int64)
