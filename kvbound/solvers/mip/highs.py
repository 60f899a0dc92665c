"""HiGHS: the one place that passes programs to it and verifies what it returns.

The objective of an integer solution is recomputed from its rounded columns, and the bound of a relaxation
from its row duals by weak duality. A run whose columns do not have the objective that it reports (in some
runs HiGHS 1.16 returns the columns of the start) is rejected: it has no bound, and is repeated with other
options.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import highspy
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from kvbound.models.sparse import Floats, Ints, Matrix
from kvbound.progress import Progress, silent
from kvbound.result import Limit, Reason, Termination
from kvbound.solvers.mip.verification import TOLERANCE, dual_bound, rounded_solution

_Options: TypeAlias = dict[str, float | bool | str]

_ENDED = {
    "kOptimal": Termination(),
    "kObjectiveTarget": Termination(),
    "kTimeLimit": Termination(Reason.LIMIT, Limit.TIME),
    "kSolutionLimit": Termination(Reason.LIMIT, Limit.WORK),  # of nodes
    "kIterationLimit": Termination(Reason.LIMIT, Limit.WORK),
    "kInterrupt": Termination(Reason.INTERRUPTED),
    "kHighsInterrupt": Termination(Reason.INTERRUPTED),
    "kInfeasible": Termination(Reason.INFEASIBLE),
}
"""Termination by HiGHS's model status; after any other status the run has failed."""
_HEURISTICS = [
    f"mip_heuristic_run_{name}" for name in ("rens", "rins", "root_reduced_cost", "feasibility_jump")
]
_SECOND_TRY: _Options = {"presolve": "off"}
"""Options after a rejected run, besides another seed and no start."""

FAILED = Termination(Reason.LIMIT, Limit.SOLVER)
"""Termination of a rejected run."""
DUAL_TOLERANCE = 1e-4
"""Relative tolerance between the objective that a relaxation reports and the bound by its row duals."""
MANY_ROWS = 4_000
"""Rows above which the simplex method is limited to one iteration per row, and the interior point method
continues: on slow links simplex ends long before and interior point never, on fast ones the opposite."""

REJECTED = "rejected_answers"
"""Result option that counts the solver runs whose solution or bound was rejected."""


@dataclass(frozen=True)
class Solved:
    """The verified outcome of a run, in units of the program.

    Attributes
    ----------
    values
        The best solution, integer columns rounded, all within their bounds, shape (columns,); or None.
    objective
        Its objective, recomputed; infinite without a solution or if it violates a row.
    bound
        Lower bound on the objective; minus infinity if none was proved.
    rejected
        Number of rejected runs.
    """

    termination: Termination = FAILED
    values: NDArray[np.float64] | None = None
    objective: float = np.inf
    bound: float = -np.inf
    rejected: int = 0

    @property
    def failed(self) -> bool:
        """Whether the last run was rejected."""
        return self.termination == FAILED


class Relaxation:
    """A linear relaxation to which rows can be added, solved again from its last basis.

    Parameters
    ----------
    matrix
        The program; integrality is ignored.
    seed, threads
        As in HiGHS.
    iterations
        Iterations of the simplex method, after which a run ends; with None the size determines when the
        interior-point method takes over.
    """

    def __init__(
        self, matrix: Matrix, *, seed: int = 0, threads: int = 1, iterations: int | None = None
    ) -> None:
        self._matrix, self._seed = matrix, seed
        self._highs = load(matrix, integer=False, seed=seed, threads=threads)
        self._highs.setOptionValue("solver", "simplex")
        rows = matrix.rows.shape[0]
        self._counted = iterations is not None
        if iterations is not None or rows > MANY_ROWS:
            self._highs.setOptionValue("simplex_iteration_limit", iterations or rows)

    def solve(self, time_limit: float, progress: Progress = silent) -> Solved:
        """Solve the relaxation with the rows so far."""
        end = time.perf_counter() + time_limit
        first = self._solve(end, progress)
        if not first.failed or time.perf_counter() >= end:
            return first
        self._highs.clearSolver()
        _set(self._highs, _SECOND_TRY | {"random_seed": self._seed + 1})
        again = self._solve(end, progress)
        return dataclasses.replace(again, rejected=1 + again.rejected)

    def _solve(self, end: float, progress: Progress) -> Solved:
        ran = self._run(end, progress)
        limited = self._highs.getModelStatus() == highspy.HighsModelStatus.kIterationLimit
        if limited and not self._counted:
            self._highs.clearSolver()
            self._highs.setOptionValue("solver", "ipm")
            ran = self._run(end, progress)
        # from the present basis a few pivots suffice
        self._highs.setOptionValue("solver", "simplex")
        self._highs.setOptionValue("simplex_iteration_limit", highspy.kHighsIInf)
        return _verified_relaxation(self._highs, self._matrix) if ran else Solved(rejected=1)

    def _run(self, end: float, progress: Progress) -> bool:
        left = max(end - time.perf_counter(), 0.1)
        self._highs.setOptionValue("time_limit", self._highs.getRunTime() + left)
        return _run(self._highs, left, progress)

    def add(self, columns: Sequence[Ints], values: Sequence[Floats], lower: Floats) -> None:
        """Add rows values @ x[columns] >= lower."""
        self._matrix = self._matrix.with_rows(columns, values, lower)
        lengths = np.array([len(row) for row in columns])
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int32)
        entries = np.concatenate(columns).astype(np.int32), np.concatenate(values)
        self._highs.addRows(
            len(lower), lower, np.full(len(lower), np.inf), int(lengths.sum()), starts, *entries
        )


def minimise(
    matrix: Matrix,
    *,
    integer: bool = True,
    time_limit: float = 60.0,
    work: int | None = None,
    gap: float = 1e-4,
    target: float = -np.inf,
    seed: int = 0,
    threads: int = 1,
    start: tuple[NDArray[np.int32], NDArray[np.float64]] | None = None,
    bound_only: bool = False,
    progress: Progress = silent,
) -> Solved:
    """Solve a program.

    Ctrl-C ends the search and returns the best so far, with termination "interrupted". After a rejected run
    there is a second one in the time left; of the two, the better solution is returned.

    Parameters
    ----------
    integer
        Whether to require integrality, or to solve the relaxation.
    work
        Limit of the nodes of the search, or of the iterations of a relaxation.
    gap
        Relative gap at which to stop.
    target
        Objective at or below which a solution ends the search.
    start
        Some columns and their values, from which HiGHS completes a first solution.
    bound_only
        Spend all time on the bound, none on heuristics for better solutions than the start.
    """
    if not integer:
        return Relaxation(matrix, seed=seed, threads=threads, iterations=work).solve(time_limit, progress)
    end = time.perf_counter() + time_limit
    options: _Options = {
        "mip_rel_gap": gap,
        "mip_abs_gap": 0.0,
        "objective_target": target,
        "time_limit": float(time_limit),
    }
    if work is not None:
        options["mip_max_nodes"] = work
    effort: _Options = {"mip_heuristic_effort": 0.0, **dict.fromkeys(_HEURISTICS, False)}
    highs = load(matrix, integer=True, seed=seed, threads=threads)
    _set(highs, options | (effort if bound_only else {}))
    if start is not None:
        highs.setSolution(len(start[0]), *start)
    first = _verified_search(highs, matrix, _run(highs, time_limit, progress), feasible=start is not None)
    left = end - time.perf_counter()
    if not first.failed or left <= 0:
        return first
    highs = load(matrix, integer=True, seed=seed + 1, threads=threads)
    _set(highs, options | _SECOND_TRY | {"time_limit": left})
    again = _verified_search(highs, matrix, _run(highs, left, progress), feasible=start is not None)
    best = min(again, first, key=lambda run: run.objective)
    return dataclasses.replace(
        again, values=best.values, objective=best.objective, rejected=first.rejected + again.rejected
    )


class SilentHighs(highspy.Highs):  # type: ignore[misc]
    """HiGHS without output; since 1.16 it prints a banner as soon as callbacks are set."""

    def enableCallbacks(self) -> None:
        """Silence the output before callbacks are set."""
        self.setOptionValue("output_flag", False)
        super().enableCallbacks()


def load(matrix: Matrix, *, integer: bool, seed: int, threads: int) -> highspy.Highs:
    """Return a program, or its relaxation if not `integer`, in HiGHS."""
    # without this, run() fails with objective 0 after a change of `threads`
    highspy.Highs.resetGlobalScheduler(True)
    highs = SilentHighs()
    _set(highs, {"threads": threads, "random_seed": seed})
    highs.passModel(highs_program(matrix, integer=integer))  # if this fails, so does the run
    return highs


def _set(highs: highspy.Highs, options: _Options) -> None:
    for name, value in options.items():
        highs.setOptionValue(name, value)


def row_duals(cost: Floats, rows: sparse.csr_array, least: Floats) -> Floats:
    """Return the row duals of a small linear program: minimise cost @ x, rows @ x >= least, x >= 0.

    They are not verified, and 0 if HiGHS has none: callers must remain correct for any values.
    """
    highs, lp = SilentHighs(), highspy.HighsLp()
    highs.setOptionValue("presolve", "off")
    lp.num_row_, lp.num_col_ = rows.shape
    lp.col_cost_, lp.col_lower_, lp.col_upper_ = cost, np.zeros(len(cost)), np.full(len(cost), np.inf)
    lp.row_lower_, lp.row_upper_ = least, np.full(len(least), np.inf)
    lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    lp.a_matrix_.start_, lp.a_matrix_.index_ = rows.indptr, rows.indices
    lp.a_matrix_.value_ = rows.data
    highs.passModel(lp)
    ran = highs.run() != highspy.HighsStatus.kError
    found = np.array(highs.getSolution().row_dual)
    usable = ran and found.shape == least.shape and bool(np.isfinite(found).all())
    return found if usable else np.zeros(len(least))


def highs_program(matrix: Matrix, *, integer: bool) -> highspy.HighsLp:
    """Return a program, or its relaxation if not `integer`, in the form of HiGHS."""
    lp, rows = highspy.HighsLp(), matrix.rows
    lp.num_row_, lp.num_col_ = rows.shape
    lp.col_cost_, lp.col_lower_, lp.col_upper_ = matrix.cost, matrix.lower, matrix.upper
    lp.row_lower_, lp.row_upper_ = matrix.row_lower, matrix.row_upper
    lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    lp.a_matrix_.start_, lp.a_matrix_.index_ = rows.indptr, rows.indices
    lp.a_matrix_.value_ = rows.data
    if integer:
        kinds = highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger
        lp.integrality_ = [kinds[int(each)] for each in matrix.integer]
    return lp


def _run(highs: highspy.Highs, time_limit: float, progress: Progress) -> bool:
    """Run in another thread, so that this one reports progress and receives Ctrl-C; return whether it ran."""
    begin = time.perf_counter()
    highs.HandleUserInterrupt = True
    highs.startSolve()
    while True:
        try:
            ended, status = highs.wait(0.1)
            if ended:
                return bool(status != highspy.HighsStatus.kError)
            if time_limit < np.inf:
                progress(min(time.perf_counter() - begin, time_limit), time_limit, "HiGHS")
        except KeyboardInterrupt:
            highs.cancelSolve()


def _verified_search(highs: highspy.Highs, matrix: Matrix, ran: bool, *, feasible: bool) -> Solved:
    """Verify a search of an integer program, known to be `feasible` or not."""
    info, ended = highs.getInfo(), _ENDED.get(highs.getModelStatus().name)
    found = info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible
    if not ran or ended is None:
        return Solved(rejected=1)
    if not found:
        if ended.reason is Reason.DONE or (feasible and ended.reason is Reason.INFEASIBLE):
            return Solved(rejected=1)
        bound = -np.inf if ended.reason is Reason.INFEASIBLE else _finite_bound(info.mip_dual_bound)
        return Solved(ended, bound=bound)
    values, objective = rounded_solution(matrix, np.array(highs.getSolution().col_value))
    reported, bound = float(info.objective_function_value), _finite_bound(info.mip_dual_bound)
    tolerance = max(1.0, abs(reported)) * TOLERANCE
    if objective <= reported + tolerance and bound <= objective + tolerance:
        return Solved(ended, values, objective, min(bound, objective))
    rejected = ended if ended.reason is Reason.INTERRUPTED else FAILED
    return Solved(rejected, values, objective, rejected=1)


def _verified_relaxation(highs: highspy.Highs, matrix: Matrix) -> Solved:
    """Verify a run of a relaxation."""
    ended = _ENDED.get(highs.getModelStatus().name)
    if ended is None or ended.reason is Reason.INFEASIBLE:
        return Solved(rejected=1)
    if ended.reason is not Reason.DONE:
        return Solved(ended)
    solution, reported = highs.getSolution(), float(highs.getInfo().objective_function_value)
    values, duals = np.array(solution.col_value), np.array(solution.row_dual)
    bound = min(dual_bound(matrix, duals), reported)
    loose = bound < reported - DUAL_TOLERANCE * max(1.0, abs(reported))
    if loose or values.shape != matrix.cost.shape or not np.isfinite(values).all():
        return Solved(bound=bound, rejected=1)
    return Solved(ended, values, float(matrix.cost @ values), bound)


def _finite_bound(bound: float) -> float:
    """Return a bound, or minus infinity if it is not finite."""
    return float(bound) if np.isfinite(bound) else -np.inf
