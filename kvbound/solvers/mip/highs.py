"""HiGHS: one place that passes it a program and checks what it answers.

A whole solution counts for what its columns, rounded, are worth; a relaxation's bound is what its row
prices prove by weak duality; and a run whose columns do not have the objective that it reports (HiGHS 1.16
returns the start's columns in some runs) has no bound and is repeated by other means.
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
"""By HiGHS's name of the model status; with any other the solver has failed."""
_HEURISTICS = [
    f"mip_heuristic_run_{name}" for name in ("rens", "rins", "root_reduced_cost", "feasibility_jump")
]
_AGAIN: _Options = {"presolve": "off"}
"""Options of the second try after a run that was not to be trusted, with another seed and no start."""

FAILED = Termination(Reason.LIMIT, Limit.SOLVER)
"""How a run ends whose answer is not to be trusted."""
TOLERANCE = 1e-6
"""How far, relatively, a row may be violated and an objective be off."""
SHORT = 1e-4
"""How far, relatively, the row prices of a relaxation may fall short of the objective it reports."""
MANY_ROWS = 4_000
"""Beyond this the simplex method gets as many iterations as there are rows, then interior point takes over:
on slow links simplex is done long before and interior point never, on fast ones it is the other way round."""


@dataclass(frozen=True)
class Answer:
    """What HiGHS found, in the program's units.

    Attributes
    ----------
    values
        The best solution, shape (columns,), whole columns rounded and within their bounds; or None.
    objective
        What it is worth, recomputed; infinite without a solution or if it violates a row.
    bound
        No solution is below it; minus infinity if nothing was proved.
    rejected
        How many runs were not to be trusted.
    """

    termination: Termination = FAILED
    values: NDArray[np.float64] | None = None
    objective: float = np.inf
    bound: float = -np.inf
    rejected: int = 0

    @property
    def failed(self) -> bool:
        """Whether the last run was not to be trusted."""
        return self.termination == FAILED


class Relaxation:
    """A linear relaxation that grows by rows, solved again from where it stood.

    Parameters
    ----------
    matrix
        The program; which of its columns are whole is left out.
    seed, threads
        As HiGHS takes them.
    iterations
        Of the simplex method, after which it ends; None lets the size decide when another method goes on.
    """

    def __init__(
        self, matrix: Matrix, *, seed: int = 0, threads: int = 1, iterations: int | None = None
    ) -> None:
        self._matrix, self._seed = matrix, seed
        self._highs = _load(matrix, whole=False, seed=seed, threads=threads)
        self._highs.setOptionValue("solver", "simplex")
        rows = matrix.rows.shape[0]
        self._counted = iterations is not None
        if iterations is not None or rows > MANY_ROWS:
            self._highs.setOptionValue("simplex_iteration_limit", iterations or rows)

    def solve(self, time_limit: float, progress: Progress = silent) -> Answer:
        """Solve it as it is now."""
        end = time.perf_counter() + time_limit
        answer = self._solve(end, progress)
        if not answer.failed or time.perf_counter() >= end:
            return answer
        self._highs.clearSolver()
        _set(self._highs, _AGAIN | {"random_seed": self._seed + 1})
        again = self._solve(end, progress)
        return dataclasses.replace(again, rejected=1 + again.rejected)

    def _solve(self, end: float, progress: Progress) -> Answer:
        ran = self._run(end, progress)
        late = self._highs.getModelStatus() == highspy.HighsModelStatus.kIterationLimit
        if late and not self._counted:
            self._highs.clearSolver()
            self._highs.setOptionValue("solver", "ipm")
            ran = self._run(end, progress)
        # from where it stands now a few pivots suffice
        self._highs.setOptionValue("solver", "simplex")
        self._highs.setOptionValue("simplex_iteration_limit", highspy.kHighsIInf)
        return _relaxed(self._highs, self._matrix) if ran else Answer(rejected=1)

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
    whole: bool = True,
    time_limit: float = 60.0,
    work: int | None = None,
    gap: float = 1e-4,
    target: float = -np.inf,
    seed: int = 0,
    threads: int = 1,
    start: tuple[NDArray[np.int32], NDArray[np.float64]] | None = None,
    bound_only: bool = False,
    progress: Progress = silent,
) -> Answer:
    """Solve a program, or its relaxation if not `whole`.

    `work` limits the nodes of the search, or the iterations of a relaxation.

    Ctrl-C ends the search and returns the best so far, with termination "interrupted". A solution at
    or below the `target` ends it too. With `bound_only` HiGHS does not look for better solutions than
    the start, and has all the time for its bound. An answer that is not to be trusted has no bound; there
    is a second try in the time left, and the better solution of the two counts.
    """
    if not whole:
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
    highs = _load(matrix, whole=True, seed=seed, threads=threads)
    _set(highs, options | (effort if bound_only else {}))
    if start is not None:
        highs.setSolution(len(start[0]), *start)
    first = _searched(highs, matrix, _run(highs, time_limit, progress), feasible=start is not None)
    left = end - time.perf_counter()
    if not first.failed or left <= 0:
        return first
    highs = _load(matrix, whole=True, seed=seed + 1, threads=threads)
    _set(highs, options | _AGAIN | {"time_limit": left})
    again = _searched(highs, matrix, _run(highs, left, progress), feasible=start is not None)
    best = min(again, first, key=lambda answer: answer.objective)
    return dataclasses.replace(
        again, values=best.values, objective=best.objective, rejected=first.rejected + again.rejected
    )


class Quiet(highspy.Highs):  # type: ignore[misc]
    """HiGHS without a word: from 1.16 on it greets on standard output as soon as callbacks are set."""

    def enableCallbacks(self) -> None:
        """Silence the output before callbacks are set."""
        self.setOptionValue("output_flag", False)
        super().enableCallbacks()


def _load(matrix: Matrix, *, whole: bool, seed: int, threads: int) -> highspy.Highs:
    # without this a change of `threads` makes run() fail with objective 0
    highspy.Highs.resetGlobalScheduler(True)
    highs = Quiet()
    _set(highs, {"threads": threads, "random_seed": seed})
    highs.passModel(program(matrix, whole=whole))  # a program that it rejects fails to run
    return highs


def _set(highs: highspy.Highs, options: _Options) -> None:
    for name, value in options.items():
        highs.setOptionValue(name, value)


def prices(cost: Floats, rows: sparse.csr_array, least: Floats) -> Floats:
    """Return the dual prices of a small linear program: minimise cost @ x, rows @ x >= least, x >= 0.

    Zeros if HiGHS has none. Callers must be sound with any prices.
    """
    highs, lp = Quiet(), highspy.HighsLp()
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


def _run(highs: highspy.Highs, time_limit: float, progress: Progress) -> bool:
    """Run in a thread, so that this one can report progress and hear Ctrl-C; return whether it ran."""
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


def _searched(highs: highspy.Highs, matrix: Matrix, ran: bool, *, feasible: bool) -> Answer:
    """Evaluate the search of a whole program, known to be `feasible` or not."""
    info, ended = highs.getInfo(), _ENDED.get(highs.getModelStatus().name)
    found = info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible
    if not ran or ended is None:
        return Answer(rejected=1)
    if not found:
        if ended.reason is Reason.DONE or (feasible and ended.reason is Reason.INFEASIBLE):
            return Answer(rejected=1)
        bound = -np.inf if ended.reason is Reason.INFEASIBLE else _number(info.mip_dual_bound)
        return Answer(ended, bound=bound)
    values, objective = worth(matrix, np.array(highs.getSolution().col_value))
    said, bound = float(info.objective_function_value), _number(info.mip_dual_bound)
    most = max(1.0, abs(said)) * TOLERANCE
    if objective <= said + most and bound <= objective + most:
        return Answer(ended, values, objective, min(bound, objective))
    late = ended if ended.reason is Reason.INTERRUPTED else FAILED
    return Answer(late, values, objective, rejected=1)


def worth(matrix: Matrix, values: Floats) -> tuple[Floats | None, float]:
    """Round columns that should be whole, keep all within their bounds, and recompute the objective.

    Returns
    -------
    The columns, and the objective: infinite if they violate a row. No columns if they are no numbers.
    """
    if values.shape != matrix.cost.shape or not np.isfinite(values).all():
        return None, np.inf
    near = np.clip(np.where(matrix.integer, np.rint(values), values), matrix.lower, matrix.upper)
    activity = matrix.rows @ near
    slack = TOLERANCE * np.maximum(1.0, abs(matrix.rows) @ np.abs(near))
    kept = (activity >= matrix.row_lower - slack) & (activity <= matrix.row_upper + slack)
    moved = np.abs(near - values) <= TOLERANCE * np.maximum(1.0, np.abs(near))
    return near, float(matrix.cost @ near) if kept.all() and moved.all() else np.inf


def _relaxed(highs: highspy.Highs, matrix: Matrix) -> Answer:
    """Evaluate a run of a relaxation."""
    ended = _ENDED.get(highs.getModelStatus().name)
    if ended is None or ended.reason is Reason.INFEASIBLE:
        return Answer(rejected=1)
    if ended.reason is not Reason.DONE:
        return Answer(ended)
    solution, said = highs.getSolution(), float(highs.getInfo().objective_function_value)
    values, price = np.array(solution.col_value), np.array(solution.row_dual)
    bound = min(proved(matrix, price), said)
    short = bound < said - SHORT * max(1.0, abs(said))
    if short or values.shape != matrix.cost.shape or not np.isfinite(values).all():
        return Answer(bound=bound, rejected=1)
    return Answer(ended, values, float(matrix.cost @ values), bound)


def proved(matrix: Matrix, price: Floats) -> float:
    """Return the bound that row prices prove by weak duality, for the program as for its relaxation."""
    if price.shape != matrix.row_lower.shape or not np.isfinite(price).all():
        return -np.inf
    rest = matrix.cost - price @ matrix.rows
    return _least(rest, matrix.lower, matrix.upper) + _least(price, matrix.row_lower, matrix.row_upper)


def _least(slope: Floats, lower: Floats, upper: Floats) -> float:
    """Least slope @ x over lower <= x <= upper; along an unbounded column a tiny slope counts as 0."""
    side = np.where(slope > 0, lower, upper)
    flat = (slope == 0) | (~np.isfinite(side) & (np.abs(slope) <= TOLERANCE))
    return float((np.where(flat, 0.0, slope) * np.where(flat, 0.0, side)).sum())


def _number(bound: float) -> float:
    """Return a bound, or minus infinity for what is none."""
    return float(bound) if np.isfinite(bound) else -np.inf
