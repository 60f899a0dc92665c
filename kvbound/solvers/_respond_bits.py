"""Answers to prices between two tiers, as bits: who is in tier 0 after every slot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvbound.instance import Instance
from kvbound.kernels import Kernel
from kvbound.solvers._balance import free_misses
from kvbound.solvers._balance_kernels import HELD, HITS, UNREAD, UP
from kvbound.solvers._dual_items import Lanes, count_bits, count_units, occupancy
from kvbound.solvers._dual_paths import TwoTiers
from kvbound.solvers._fit import fit
from kvbound.solvers._play import Play, tally

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
        Of those asked so far, see `_balance_kernels`, (steps, layers, 5).
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
        inside, after = TwoTiers(self.instance, lanes, self.kernel, self.threads).paths(prices, capacity)
        if choose is None:
            self.reads += count_bits(lanes.rows)
            self.asked += after.shape[2]
        else:
            words, layers = _words(lanes)
            before = np.ascontiguousarray(self.after[layers, words[:, 0]].swapaxes(0, 1))
            who = choose(inside.shape)
            began = self.inside[layers[:, None], words].reshape(who.shape)
            self._count(lanes, began, before, -1)
            named = np.packbits(who, axis=1, bitorder="little").view(np.uint64)
            after ^= before
            after &= named
            after ^= before  # as before but for those who are named
            inside = np.where(who, inside, began)
        self._count(lanes, inside, after, 1)
        self._put(lanes, inside, after)

    def _count(self, lanes: Lanes, inside: Bools, after: Words, sign: int) -> None:
        tally(lanes, inside, after, self.counts, sign)
        self.start += sign * inside.sum(axis=1)

    def _put(self, lanes: Lanes, inside: Bools, after: Words) -> None:
        words, layers = _words(lanes)
        self.after[layers, words[:, 0]] = after.swapaxes(0, 1)
        self.inside[layers[:, None], words] = inside.reshape(*words.shape, 64)

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

    def settled(self) -> Play:
        """Return it as a schedule that keeps within the room."""
        instance = self.instance
        free = free_misses(instance, self.counts[..., UP].astype(np.float64))
        inside = self.inside.reshape(instance.layers, -1)
        served = self.reads - self.counts[..., HITS] + self.counts[..., UNREAD]  # by tier 1
        after, width = self._by_step(), count_units(instance)
        fit(instance, inside, after, free - served)
        return Play.of(instance, inside[:, : 64 * width], lambda layer: after[layer, :, :width])

    def _by_step(self) -> Words:
        """Return the bits as (layers, steps, words), in the same place."""
        layers, groups, steps, words = self.after.shape
        turned = self.after.reshape(layers, steps, words * groups)
        for layer, bits in enumerate(self.after):
            turned[layer] = bits.transpose(1, 2, 0).reshape(steps, -1)
        return turned


def _words(lanes: Lanes) -> tuple[Ints, Ints]:
    """Words of lanes, (layers, words), and their layers."""
    words = lanes.blocks[:, ::64] // 64
    return words, np.arange(len(words))
