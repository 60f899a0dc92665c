"""Schedules at prices: items answer, a few at a time, what all others leave them.

The dual's prices alone make no schedule: where paths cost the same, as most do in the end, all items would
take the same one. So a small group of items at a time takes its best paths, at prices that the loads of a
slot move away from the dual's: up where it has more than it should, down where it has less. That is the
method of multipliers for the convex program over all mixes of paths, minimised block by block; the more
items share a slot, the less it matters that each takes one path whole. What is over the room in the
end leaves unread (`_fit`).
"""

from __future__ import annotations

import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvbound.instance import Instance
from kvbound.kernels import pick
from kvbound.progress import Progress, silent
from kvbound.result import Termination
from kvbound.solvers._balance import free_misses
from kvbound.solvers._balance_kernels import HELD, HITS, UNREAD, UP
from kvbound.solvers._dual_items import Lanes, count_units, occupancy
from kvbound.solvers._dual_paths import TwoTiers
from kvbound.solvers._dual_rows import Rows
from kvbound.solvers._dual_tuner import Multipliers
from kvbound.solvers._fit import fit
from kvbound.solvers._play import Play, tally

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Words = NDArray[np.uint64]

_GROUP = 0.0025
"""Share of the items that answer at once: more of them would all run to where it was cheap."""
SWEEPS = 3
"""How often everybody answers again."""
_PART = 256
"""Steps priced at a time: what that takes stays in a cache."""
_PULL = 0.3, 0.01
"""How far a slot's load moves its row weights, per slow read too many, and the price of room, in slow reads
per step and block too many; at one read and one block, and falling with the square root of their number, as
chance does."""
_LEARN = 0.5, 1.0
"""Shares of these moves that stay in the multipliers, ten times a sweep."""


class Answer(NamedTuple):
    """What came of it."""

    play: Play | None
    """A schedule that keeps the rules, or none if there was no time for everybody to answer."""
    multipliers: Multipliers
    """The dual's, moved by what loads they led to."""
    termination: Termination


def respond(
    instance: Instance,
    multipliers: Multipliers,
    *,
    seed: int = 0,
    kernel: str | None = None,
    threads: int = 1,
    end: float = math.inf,
    progress: Progress = silent,
) -> Answer:
    """Make a schedule between two tiers, inclusive, from the dual's multipliers.

    Parameters
    ----------
    end
        `time.perf_counter` when to stop.

    Returns
    -------
    Answer
        With multipliers that have learnt from the loads, often better ones.
    """
    generator, chosen = np.random.default_rng(seed), pick(kernel)
    stride = min(count_units(instance), round(1 / _GROUP))
    share = min(1.0, max(_GROUP * stride, 1 / 64))  # some of a word at least
    sweep = round(stride / share)
    steps = stride + SWEEPS * sweep
    state = _State.of(instance, stride)
    ended = Termination()
    with ThreadPoolExecutor(threads) as pool:
        prices = _Prices(instance, multipliers, pool)
        try:
            for step in range(steps):
                if time.perf_counter() >= end:
                    ended = Termination("limit", "time")
                    break
                if step % stride == 0:
                    order = generator.permuted(np.tile(np.arange(stride), (instance.layers, 1)), axis=1)
                lanes = Lanes.of(instance, slice(None), order[:, step % stride], stride)
                inside, after = TwoTiers(instance, lanes, chosen, threads).paths(*prices.around(state))
                if step < stride:
                    state.add(lanes, inside, after)
                else:
                    state.change(lanes, inside, after, generator.random(inside.shape) < share)
                    if step % max(sweep // 10, 1) == 0:
                        prices.learn(state)
                progress(step + 1, steps, "items answer prices")
        except KeyboardInterrupt:
            ended = Termination("interrupted")
    return Answer(state.settled() if state.share == 1 else None, prices.multipliers(), ended)


@dataclass(eq=False)
class _State:
    """A schedule that grows and changes, by its bits and by its counts.

    Attributes
    ----------
    inside
        Who is in tier 0 at the start, (layers, words, 64).
    after
        Bits of who is there after every slot, (layers, steps, words), filled up to whole groups.
    counts
        Of those asked so far, see `_balance_kernels`, (steps, layers, 5).
    start
        How many of them are there at the start, (layers,).
    reads
        What they read, (steps, layers).
    asked
        How many words of each layer they are.
    """

    instance: Instance
    inside: Bools
    after: Words
    counts: Ints
    start: Ints
    reads: Ints
    asked: int = 0

    @classmethod
    def of(cls, instance: Instance, stride: int) -> _State:
        """Begin with nobody, but with words for groups of every stride-th."""
        layers, steps = instance.layers, instance.decode_steps
        words = -(-count_units(instance) // stride) * stride
        return cls(
            instance,
            np.zeros((layers, words, 64), np.bool_),
            np.zeros((layers, steps, words), np.uint64),
            np.zeros((steps, layers, 5), np.int64),
            np.zeros(layers, np.int64),
            np.zeros((steps, layers), np.int64),
        )

    def add(self, lanes: Lanes, inside: Bools, after: Words) -> None:
        """Take in lanes that were not asked before."""
        self._put(lanes, inside, after)
        self.counts += tally(lanes, inside, after)
        self.start += inside.sum(axis=1)
        self.reads += np.bitwise_count(lanes.rows).sum(axis=2, dtype=np.int64)
        self.asked += after.shape[2]

    def change(self, lanes: Lanes, inside: Bools, after: Words, who: Bools) -> None:
        """Give lanes these paths, of those that are named."""
        words, layers = _words(lanes)
        before = np.stack([self.after[layer][:, words[layer]] for layer in layers], axis=1)
        began = self.inside[layers[:, None], words].reshape(who.shape)
        named = np.packbits(who, axis=1, bitorder="little").view(np.uint64)
        after, inside = before ^ ((before ^ after) & named), np.where(who, inside, began)
        self.counts += tally(lanes, inside, after) - tally(lanes, began, before)
        self.start += inside.sum(axis=1) - began.sum(axis=1)
        self._put(lanes, inside, after)

    def _put(self, lanes: Lanes, inside: Bools, after: Words) -> None:
        words, layers = _words(lanes)
        for layer in layers:
            self.after[layer][:, words[layer]] = after[:, layer]
        self.inside[layers[:, None], words] = inside.reshape(*words.shape, 64)

    @property
    def share(self) -> float:
        """What share of the items was asked."""
        return self.asked / self.after.shape[2]

    def held(self) -> Floats:
        """Items in tier 0 at the start and after every slot, (1 + steps * layers,)."""
        start, after = self.start.astype(np.float64), self.counts[..., HELD].astype(np.float64)
        return occupancy(self.instance, start[None], after[None], slice(None))[0]

    def settled(self) -> Play:
        """Return it as a schedule that keeps within the room."""
        instance = self.instance
        free = free_misses(instance, self.counts[..., UP].astype(np.float64))
        inside = self.inside.reshape(instance.layers, -1)
        served = self.reads - self.counts[..., HITS] + self.counts[..., UNREAD]  # by tier 1
        fit(instance, inside, self.after, free - served)
        width = count_units(instance)
        return Play.of(instance, inside[:, : 64 * width], lambda layer: self.after[layer, :, :width])


def _words(lanes: Lanes) -> tuple[Ints, Ints]:
    """Words of lanes, (layers, words), and their layers."""
    words = lanes.blocks[:, ::64] // 64
    return words, np.arange(len(words))


class _Prices:
    """The dual's multipliers, and prices that loads move away from them."""

    def __init__(self, instance: Instance, multipliers: Multipliers, pool: ThreadPoolExecutor) -> None:
        assert instance.room[0] is not None  # only the last tier may be unlimited
        self.instance, self.pool, rows = instance, pool, Rows.of(instance)
        self.reads, self.room = instance.trace.past_counts(), instance.room[0]
        self.weights, self.stay = multipliers.weights.copy(), multipliers.capacity[0]
        self.unit = float(rows.beta.max())
        self.pull = (
            _PULL[0] / math.sqrt(max(float(self.reads.mean()), 1.0)),
            _PULL[1] / math.sqrt(max(self.room, 1)) * self.unit / instance.layers,
        )
        steps = [slice(n, n + _PART) for n in range(0, instance.decode_steps, _PART)]
        self.parts = [(part, rows.part(part)) for part in steps]

    def around(self, state: _State) -> tuple[Floats, Floats]:
        """Return prices of counts, (3K, steps, layers), and of room, (K, 1 + steps * layers)."""
        prices = np.empty((6, *self.reads.shape))

        def one(part: slice, rows: Rows) -> None:
            prices[:, part] = rows.prices(self._weights(state, part, rows, 1.0))

        list(self.pool.map(one, *zip(*self.parts, strict=True)))
        return prices, _capacity(self._stay(state, 1.0))

    def multipliers(self) -> Multipliers:
        """Return those learnt so far."""
        return Multipliers(self.weights, _capacity(self.stay))

    def learn(self, state: _State) -> None:
        """Move the multipliers themselves."""
        for part, rows in self.parts:
            self.weights[:, part] = self._weights(state, part, rows, _LEARN[0])
        self.stay = self._stay(state, _LEARN[1])

    def _weights(self, state: _State, part: slice, rows: Rows, share: float) -> Floats:
        """Row weights of some steps, moved by what the rows say of those asked so far."""
        counts, reads = state.counts[part], state.reads[part]
        used = np.zeros((6, *reads.shape))
        used[0], used[1] = counts[..., HITS], reads - counts[..., HITS]
        used[3], used[4], used[5] = counts[..., UNREAD], counts[..., UP], 1
        missing = 1 - reads / np.maximum(self.reads[part], 1)
        says = (rows.at(used) - missing * rows.alpha) / self.unit
        return _onto_simplex(self.weights[:, part] + share * self.pull[0] * (says - says.max(axis=0)))

    def _stay(self, state: _State, share: float) -> Floats:
        """Prices of room, moved by what those asked so far have too much of it."""
        return np.maximum(self.stay + share * self.pull[1] * (state.held() - state.share * self.room), 0)


def _capacity(stay: Floats) -> Floats:
    """Prices of room in both tiers: the last one holds everything anyway."""
    return np.stack([stay, np.zeros_like(stay)])


def _onto_simplex(points: Floats) -> Floats:
    """Project columns of (rows, ...) onto weights >= 0 that add up to 1 (Held, Wolfe and Crowder, 1974)."""
    falling = -np.sort(-points, axis=0)
    rank = np.arange(1, len(points) + 1).reshape(-1, *(1,) * (points.ndim - 1))
    level = (np.cumsum(falling, axis=0) - 1) / rank
    last = (falling > level).sum(axis=0) - 1
    return np.maximum(points - np.take_along_axis(level, last[None], 0), 0)
