"""The search of a program: relax, cut, fix the integer part, search neighbourhoods, and prove optimality.

The relaxation is integer almost everywhere. Fixing that part and solving the small remainder gives a schedule
within a fraction of a per cent of the bound; freeing the columns of one window of steps at a time improves
it; and HiGHS, starting from there, closes the gap.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kvbound.cost.evaluate import evaluate
from kvbound.errors import KvboundError
from kvbound.models import Formulation
from kvbound.models.intervals import Intervals
from kvbound.models.sparse import Floats, Matrix
from kvbound.progress import Progress
from kvbound.result import Limit, Measures, Reason, Termination
from kvbound.schedule import Schedule
from kvbound.solvers.mip.disjunctive_cuts import as_rows, cuttable_slots, deepest_cut
from kvbound.solvers.mip.highs import FAILED, Relaxation, Solved, minimise
from kvbound.solvers.mip.verification import TOLERANCE

INTEGRALITY = 1e-6
"""Distance from an integer up to which a value counts as one."""
MIN_VIOLATION = 1e-3
"""Violation of the relaxation's solution from which a cut is added, in units of the program."""
MIN_PROGRESS = 0.05
"""Cutting ends when three rounds raise the bound by less than this share of the target gap."""
CUT_SHARE, FIX_SHARE, FIX_AGAIN_SHARE, NEIGHBOURHOOD_SHARE = 0.4, 0.25, 0.5, 0.5
"""Shares of the time left for cutting, for fixing before and after it, and for neighbourhood search."""
BOUND_ONLY = 2
"""Within this many times the target gap, HiGHS works on the bound alone."""
WINDOW_COLUMNS = 2_000
"""Columns that are free at once in neighbourhood search."""
WINDOW_S = 10.0
"""Seconds that the search of one neighbourhood may take."""


@dataclass
class Search:
    """One search and its state.

    Attributes
    ----------
    known
        The best schedule so far and its measures.
    claims
        Time lower bounds in units of the program, known before or reported by HiGHS.
    values
        The best solution, shape (columns,); None while that is the start.
    work
        Nodes of each search by HiGHS, where there is no time limit.
    complete
        Whether HiGHS searches the complete program in the end.
    termination
        How the search ended.
    rejected
        Number of HiGHS's runs that were rejected.
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
    complete: bool = True
    termination: Termination = field(default_factory=lambda: Termination(Reason.LIMIT, Limit.TIME))
    rejected: int = 0

    @property
    def objective(self) -> float:
        """Decode time of the best schedule by the cost model, in units of the program."""
        return self.known[1].value / self.program.unit_s

    @property
    def bound(self) -> float:
        """The highest claim that the best schedule does not contradict."""
        return max((claim for claim in self.claims if not self._contradicted(claim)), default=-np.inf)

    def _contradicted(self, claim: float) -> bool:
        return claim > self.objective * (1 + TOLERANCE)

    def run(self) -> None:
        """Search until the gap is closed or time runs out."""
        matrix = self.program.matrix
        self.columns, start = self.program.start(self.known[0])
        try:
            relaxation = Relaxation(matrix, seed=self.seed, threads=self.threads)
            point = self._relax(relaxation)
            self._fix(matrix, point, FIX_SHARE if self.complete else 1.0)
            if isinstance(self.program, Intervals) and point is not None and not self._done():
                matrix, point = self._cut(self.program, relaxation, point)
                self._fix(matrix, point, FIX_AGAIN_SHARE)
                self._search_neighbourhoods(self.program, matrix)
            if not self._done() and self.complete:
                if self.values is not None:
                    start = self.values[self.columns]
                self._prove(matrix, start)
        except KeyboardInterrupt:
            self.termination = Termination(Reason.INTERRUPTED)

    def _left(self) -> float:
        return max(self.end - time.perf_counter(), 0.1)

    def _done(self) -> bool:
        if self.objective - self.bound > self.gap * self.objective:
            return False
        self.termination = Termination()
        return True

    def _relax(self, relaxation: Relaxation) -> Floats | None:
        """Return the solution of the relaxation, or None if time ran out."""
        run = relaxation.solve(self._left(), self.progress)
        self.claims.append(run.bound)
        self.rejected += run.rejected
        if run.termination.reason is Reason.INTERRUPTED:
            raise KeyboardInterrupt
        return run.values if run.termination.reason is Reason.DONE else None

    def _solve(self, matrix: Matrix, share: float, gap: float, **options: Any) -> Solved:
        """Solve an integer program and keep a better schedule."""
        left = self._left()
        run = minimise(
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
        self.rejected += run.rejected
        if run.values is not None and (run.failed or run.objective < self.objective):
            self._keep(run.values)
        if run.termination.reason is Reason.INTERRUPTED:
            raise KeyboardInterrupt
        return run

    def _keep(self, values: Floats) -> None:
        """Keep a solution if its schedule is faster by the cost model."""
        try:
            schedule = self.program.schedule(values)
            measures = evaluate(self.program.instance, schedule)
        except KvboundError:  # columns that violate rows may not describe a schedule
            self.rejected += 1
            return
        if measures.value < self.known[1].value:
            self.known, self.values = (schedule, measures), values

    def _fix(self, matrix: Matrix, point: Floats | None, share: float) -> None:
        """Fix the columns that are integer in the relaxation, and solve the rest."""
        if point is not None:
            near = np.rint(point[self.columns])
            integer = np.abs(point[self.columns] - near) < INTEGRALITY
            self._solve(matrix.with_fixed(self.columns[integer], near[integer]), share, self.gap / 2)

    def _cut(self, program: Intervals, relaxation: Relaxation, point: Floats) -> tuple[Matrix, Floats]:
        """Add cuts to the relaxation while its bound rises; return the program with them and the solution."""
        until = time.perf_counter() + CUT_SHARE * self._left()
        slots, rows, bounds, middle = cuttable_slots(program), [], [self.bound], point
        while time.perf_counter() < until:
            # cuts are deeper half-way to the mean of earlier solutions
            middle = (middle + point) / 2
            found = [cut for slot in slots if (cut := deepest_cut(slot, (point + middle) / 2)) is not None]
            found = [cut for cut in found if cut.violation(point) > MIN_VIOLATION]
            if not found:
                break
            rows += found
            relaxation.add(*as_rows(found))
            further = self._relax(relaxation)
            if further is None:
                break
            point = further
            bounds.append(self.bound)
            if len(bounds) > 3 and bounds[-1] - bounds[-4] < MIN_PROGRESS * self.gap * self.bound:
                break
        return (program.matrix.with_rows(*as_rows(rows)) if rows else program.matrix), point

    def _search_neighbourhoods(self, program: Intervals, matrix: Matrix) -> None:
        """Free the columns of one window of steps at a time, while that finds better schedules."""
        if len(self.columns) < 2 * WINDOW_COLUMNS:
            return
        until, better = time.perf_counter() + NEIGHBOURHOOD_SHARE * self._left(), True
        while better and self.values is not None:
            better = False
            for free in program.windows(WINDOW_COLUMNS):
                if self._done() or time.perf_counter() > until:
                    return
                before, values = self.objective, self.values[self.columns]
                fixed = ~np.isin(self.columns, free)
                rest = matrix.with_fixed(self.columns[fixed], values[fixed])
                share = min(1.0, WINDOW_S / self._left())
                self._solve(rest, share, self.gap / 5, start=(self.columns, values))
                better |= self.objective < before * (1 - self.gap / 100)

    def _prove(self, matrix: Matrix, start: Floats) -> None:
        """Solve the complete program from the best schedule."""
        near = self.objective - self.bound < BOUND_ONLY * self.gap * self.objective
        run = self._solve(matrix, 1.0, self.gap, start=(self.columns, start), bound_only=near)
        self.claims.append(run.bound)
        self.termination = run.termination
        if self._contradicted(run.bound):
            self.rejected += 1
            self.termination = FAILED
