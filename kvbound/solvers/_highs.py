"""HiGHS: one place that passes it a program and says what its answer means."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import highspy
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from kvbound.errors import KvboundError
from kvbound.models.matrix import Floats, Ints, Matrix
from kvbound.progress import Progress, silent
from kvbound.result import Termination

_ENDED = {
    "kOptimal": Termination("done"),
    "kObjectiveTarget": Termination("done"),
    "kTimeLimit": Termination("limit", "time"),
    "kInterrupt": Termination("interrupted"),
    "kHighsInterrupt": Termination("interrupted"),
    "kInfeasible": Termination("infeasible"),
}
"""By HiGHS's name of the model status; any other is a defect."""
_HEURISTICS = [
    f"mip_heuristic_run_{name}" for name in ("rens", "rins", "root_reduced_cost", "feasibility_jump")
]

MANY_ROWS = 4_000
"""Beyond this the simplex method gets as many iterations as there are rows, then interior point takes over:
on slow links simplex is done long before and interior point never, on fast ones it is the other way round."""


@dataclass(frozen=True)
class Answer:
    """What HiGHS found, in the program's units.

    Attributes
    ----------
    values
        The best solution, shape (columns,), or None.
    objective
        Its value; infinite without a solution.
    bound
        No solution is below it; minus infinity if nothing was proved.
    """

    termination: Termination
    values: NDArray[np.float64] | None
    objective: float
    bound: float


class Relaxation:
    """A linear relaxation that grows by rows, solved again from where it stood.

    Parameters
    ----------
    matrix
        The program; which of its columns are whole is left out.
    seed, threads
        As HiGHS takes them.
    """

    def __init__(self, matrix: Matrix, *, seed: int = 0, threads: int = 1) -> None:
        self._highs = _load(matrix, whole=False, seed=seed, threads=threads)
        self._highs.setOptionValue("solver", "simplex")
        rows = matrix.rows.shape[0]
        if rows > MANY_ROWS:
            self._highs.setOptionValue("simplex_iteration_limit", rows)

    def solve(self, time_limit: float, progress: Progress = silent) -> Answer:
        """Solve it as it is now."""
        end = time.perf_counter() + time_limit
        self._run(end, progress)
        if self._highs.getModelStatus() == highspy.HighsModelStatus.kIterationLimit:
            self._highs.clearSolver()
            self._highs.setOptionValue("solver", "ipm")
            self._run(end, progress)
        # from where it stands now a few pivots suffice
        self._highs.setOptionValue("solver", "simplex")
        self._highs.setOptionValue("simplex_iteration_limit", highspy.kHighsIInf)
        return _answer(self._highs, whole=False)

    def _run(self, end: float, progress: Progress) -> None:
        left = max(end - time.perf_counter(), 0.1)
        self._highs.setOptionValue("time_limit", self._highs.getRunTime() + left)
        _run(self._highs, left, progress)

    def add(self, columns: Sequence[Ints], values: Sequence[Floats], lower: Floats) -> None:
        """Add rows values @ x[columns] >= lower."""
        lengths = np.array([len(row) for row in columns])
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int32)
        entries = np.concatenate(columns).astype(np.int32), np.concatenate(values)
        self._highs.addRows(
            len(lower), lower, np.full(len(lower), np.inf), int(lengths.sum()), starts, *entries
        )


def minimise(
    matrix: Matrix,
    *,
    whole: bool = True,
    time_limit: float = 60.0,
    gap: float = 1e-4,
    target: float = -np.inf,
    seed: int = 0,
    threads: int = 1,
    start: tuple[NDArray[np.int32], NDArray[np.float64]] | None = None,
    bound_only: bool = False,
    progress: Progress = silent,
) -> Answer:
    """Solve a program, or its relaxation if not `whole`.

    Ctrl-C ends the search and returns the best so far, with termination "interrupted". A solution at
    or below the `target` ends it too. With `bound_only` HiGHS does not look for better solutions than
    the start, and has all the time for its bound.

    Raises
    ------
    KvboundError
        HiGHS fails or calls the program something that it cannot be.
    """
    if not whole:
        return Relaxation(matrix, seed=seed, threads=threads).solve(time_limit, progress)
    highs = _load(matrix, whole=True, seed=seed, threads=threads)
    options: dict[str, float | bool] = {
        "mip_rel_gap": gap,
        "mip_abs_gap": 0.0,
        "objective_target": target,
        "time_limit": float(time_limit),
    }
    if bound_only:
        options |= {"mip_heuristic_effort": 0.0, **dict.fromkeys(_HEURISTICS, False)}
    for name, value in options.items():
        highs.setOptionValue(name, value)
    if start is not None:
        highs.setSolution(len(start[0]), *start)
    _run(highs, time_limit, progress)
    return _answer(highs, whole=True)


class Quiet(highspy.Highs):  # type: ignore[misc]
    """HiGHS without a word: from 1.16 on it greets on standard output as soon as callbacks are set."""

    def enableCallbacks(self) -> None:
        self.setOptionValue("output_flag", False)
        super().enableCallbacks()


def _load(matrix: Matrix, *, whole: bool, seed: int, threads: int) -> highspy.Highs:
    # without this a change of `threads` makes run() fail with objective 0
    highspy.Highs.resetGlobalScheduler(True)
    highs = Quiet()
    for name, value in (("threads", threads), ("random_seed", seed)):
        highs.setOptionValue(name, value)
    if highs.passModel(program(matrix, whole=whole)) == highspy.HighsStatus.kError:
        raise KvboundError("HiGHS did not accept the program")
    return highs


def prices(cost: Floats, rows: sparse.csr_array, least: Floats) -> Floats:
    """Return the dual prices of a small linear program: minimise cost @ x, rows @ x >= least, x >= 0."""
    highs, lp = Quiet(), highspy.HighsLp()
    highs.setOptionValue("presolve", "off")
    lp.num_row_, lp.num_col_ = rows.shape
    lp.col_cost_, lp.col_lower_, lp.col_upper_ = cost, np.zeros(len(cost)), np.full(len(cost), np.inf)
    lp.row_lower_, lp.row_upper_ = least, np.full(len(least), np.inf)
    lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    lp.a_matrix_.start_, lp.a_matrix_.index_ = rows.indptr, rows.indices
    lp.a_matrix_.value_ = rows.data
    highs.passModel(lp)
    if highs.run() == highspy.HighsStatus.kError:
        raise KvboundError("HiGHS failed")
    return np.array(highs.getSolution().row_dual)


def program(matrix: Matrix, *, whole: bool) -> highspy.HighsLp:
    """Return a program as HiGHS takes it, or its relaxation if not `whole`."""
    lp, rows = highspy.HighsLp(), matrix.rows
    lp.num_row_, lp.num_col_ = rows.shape
    lp.col_cost_, lp.col_lower_, lp.col_upper_ = matrix.cost, matrix.lower, matrix.upper
    lp.row_lower_, lp.row_upper_ = matrix.row_lower, matrix.row_upper
    lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    lp.a_matrix_.start_, lp.a_matrix_.index_ = rows.indptr, rows.indices
    lp.a_matrix_.value_ = rows.data
    if whole:
        kinds = highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger
        lp.integrality_ = [kinds[int(integer)] for integer in matrix.integer]
    return lp


def _run(highs: highspy.Highs, time_limit: float, progress: Progress) -> None:
    """Run in a thread, so that this one can report progress and hear Ctrl-C."""
    begin = time.perf_counter()
    highs.HandleUserInterrupt = True
    highs.startSolve()
    while True:
        try:
            ended, status = highs.wait(0.1)
            if ended and status == highspy.HighsStatus.kError:
                raise KvboundError("HiGHS failed")
            if ended:
                return
            progress(min(time.perf_counter() - begin, time_limit), time_limit, "HiGHS")
        except KeyboardInterrupt:
            highs.cancelSolve()


def _answer(highs: highspy.Highs, *, whole: bool) -> Answer:
    status, info = highs.getModelStatus(), highs.getInfo()
    if status.name not in _ENDED:
        raise KvboundError(f"HiGHS ended with {highs.modelStatusToString(status)}")
    found = info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible
    values = np.array(highs.getSolution().col_value) if found else None
    objective = float(info.objective_function_value) if found else np.inf
    if whole:
        bound = float(info.mip_dual_bound)
    else:
        bound = objective if status == highspy.HighsModelStatus.kOptimal else -np.inf
    return Answer(_ENDED[status.name], values, objective, bound)
