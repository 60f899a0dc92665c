"""Annealing of schedules too large for an array of tiers: one chain, its items packed as bits."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kvbound.bitsets.lanes import count_spans
from kvbound.bitsets.next_use import transpose, transposed_reads
from kvbound.bitsets.two_tier import TwoTierSchedule, Words
from kvbound.instance import Instance
from kvbound.rules import Initial
from kvbound.solvers.annealing.chains import marginal_ticks, slot_ticks, token_counts
from kvbound.solvers.annealing.layout import PACKED_DRAWS, Ints, SearchData, data_without_blocks
from kvbound.trace.timeline import Timeline

if TYPE_CHECKING:
    from kvbound.solvers.annealing.packed_numba import PackedChain

CHUNK = 20_000
"""Moves between two calls of `proceed`."""


@dataclass(eq=False)
class PackedAnnealer:
    """One chain of an instance of single tokens between two tiers with inclusive copies.

    Attributes
    ----------
    moves
        Moves tried so far.
    """

    instance: Instance
    data: SearchData
    chain: PackedChain
    rng: np.random.Generator
    moves: int = 0

    @classmethod
    def of(cls, instance: Instance, schedule: TwoTierSchedule, rng: np.random.Generator) -> PackedAnnealer:
        """Start from a schedule."""
        from kvbound.solvers.annealing.packed_numba import FastBits, PackedChain

        data, reads = data_without_blocks(instance), transposed_reads(instance)
        after, timeline = np.zeros_like(reads), instance.timeline

        def transpose_layer(layer: int) -> None:
            rows = schedule.residency.after(layer).view(np.uint64)
            # a token born in a step is in the row of that step
            transpose(rows, instance.timeline.past[1:], after[layer])

        with ThreadPoolExecutor() as pool:
            list(pool.map(transpose_layer, range(instance.layers)))
        counts, occupancy = token_counts(instance, data, schedule.traffic(instance))
        layer = np.arange(instance.slots) % instance.layers
        ticks = slot_ticks(data, counts, layer)
        chain = PackedChain(
            reads=reads,
            fast=FastBits(schedule.residency.initial == 0, after),
            fixed_start=instance.rules.initial is Initial.PREFILL_FIRST,
            life=_life(instance),
            ids=np.stack([np.minimum(_oldest(timeline), timeline.past), timeline.past], axis=1),
            counts=counts,
            occupancy=occupancy[0].astype(np.int64),
            ticks=ticks,
            marginal=marginal_ticks(data, counts, layer, ticks),
        )
        return cls(instance, data, chain, rng)

    @property
    def time_s(self) -> float:
        """Decode time of the schedule."""
        return int(self.chain.ticks.sum()) * self.data.tick_s

    def warm_up(self) -> None:
        """Compile the kernel, which takes seconds once, so that a time limit does not include it."""
        from kvbound.solvers.annealing.packed_numba import try_moves

        try_moves(self.data, self.chain, np.empty((0, PACKED_DRAWS)))

    def run(self, proceed: Callable[[], bool]) -> None:
        """Try moves as long as `proceed` returns True, and accept none that makes the schedule slower.

        With so many items there is no time for cooling: each is tried a few times at the most.
        """
        from kvbound.solvers.annealing.packed_numba import try_moves

        while proceed():
            try_moves(self.data, self.chain, self.rng.random((CHUNK, PACKED_DRAWS)))
            self.moves += CHUNK

    def schedule(self) -> TwoTierSchedule:
        """Return the current schedule."""
        from kvbound.solvers.annealing.packed_numba import transpose_back

        instance, words = self.instance, count_spans(self.instance)
        start = np.zeros((instance.layers, 64 * words), np.bool_)
        start[:, : instance.prefill_tokens] = self.chain.fast.start

        def rows(layer: int) -> Words:
            after = np.zeros((instance.decode_steps, words), np.uint64)
            transpose_back(self.chain.fast.after[layer], after)
            return after

        return TwoTierSchedule.of(instance, start, rows)


def _life(instance: Instance) -> NDArray[np.int32]:
    """Return the birth step and last step of each token; see `PackedChain`."""
    timelines = instance.timelines[:1] if len(set(instance.timelines)) == 1 else instance.timelines
    lives = [np.stack([timeline.born, timeline.ends], axis=1) for timeline in timelines]
    return np.stack(lives).astype(np.int32)


def _oldest(timeline: Timeline) -> Ints:
    """Return the first id of a token that exists in each state, the one before or later, (steps + 1,)."""
    before = np.maximum(np.arange(timeline.steps + 1) - 1, 0)
    return np.searchsorted(np.maximum.accumulate(timeline.ends), before)
