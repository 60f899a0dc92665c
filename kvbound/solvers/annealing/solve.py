"""Simulated annealing: many schedules at once, every move evaluated by its difference."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kvbound.bitsets.two_tier import TwoTierSchedule
from kvbound.cost.evaluate import evaluate, refuse_spread
from kvbound.cost.ideal import ideal
from kvbound.errors import KvboundError, UsageError
from kvbound.fang2025.annealing import EVALUATIONS, solve_published
from kvbound.instance import Instance
from kvbound.kernels import pick
from kvbound.placement import Placement
from kvbound.progress import Progress, silent
from kvbound.result import Bound, BoundStatus, Limit, Reason, Result, Status, Termination, identify
from kvbound.schedule import Schedule
from kvbound.simulation import simulate
from kvbound.solvers.annealing.chains import Chains
from kvbound.solvers.annealing.layout import MOST_BYTES, Board, board, schedule_of, too_large
from kvbound.solvers.annealing.packed import BitsAnnealer
from kvbound.solvers.annealing.tempering import Annealer
from kvbound.solvers.eviction import balanced
from kvbound.solvers.incumbent import CostedPlacement, evaluate_placement
from kvbound.solvers.warm_start import events, examine, refuse_infeasible

STARTS = ("belady", "keep-last", "lru", "static")
"""Policies whose best schedule annealing starts from, unless one is given."""
SWEEPS = 10
"""Moves per stay and chain in the first cycle; each later one has twice as many."""
FEWEST = 2_000
"""Moves of a chain in the first cycle, at the least."""
PATIENCE = 6
"""So many cycles without a better schedule, and annealing ends."""
TOLERANCE = 1e-6
"""How far, relatively, the sum of differences and the cost model may differ."""
ROUNDING = 1e-8
"""How far, relatively, whole ticks may be off."""
MANY = 32
"""Chains unless told otherwise, where NumPy takes them all at once."""
TRIAL = 64
"""Moves of each chain that tell how fast they are."""


def solve_annealing(
    instance: Instance,
    *,
    time_limit: float = 60.0,
    gap: float = 0.01,
    seed: int = 0,
    bound_s: float | None = None,
    start: Placement | None = None,
    chains: int | None = None,
    moves: int | None = None,
    cycles: int | None = None,
    evaluations: int = EVALUATIONS,
    work: int | None = None,
    threads: int = 1,
    kernel: str | None = None,
    progress: Progress = silent,
) -> Result:
    """Search for a fast schedule.

    Parameters
    ----------
    time_limit
        Seconds, without the kernels' compilation. Of an instance too large for an array of tiers, what it
        begins with, balanced eviction, and the check of what it ends with come on top.
    gap
        Stop as soon as the time is relatively so near to the time lower bound.
    bound_s
        A time lower bound in seconds, if one better than the ideal is known.
    start
        A schedule to start from; by default the best that some policies make.
    chains
        Schedules worked on at once; None takes one where the compiled kernel runs, which takes one after
        the other, and many with NumPy. For the same number both kernels find the same schedule.
    moves
        Moves of each chain in the first cooling; None lets the size decide. Each later one has twice as many.
        Of an instance too large for an array of tiers, about how many moves in all.
    cycles
        End after so many coolings; None goes on until nothing better is found for long.
    evaluations
        Under fang2025 accounting: simulations of ``sa-guided``, as the study counts them.
    work
        Moves per stay of all chains together, instead of a time limit, or evaluations under fang2025
        accounting; one chain then unless told otherwise. See `kvbound.solvers.solve`.
    threads
        Threads for the chains, with the compiled kernel; the result does not depend on it.

    Returns
    -------
    Result
        Under fang2025 accounting the options hold the best window and topk, and there is no schedule. Beyond
        10**9 items times slots the schedule is a residency, checked too. Interrupted or out of time it holds
        the best so far.

    Raises
    ------
    UsageError
        The instance is too large to keep every block's tier in every step, or an option makes no sense.
    InputError
        The start does not keep the rules.
    """
    begin = time.perf_counter()
    if not instance.physical:
        if start is not None or bound_s is not None:
            raise UsageError("annealing under fang2025 accounting takes neither a start nor a bound")
        if work is not None:
            evaluations, time_limit = work, math.inf
        return solve_published(instance, evaluations, time_limit, seed, kernel, progress)
    _need_counts(chains=chains, moves=moves, cycles=cycles, work=work, threads=threads)
    refuse_spread(instance, "annealing")
    about: dict[str, Any] = {"method": "anneal", "seed": seed, "kernel": pick(kernel)}
    if nothing := refuse_infeasible(instance, begin, about):
        return nothing
    lowest = max(ideal(instance), bound_s or 0.0)
    enough = lowest / (1 - gap) * (1 + ROUNDING) if gap < 1 else math.inf
    clock = _Clock(begin, time_limit if work is None else math.inf, enough, progress)
    rng = np.random.default_rng(seed)
    options: dict[str, Any] = {"gap": gap} | ({} if work is None else {"work": work})
    if too_large(instance) and balanced.supports(instance) and about["kernel"] == "numba":
        if chains is not None or cycles is not None:
            raise UsageError("annealing an instance this large takes neither chains nor cycles")
        if work is not None:
            moves = work * (int(instance.read_counts().sum()) + instance.layers * instance.blocks)
        (measures, schedule), tried, ended = _packed(instance, start, rng, moves, clock)
        options |= {"moves": tried}
    else:
        setting = board(instance)
        first, interrupted = (events(instance, start), False) if start else _first(instance)
        count = chains or (_chains(setting, about["kernel"]) if work is None else 1)
        states = Chains.of(instance, setting, [first] * count)
        run = _Run(setting, Annealer(setting, states, rng, about["kernel"], threads), clock)
        if interrupted:
            ended = Termination(Reason.INTERRUPTED)
        else:
            first_cycle = moves or max(FEWEST, SWEEPS * len(setting.block))
            ended = run.search(first_cycle, cycles, None if work is None else work * len(setting.block))
        measures, schedule = _costed(instance, run)
        options |= {"chains": count, "moves": run.annealer.moves}
    voucher = "ideal" if bound_s is None else "given"
    return Result(
        identify(instance),
        status=Status.OPTIMAL if math.isclose(measures.time_s, lowest) else Status.FEASIBLE,
        measures=measures,
        bound=Bound(min(lowest, measures.time_s), BoundStatus.CLAIMED, voucher),
        termination=ended,
        options=options,
        wall_s=time.perf_counter() - begin,
        placement=schedule,
        **about,
    )


def _need_counts(**counts: int | None) -> None:
    for name, value in counts.items():
        if value is not None and value < 1:
            raise UsageError(f"annealing needs at least 1 of {name}, not {value}")


def _packed(
    instance: Instance,
    start: Placement | None,
    rng: np.random.Generator,
    moves: int | None,
    clock: _Clock,
) -> tuple[CostedPlacement, int, Termination]:
    """Improve a schedule of an instance too large for an array of tiers; see `packed`."""
    if start is None:
        first = next(balanced.schedules(instance, clock.progress))
    else:
        first = TwoTierSchedule.replayed(instance, examine(instance, start))
    annealer = BitsAnnealer.of(instance, first, rng)
    annealer.warm_up()
    clock, ended = replace(clock, begin=time.perf_counter()), Termination()
    try:
        most = moves or math.inf
        annealer.run(lambda: annealer.moves < most and clock.look(annealer.time_s, annealer.moves / most))
        if annealer.time_s > clock.enough and annealer.moves < most:
            ended = Termination(Reason.LIMIT, Limit.TIME)
    except KeyboardInterrupt:
        ended = Termination(Reason.INTERRUPTED)
    return evaluate_placement(instance, annealer.play()), annealer.moves, ended


def _chains(setting: Board, kernel: str) -> int:
    """Compiled code takes chains one after the other, so that one gets furthest; NumPy takes all at once."""
    return 1 if kernel == "numba" else max(1, min(MANY, MOST_BYTES // (2 * setting.stay.size)))


def _costed(instance: Instance, run: _Run) -> CostedPlacement:
    """Return what the cost model says of the best schedule, and that."""
    best = schedule_of(run.board, run.annealer.best)
    measures = evaluate(instance, best)
    rounding = instance.slots * run.board.tick
    if not math.isclose(measures.time_s, run.time_s, rel_tol=TOLERANCE, abs_tol=rounding):
        raise KvboundError(f"annealing says {run.time_s} s, the cost model {measures.time_s} s")
    return measures, best


@dataclass(frozen=True)
class _Clock:
    """When a search ends.

    Attributes
    ----------
    begin, limit
        When it began, and the seconds it may take from then on.
    enough
        Seconds of decode time that are near enough to the lower bound.
    """

    begin: float
    limit: float
    enough: float
    progress: Progress

    @property
    def left(self) -> float:
        """Seconds left."""
        return self.begin + self.limit - time.perf_counter()

    def look(self, time_s: float, done: float) -> bool:
        """Report the best decode time so far; say whether to go on.

        Parameters
        ----------
        done
            Share of the work that is done, where no time limits it.
        """
        total = 1.0
        if self.limit < math.inf:
            done, total = min(self.limit - self.left, self.limit), self.limit
        self.progress(done, total, f"best {time_s:.6g} s")
        return self.left > 0 and time_s > self.enough


@dataclass(eq=False)
class _Run:
    """One search with an array of tiers."""

    board: Board
    annealer: Annealer
    clock: _Clock
    work: int | None = None
    pace: float = 0.0
    start: float = 0.0

    @property
    def time_s(self) -> float:
        """Decode time of the best schedule so far."""
        return self.annealer.ticks * self.board.tick

    def search(self, moves: int, cycles: int | None, work: int | None) -> Termination:
        """Cool again and again, twice as long each time, the last one as long as time or work is left.

        Parameters
        ----------
        moves
            Of each chain in the first cycle.
        work
            Moves of all chains together; None where time limits them.
        """
        if not len(self.board.block):  # nothing may ever move
            return Termination()
        waited = number = 0
        self.work = work
        try:
            if work is None:
                self._set_out()
            while waited < PATIENCE and number != cycles and self._look():
                left, before = self._left(), self.annealer.ticks
                if left < (FEWEST if number and work is None else 1):
                    break
                self.annealer.cycle(number, moves if 3 * moves <= left else left, self._look)
                waited = waited + 1 if self.annealer.ticks == before else 0
                moves, number = 2 * moves, number + 1
        except KeyboardInterrupt:
            return Termination(Reason.INTERRUPTED)
        short = waited < PATIENCE and number != cycles and self.time_s > self.clock.enough
        limit = Limit.TIME if work is None else Limit.WORK
        return Termination(Reason.LIMIT, limit) if short else Termination()

    def _set_out(self) -> None:
        """Start the clock, and find out how long a move takes."""
        begin = time.perf_counter()
        self.annealer.pace(1)  # compiles: the first time that takes seconds
        self.clock = replace(self.clock, begin=self.clock.begin + time.perf_counter() - begin)
        self.pace, self.start = self.annealer.pace(TRIAL), time.perf_counter()

    def _left(self) -> int:
        """Moves of each chain for which there is time or work left."""
        chains, moves = self.annealer.chains.count, self.annealer.moves
        if self.work is not None:
            return (self.work - moves) // chains
        if moves:
            self.pace = chains * (time.perf_counter() - self.start) / moves
        return int(self.clock.left / self.pace)

    def _look(self) -> bool:
        return self.clock.look(self.time_s, self.annealer.moves / (self.work or math.inf))


def _first(instance: Instance) -> tuple[Schedule, bool]:
    """Return the best schedule that some policies make, and whether they were interrupted."""
    found: list[Result] = []
    interrupted = False
    try:
        for policy in STARTS:
            found.append(simulate(instance, policy))
    except KeyboardInterrupt:
        if not found:
            raise
        interrupted = True
    best = min(found, key=lambda result: result.time_s or 0.0).schedule
    assert best is not None
    return best, interrupted
