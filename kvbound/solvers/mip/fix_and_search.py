"""How a program is searched: relax, cut, fix what is whole, look around, and prove the rest.

On near-ties the relaxation is whole almost everywhere. Fixing that and solving the small rest gives a
schedule within a fraction of a per cent; freeing one stretch of steps at a time takes it further; what
is left between it and the bound HiGHS closes, starting from there.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kvbound.cost.evaluate import evaluate
from kvbound.errors import KvboundError
from kvbound.models import Formulation
from kvbound.models.intervals import Stays
from kvbound.models.sparse import Floats, Matrix
from kvbound.progress import Progress
from kvbound.result import Limit, Measures, Reason, Termination
from kvbound.schedule import Schedule
from kvbound.solvers.mip.disjunctive_cuts import as_rows, slots, split
from kvbound.solvers.mip.highs import FAILED, TOLERANCE, Answer, Relaxation, minimise

WHOLE = 1e-6
"""How near to a whole number counts as one."""
VIOLATED = 1e-3
"""A cut that is violated by less, in units of the program, is not worth its row."""
STALE = 0.05
"""Cutting ends when three rounds gained less than this share of the wanted gap."""
CUT, FIRST, REST, LOOK = 0.4, 0.25, 0.5, 0.5
"""Shares of the time left that cutting, fixing before and after it, and looking around may take."""
NEAR = 2
"""So many times the wanted gap from the bound, only the bound is worth work."""
FREE = 2_000
"""Stays that are free at once when looking around."""
STRETCH = 10.0
"""Seconds that one look may take."""


@dataclass
class Search:
    """One search, and what it has found so far.

    Attributes
    ----------
    known
        The best schedule and its measures: the start, until something better is found.
    claims
        Time lower bounds in the program's units: what is known from elsewhere, and what HiGHS says.
    values
        The best solution, shape (columns,); None while that is the start.
    work
        Nodes of each search by HiGHS, where `end` is never.
    ended
        How it ended; by Ctrl-C too.
    rejected
        How many of HiGHS's answers were not to be trusted.
    """

    program: Formulation
    known: tuple[Schedule, Measures]
    end: float
    gap: float
    seed: int
    threads: int
    progress: Progress
    claims: list[float] = field(default_factory=list)
    values: Floats | None = None
    work: int | None = None
    ended: Termination = field(default_factory=lambda: Termination(Reason.LIMIT, Limit.TIME))
    rejected: int = 0

    @property
    def objective(self) -> float:
        """What the best schedule takes, by the cost model, in the program's units."""
        return self.known[1].time_s / self.program.unit_s

    @property
    def bound(self) -> float:
        """The highest bound that no known schedule refutes."""
        return max((claim for claim in self.claims if not self._refuted(claim)), default=-np.inf)

    def _refuted(self, claim: float) -> bool:
        return claim > self.objective * (1 + TOLERANCE)

    def run(self) -> None:
        """Search until the gap is closed or the time is up."""
        matrix = self.program.matrix
        self.columns, start = self.program.start(self.known[0])
        try:
            relaxation = Relaxation(matrix, seed=self.seed, threads=self.threads)
            point = self._relax(relaxation)
            self._fix(matrix, point, FIRST)
            if isinstance(self.program, Stays) and point is not None and not self._done():
                matrix, point = self._cut(self.program, relaxation, point)
                self._fix(matrix, point, REST)
                self._look_around(self.program, matrix)
            if not self._done():
                if self.values is not None:
                    start = self.values[self.columns]
                self._prove(matrix, start)
        except KeyboardInterrupt:
            self.ended = Termination(Reason.INTERRUPTED)

    def _left(self) -> float:
        return max(self.end - time.perf_counter(), 0.1)

    def _done(self) -> bool:
        if self.objective - self.bound > self.gap * self.objective:
            return False
        self.ended = Termination()
        return True

    def _relax(self, relaxation: Relaxation) -> Floats | None:
        """Solve the relaxation as it is now; None if the time did not suffice."""
        answer = relaxation.solve(self._left(), self.progress)
        self.claims.append(answer.bound)
        self.rejected += answer.rejected
        if answer.termination.reason is Reason.INTERRUPTED:
            raise KeyboardInterrupt
        return answer.values if answer.termination.reason is Reason.DONE else None

    def _solve(self, matrix: Matrix, share: float, gap: float, **options: Any) -> Answer:
        """Solve a whole program and keep what is better."""
        left = self._left()
        answer = minimise(
            matrix,
            time_limit=share * left if left < np.inf else left,
            work=self.work,
            gap=gap,
            target=self.bound / (1 - self.gap) if self.gap < 1 else np.inf,
            seed=self.seed,
            threads=self.threads,
            progress=self.progress,
            **options,
        )
        self.rejected += answer.rejected
        if answer.values is not None and (answer.failed or answer.objective < self.objective):
            self._take(answer.values)
        if answer.termination.reason is Reason.INTERRUPTED:
            raise KeyboardInterrupt
        return answer

    def _take(self, values: Floats) -> None:
        """Keep a solution if its schedule is better, whatever its columns say of the time."""
        try:
            schedule = self.program.schedule(values)
            measures = evaluate(self.program.instance, schedule)
        except KvboundError:  # columns that violate rows may describe no schedule
            self.rejected += 1
            return
        if measures.time_s < self.known[1].time_s:
            self.known, self.values = (schedule, measures), values

    def _fix(self, matrix: Matrix, point: Floats | None, share: float) -> None:
        """Fix what the relaxation has whole, and solve the rest."""
        if point is not None:
            near = np.rint(point[self.columns])
            whole = np.abs(point[self.columns] - near) < WHOLE
            self._solve(matrix.with_fixed(self.columns[whole], near[whole]), share, self.gap / 2)

    def _cut(self, program: Stays, relaxation: Relaxation, point: Floats) -> tuple[Matrix, Floats]:
        """Cut the relaxation's point off, slot by slot, while that pays; return program and point."""
        until = time.perf_counter() + CUT * self._left()
        cuttable, rows, bounds, middle = slots(program), [], [self.bound], point
        while time.perf_counter() < until:
            # half-way to where earlier points were the cuts are deeper
            middle = (middle + point) / 2
            found = [cut for slot in cuttable if (cut := split(slot, (point + middle) / 2)) is not None]
            found = [cut for cut in found if cut.violation(point) > VIOLATED]
            if not found:
                break
            rows += found
            relaxation.add(*as_rows(found))
            further = self._relax(relaxation)
            if further is None:
                break
            point = further
            bounds.append(self.bound)
            if len(bounds) > 3 and bounds[-1] - bounds[-4] < STALE * self.gap * self.bound:
                break
        return (program.matrix.with_rows(*as_rows(rows)) if rows else program.matrix), point

    def _look_around(self, program: Stays, matrix: Matrix) -> None:
        """Free one stretch of steps at a time, while that finds better."""
        if len(self.columns) < 2 * FREE:
            return
        until, better = time.perf_counter() + LOOK * self._left(), True
        while better and self.values is not None:
            better = False
            for free in program.stretches(FREE):
                if self._done() or time.perf_counter() > until:
                    return
                before, values = self.objective, self.values[self.columns]
                fixed = ~np.isin(self.columns, free)
                rest = matrix.with_fixed(self.columns[fixed], values[fixed])
                share = min(1.0, STRETCH / self._left())
                self._solve(rest, share, self.gap / 5, start=(self.columns, values))
                better |= self.objective < before * (1 - self.gap / 100)

    def _prove(self, matrix: Matrix, start: Floats) -> None:
        """Solve the whole program from the best known."""
        near = self.objective - self.bound < NEAR * self.gap * self.objective
        answer = self._solve(matrix, 1.0, self.gap, start=(self.columns, start), bound_only=near)
        self.claims.append(answer.bound)
        self.ended = answer.termination
        if self._refuted(answer.bound):
            self.rejected += 1
            self.ended = FAILED
