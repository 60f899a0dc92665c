"""Cycles of annealing until a time limit, an amount of work or a target time is reached."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

from kvbound.progress import Progress
from kvbound.result import Limit, Reason, Termination
from kvbound.solvers.annealing.layout import SearchData
from kvbound.solvers.annealing.tempering import Annealer

MIN_MOVES = 2_000
"""Moves of a chain in the first cycle, at the least, and in any later one under a time limit."""
PATIENCE = 6
"""Consecutive cycles without a better schedule after which annealing ends."""
TRIAL_MOVES = 64
"""Moves of each chain by which their duration is estimated."""


@dataclass(frozen=True)
class StopRule:
    """When a search ends.

    Attributes
    ----------
    begin, limit
        When the clock started, and the seconds that the search may take from then on.
    target
        Decode time in seconds, or objective, that is close enough to the lower bound.
    unit
        That of times, for display; empty under another objective than time alone.
    """

    begin: float
    limit: float
    target: float
    progress: Progress
    unit: str = " s"

    @property
    def left(self) -> float:
        """Seconds left."""
        return self.begin + self.limit - time.perf_counter()

    def proceed(self, time_s: float, done: float) -> bool:
        """Report the best decode time so far; return whether to continue.

        Parameters
        ----------
        done
            Share of the work that is done, where no time limits it.
        """
        total = 1.0
        if self.limit < math.inf:
            done, total = min(self.limit - self.left, self.limit), self.limit
        self.progress(done, total, f"best {time_s:.6g}{self.unit}")
        return self.left > 0 and time_s > self.target


@dataclass(eq=False)
class CycleSearch:
    """One search with an array of tiers."""

    data: SearchData
    annealer: Annealer
    stop: StopRule
    work: int | None = None
    move_s: float = 0.0
    begin: float = 0.0

    @property
    def time_s(self) -> float:
        """Decode time of the best schedule so far."""
        return self.annealer.ticks * self.data.tick_s

    def run(self, moves: int, cycles: int | None, work: int | None) -> Termination:
        """Run cycles, each twice as long as the one before, the last one as long as time or work is left.

        Parameters
        ----------
        moves
            Moves of each chain in the first cycle.
        work
            Moves of all chains together; None where time limits them.
        """
        if not len(self.data.intervals):  # nothing may move
            return Termination()
        waited = number = 0
        self.work = work
        try:
            if work is None:
                self._start_clock()
            while waited < PATIENCE and number != cycles and self._proceed():
                left, before = self._moves_left(), self.annealer.ticks
                if left < (MIN_MOVES if number and work is None else 1):
                    break
                self.annealer.cycle(number, moves if 3 * moves <= left else left, self._proceed)
                waited = waited + 1 if self.annealer.ticks == before else 0
                moves, number = 2 * moves, number + 1
        except KeyboardInterrupt:
            return Termination(Reason.INTERRUPTED)
        stopped = waited < PATIENCE and number != cycles and self.time_s > self.stop.target
        limit = Limit.TIME if work is None else Limit.WORK
        return Termination(Reason.LIMIT, limit) if stopped else Termination()

    def _start_clock(self) -> None:
        """Start the clock once the kernel is compiled, and estimate the duration of a move."""
        begin = time.perf_counter()
        self.annealer.seconds_per_move(1)  # the first call compiles
        self.stop = replace(self.stop, begin=self.stop.begin + time.perf_counter() - begin)
        self.move_s, self.begin = self.annealer.seconds_per_move(TRIAL_MOVES), time.perf_counter()

    def _moves_left(self) -> int:
        """Moves of each chain for which there is time or work left."""
        chains, moves = self.annealer.chains.count, self.annealer.moves
        if self.work is not None:
            return (self.work - moves) // chains
        if moves:
            self.move_s = chains * (time.perf_counter() - self.begin) / moves
        return int(self.stop.left / self.move_s)

    def _proceed(self) -> bool:
        return self.stop.proceed(self.time_s, self.annealer.moves / (self.work or math.inf))
