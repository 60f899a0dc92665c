"""Annealing of schedules too large for an array of tiers: one chain, its items packed as bits."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kvbound.bitsets.lanes import count_units
from kvbound.bitsets.next_use import transpose, transposed_reads
from kvbound.bitsets.two_tier import TwoTierSchedule, Words
from kvbound.instance import Initial, Instance
from kvbound.solvers.annealing.chains import counted, margins, slot_ticks
from kvbound.solvers.annealing.layout import Board, bare

if TYPE_CHECKING:
    from kvbound.solvers.annealing.packed_numba import Bits

_CHUNK = 20_000
"""Moves between two looks at the clock."""


@dataclass(eq=False)
class BitsAnnealer:
    """One chain of an instance between two tiers, inclusive, of single tokens.

    Attributes
    ----------
    moves
        Moves tried so far.
    """

    instance: Instance
    board: Board
    bits: Bits
    rng: np.random.Generator
    moves: int = 0

    @classmethod
    def of(cls, instance: Instance, play: TwoTierSchedule, rng: np.random.Generator) -> BitsAnnealer:
        """Begin with a schedule."""
        from kvbound.solvers.annealing.packed_numba import Bits

        board, reads = bare(instance), transposed_reads(instance)
        after = np.zeros_like(reads)

        def turn_layer(layer: int) -> None:
            rows = play.residency.after(layer).view(np.uint64)
            transpose(rows, instance.prefill_tokens + 1, after[layer])  # the born are there in their own step

        with ThreadPoolExecutor() as pool:
            list(pool.map(turn_layer, range(instance.layers)))
        counts, held = counted(instance, board, play.traffic(instance))
        layer = np.arange(instance.slots) % instance.layers
        ticks = slot_ticks(board, counts, layer)
        margin = margins(board, counts, layer, ticks)
        fixed = instance.rules.initial is Initial.PREFILL_FIRST
        start = play.residency.initial == 0
        bits = Bits(reads, after, start, fixed, counts, held[0].copy(), ticks, margin)
        return cls(instance, board, bits, rng)

    @property
    def time_s(self) -> float:
        """Decode time."""
        return int(self.bits.ticks.sum()) * self.board.tick

    def warm_up(self) -> None:
        """Have the kernel compiled before a clock runs: the first time that takes seconds."""
        from kvbound.solvers.annealing.packed_numba import DRAWS, anneal

        anneal(self.board, self.bits, np.empty((0, DRAWS)))

    def run(self, going: Callable[[], bool]) -> None:
        """Try moves as long as `going` says so, asked every few; nothing worse is ever taken.

        Of so many items there is no time to cool: each is tried a few times at the most.
        """
        from kvbound.solvers.annealing.packed_numba import DRAWS, anneal

        while going():
            anneal(self.board, self.bits, self.rng.random((_CHUNK, DRAWS)))
            self.moves += _CHUNK

    def play(self) -> TwoTierSchedule:
        """Return the schedule."""
        from kvbound.solvers.annealing.packed_numba import turn_back

        instance, words = self.instance, count_units(self.instance)
        start = np.zeros((instance.layers, 64 * words), np.bool_)
        start[:, : instance.prefill_tokens] = self.bits.start

        def rows(layer: int) -> Words:
            after = np.zeros((instance.decode_steps, words), np.uint64)
            turn_back(self.bits.after[layer], after)
            return after

        return TwoTierSchedule.of(instance, start, rows)
