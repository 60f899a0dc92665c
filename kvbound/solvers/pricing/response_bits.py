"""Answers to prices between two tiers, as bits: who is in tier 0 after every slot."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvbound.bitsets.counts import HELD, HITS, UNREAD, UP
from kvbound.bitsets.lanes import Lanes, count_bits, count_units
from kvbound.bitsets.two_tier import TwoTierSchedule, add_birth_counts, add_counts
from kvbound.cost.marginal import free_misses
from kvbound.instance import Instance
from kvbound.kernels import Kernel
from kvbound.progress import Progress, silent
from kvbound.solvers.lagrangian.paths_two_tier import TwoTierPaths
from kvbound.solvers.lagrangian.subproblem import occupancy
from kvbound.solvers.pricing.repair import fit

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Words = NDArray[np.uint64]


Choose = Callable[[tuple[int, ...]], Bools]
"""Draws who of so many lanes takes up what it answered."""


@dataclass(eq=False)
class Bits:
    """A schedule that grows and changes, by its bits and by its counts.

    Attributes
    ----------
    kernel, threads
        For the paths.
    inside
        Who is in tier 0 at the start, (layers, words, 64).
    after
        Bits of who is there after every slot, (layers, groups, steps, words of a group): each group's in one
        piece, as every single word of a row is a cache line of its own.
    counts
        Of those asked so far, see `balanced_numba`, (steps, layers, 5).
    start
        How many of them are there at the start, (layers,).
    reads
        What they read, (steps, layers).
    asked
        How many words of each layer they are.
    """

    instance: Instance
    kernel: Kernel
    threads: int
    inside: Bools
    after: Words
    counts: Ints
    start: Ints
    reads: Ints
    asked: int = 0

    @classmethod
    def of(cls, instance: Instance, stride: int, kernel: Kernel, threads: int) -> Bits:
        """Begin with nobody, but with words for groups of every stride-th."""
        layers, steps = instance.layers, instance.decode_steps
        words = -(-count_units(instance) // stride)
        return cls(
            instance,
            kernel,
            threads,
            np.zeros((layers, words * stride, 64), np.bool_),
            np.zeros((layers, stride, steps, words), np.uint64),
            np.zeros((steps, layers, 5), np.int64),
            np.zeros(layers, np.int64),
            np.zeros((steps, layers), np.int64),
        )

    def answer(self, lanes: Lanes, prices: Floats, capacity: Floats, choose: Choose | None) -> None:
        """Let lanes take their best paths; all that were not asked before, else those that are chosen."""
        inside, after = TwoTierPaths(self.instance, lanes, self.kernel, self.threads).paths(prices, capacity)
        words = lanes.blocks[:, ::64] // 64
        layers, groups = np.arange(len(words)), words[:, 0]
        began = self.inside[layers[:, None], words].reshape(inside.shape)
        who = np.ones(inside.shape, np.bool_) if choose is None else choose(inside.shape)
        if choose is None:
            self.reads += count_bits(lanes.rows)
            self.asked += words.shape[1]
        inside = np.where(who, inside, began)
        self.inside[layers[:, None], words] = inside.reshape(*words.shape, 64)
        self.start += inside.sum(axis=1) - began.sum(axis=1)
        exchange = self._exchange if self.kernel == "numpy" else self._exchange_compiled
        exchange(lanes, groups, (began, inside), after, _packed(who))

    def _exchange(
        self, lanes: Lanes, groups: Ints, inside: tuple[Bools, Bools], after: Words, who: Words
    ) -> None:
        """Put answers, (steps, layers, words), in place of what those lanes did that take them up."""
        mine = np.arange(len(groups)), groups
        before = np.ascontiguousarray(self.after[mine].swapaxes(0, 1))
        after = before ^ (before ^ after) & who
        add_counts(lanes, inside[0], before, self.counts, -1)
        add_counts(lanes, inside[1], after, self.counts)
        self.after[mine] = after.swapaxes(0, 1)

    def _exchange_compiled(
        self, lanes: Lanes, groups: Ints, inside: tuple[Bools, Bools], after: Words, who: Words
    ) -> None:
        from kvbound.solvers.pricing.best_response_numba import exchange

        starts = _packed(inside[0]), _packed(inside[1])

        def some(layers: range) -> None:
            for layer in layers:
                mine = self.after[layer, groups[layer]]
                exchange(lanes.rows, mine, after, *starts, who, self.counts, layer)

        def found(layer: Ints, step: Ints, word: Ints) -> Words:
            return self.after[layer, groups[layer], step, word]

        add_birth_counts(lanes, found, self.counts, -1)
        every = range(len(groups))
        if self.threads == 1:
            some(every)
        else:
            with ThreadPoolExecutor(self.threads) as pool:
                list(pool.map(some, (every[n :: self.threads] for n in range(self.threads))))
        add_birth_counts(lanes, found, self.counts, 1)

    @property
    def share(self) -> float:
        """What share of the items was asked."""
        return self.asked / self.inside.shape[1]

    def used(self, steps: slice) -> Floats:
        """What those asked so far use of some steps' slots; see `Demand`, (6, steps, layers)."""
        counts, reads = self.counts[steps], self.reads[steps]
        used = np.zeros((6, *reads.shape))
        used[0], used[1] = counts[..., HITS], reads - counts[..., HITS]
        used[3], used[4], used[5] = counts[..., UNREAD], counts[..., UP], 1
        return used

    def held(self) -> Floats:
        """Items of those in tier 0 at the start and after every slot, (1, 1 + steps * layers)."""
        start, after = self.start.astype(np.float64), self.counts[..., HELD].astype(np.float64)
        return occupancy(self.instance, start[None], after[None], slice(None))

    def settled(self, progress: Progress = silent) -> TwoTierSchedule:
        """Return it as a schedule that keeps within the room; what was answered is used up."""
        instance = self.instance
        free = free_misses(instance, self.counts[..., UP].astype(np.float64))
        inside = self.inside.reshape(instance.layers, -1)
        served = self.reads - self.counts[..., HITS] + self.counts[..., UNREAD]  # by tier 1
        after, width = self._by_step(), count_units(instance)
        fit(instance, inside, after, free - served, progress)
        return TwoTierSchedule.of(instance, inside[:, : 64 * width], lambda layer: after[layer, :, :width])

    def _by_step(self) -> Words:
        """Return the bits as (layers, steps, words), in the same place."""
        layers, groups, steps, words = self.after.shape
        turned = self.after.reshape(layers, steps, words * groups)
        for layer, bits in enumerate(self.after):
            turned[layer] = bits.transpose(1, 2, 0).reshape(steps, -1)
        return turned


def _packed(lanes: Bools) -> Words:
    """Pack (layers, lanes) into words."""
    return np.packbits(lanes, axis=1, bitorder="little").view(np.uint64)
