"""Responses between two tiers as bits: which items are in tier 0 after every slot."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvbound.bitsets.counts import HELD, HITS, UNREAD, UP
from kvbound.bitsets.lanes import Lanes, count_bits, count_spans
from kvbound.bitsets.two_tier import TwoTierSchedule, add_birth_counts, add_counts
from kvbound.cost.marginal import free_misses
from kvbound.instance import Instance
from kvbound.kernels import Kernel
from kvbound.progress import Progress, silent
from kvbound.solvers.lagrangian.paths.two_tier import TwoTierPaths
from kvbound.solvers.lagrangian.subproblem import columns, occupancy
from kvbound.solvers.pricing.repair import repair
from kvbound.solvers.pricing.responses.interface import Adopt

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Words = NDArray[np.uint64]


@dataclass(eq=False)
class BitResponses:
    """Responses of single tokens between two inclusive tiers; see `interface.Responses`.

    Attributes
    ----------
    kernel, threads
        For the paths.
    inside
        Whether a lane is in tier 0 at the start, (layers, words, 64).
    after
        Bits of the lanes in tier 0 after every slot, (layers, groups, steps, words of a group): each group's
        are contiguous, as every single word of a row is a cache line of its own.
    counts
        Counts of the items with a path, see `bitsets.counts`, (steps, layers, 5).
    start
        How many of them are in tier 0 at the start, (layers,).
    reads
        Their reads, (steps, layers).
    covered
        Words of each layer whose items have a path.
    """

    instance: Instance
    kernel: Kernel
    threads: int
    inside: Bools
    after: Words
    counts: Ints
    start: Ints
    reads: Ints
    covered: int = 0

    @classmethod
    def empty(cls, instance: Instance, stride: int, kernel: Kernel, threads: int) -> BitResponses:
        """Return responses without any path, with words for groups of every stride-th."""
        layers, steps = instance.layers, instance.decode_steps
        words = -(-count_spans(instance) // stride)
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

    def update(self, lanes: Lanes, prices: Floats, capacity: Floats, adopt: Adopt | None) -> None:
        """Give lanes their best paths; see `interface.Responses`."""
        found, after = TwoTierPaths(self.instance, lanes, self.kernel, self.threads).paths(prices, capacity)
        words = lanes.blocks[:, ::64] // 64
        layers, groups = np.arange(len(words)), words[:, 0]
        old = self.inside[layers[:, None], words].reshape(found.shape)
        adopting = np.ones(found.shape, np.bool_) if adopt is None else adopt(found.shape)
        if adopt is None:
            self.reads += count_bits(lanes.rows)
            self.covered += words.shape[1]
        new = np.where(adopting, found, old)
        self.inside[layers[:, None], words] = new.reshape(*words.shape, 64)
        self.start += new.sum(axis=1) - old.sum(axis=1)
        replace = self._replace if self.kernel == "numpy" else self._replace_compiled
        replace(lanes, groups, (old, new), after, _packed(adopting))

    def _replace(
        self, lanes: Lanes, groups: Ints, starts: tuple[Bools, Bools], after: Words, adopting: Words
    ) -> None:
        """Put new bits (steps, layers, words) in place of those of the lanes that adopt them.

        Parameters
        ----------
        groups
            Group of each layer, (layers,).
        starts
            Whether a lane is in tier 0 at the start, before and now, (layers, lanes).
        """
        at = np.arange(len(groups)), groups
        before = np.ascontiguousarray(self.after[at].swapaxes(0, 1))
        after = before ^ (before ^ after) & adopting
        add_counts(lanes, starts[0], before, self.counts, -1)
        add_counts(lanes, starts[1], after, self.counts)
        self.after[at] = after.swapaxes(0, 1)

    def _replace_compiled(
        self, lanes: Lanes, groups: Ints, starts: tuple[Bools, Bools], after: Words, adopting: Words
    ) -> None:
        from kvbound.solvers.pricing.responses.bits_numba import replace_paths

        packed = _packed(starts[0]), _packed(starts[1])

        def replace(layers: range) -> None:
            for layer in layers:
                bits = self.after[layer, groups[layer]]
                replace_paths(lanes.rows, bits, after, *packed, adopting, self.counts, layer)

        def find(layer: Ints, step: Ints, word: Ints) -> Words:
            return self.after[layer, groups[layer], step, word]

        add_birth_counts(lanes, find, self.counts, -1)
        layers = range(len(groups))
        if self.threads == 1:
            replace(layers)
        else:
            with ThreadPoolExecutor(self.threads) as pool:
                list(pool.map(replace, (layers[n :: self.threads] for n in range(self.threads))))
        add_birth_counts(lanes, find, self.counts, 1)

    @property
    def share(self) -> float:
        """Share of the items that have a path."""
        return self.covered / self.inside.shape[1]

    def used(self, steps: slice) -> Floats:
        """Return the counts of some steps' slots; see `Demand`, (6, steps, layers)."""
        counts, reads = self.counts[steps], self.reads[steps]
        used = np.zeros((6, *reads.shape))
        by_tier = columns(used)
        by_tier.reads[0], by_tier.reads[1] = counts[..., HITS], reads - counts[..., HITS]
        by_tier.extra_reads[1] = counts[..., UNREAD]
        by_tier.writes[0], by_tier.writes[1] = counts[..., UP], self.instance.timeline.births[steps, None]
        return used

    def held(self) -> Floats:
        """Return the units in tier 0 at the start and after every slot, (1, 1 + slots)."""
        units = self.instance.units.astype(np.float64)
        start, after = self.start * units, self.counts[..., HELD] * units
        return occupancy(self.instance, start[None], after[None], slice(None))

    def bits(self) -> tuple[Bools, Words]:
        """Return the lanes in tier 0 at the start and after every slot, in order.

        Returns
        -------
        Whether a lane is there at the start, (layers, lanes), and bits after every slot, (layers, steps,
        words). The latter overwrite `after`.
        """
        layers, groups, steps, words = self.after.shape
        by_step = self.after.reshape(layers, steps, words * groups)
        for layer, bits in enumerate(self.after):
            by_step[layer] = bits.transpose(1, 2, 0).reshape(steps, -1)
        return self.inside.reshape(layers, -1), by_step

    def repaired(self, progress: Progress = silent) -> TwoTierSchedule:
        """Return them as a schedule within the capacities; changes them in place."""
        instance, width = self.instance, count_spans(self.instance)
        free = free_misses(instance, self.counts[..., UP].astype(np.float64))
        slow_reads = self.reads - self.counts[..., HITS] + self.counts[..., UNREAD]
        inside, after = self.bits()
        repair(instance, inside, after, free - slow_reads, progress)
        return TwoTierSchedule.of(instance, inside[:, : 64 * width], lambda layer: after[layer, :, :width])


def _packed(lanes: Bools) -> Words:
    """Pack (layers, lanes) into words."""
    return np.packbits(lanes, axis=1, bitorder="little").view(np.uint64)
