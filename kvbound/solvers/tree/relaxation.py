"""The relaxation of a node: one program for the whole tree, with the node's bounds, solved from any basis."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace

import highspy
import numpy as np
from scipy import sparse

from kvbound.models.time_indexed import TimeIndexed
from kvbound.solvers.mip.highs import load
from kvbound.solvers.tree.questions import Floats, Limits

_LEAST_S = 0.1
"""Seconds that a run has at least."""


@dataclass(frozen=True, eq=False)
class Point:
    """What the program says of a node.

    Attributes
    ----------
    values
        Its solution, (columns,); empty if there is none.
    duals
        Row duals, (rows,).
    objective
        In units of the program; infinite if the program is infeasible.
    ray
        Of an infeasible program the direction in which its dual grows without limit from any duals, (rows,),
        and at most 1 in any row; else empty.
    """

    values: Floats
    duals: Floats
    objective: float
    ray: Floats = field(default_factory=lambda: np.zeros(0))

    def along(self, duals: Floats, far: float) -> Point:
        """Return the point so far along the ray from some duals."""
        return replace(self, duals=duals + far * self.ray)


class NodeRelaxation:
    """The time-indexed program without integrality, and with a row for every slot's number of reads.

    Parameters
    ----------
    split
        The tier whose reads are counted.
    end
        `time.perf_counter` at which a run ends without a result.
    """

    def __init__(self, program: TimeIndexed, split: int, *, seed: int = 0, end: float = math.inf) -> None:
        self.program, self.split, self.end = program, split, end
        matrix, served = program.matrix, program.traffic[:, :, :2, split].reshape(-1, 2)
        count, rows = len(served), program.matrix.rows.shape[0]
        entries = np.ones(2 * count), served.ravel(), np.arange(0, 2 * count + 1, 2)
        more = sparse.csr_array(entries, shape=(count, matrix.columns))
        free = np.full(count, np.inf)
        matrix = replace(
            matrix,
            rows=sparse.csr_array(sparse.vstack([matrix.rows, more])),
            row_lower=np.concatenate([matrix.row_lower, -free]),
            row_upper=np.concatenate([matrix.row_upper, free]),
        )
        self._rows = rows + count
        self.counts = rows + np.arange(count).reshape(program.time.shape)
        self._lower, self._upper = matrix.lower.copy(), matrix.upper.copy()
        self._most = Limits.of(program).most
        self._least, self._highest = np.zeros_like(self._most), self._most.copy()
        self._highs = load(matrix, integer=False, seed=seed, threads=1)
        for name, value in {"solver": "simplex", "presolve": "off", "output_flag": False}.items():
            self._highs.setOptionValue(name, value)

    def estimate(self, limits: Limits, iterations: int) -> float:
        """Return the objective after some iterations of the dual simplex method, infinite if infeasible."""
        self._set(limits)
        self._highs.setOptionValue("simplex_iteration_limit", iterations)
        self._run()
        self._highs.setOptionValue("simplex_iteration_limit", highspy.kHighsIInf)
        if self._highs.getModelStatus() == highspy.HighsModelStatus.kInfeasible:
            return np.inf
        return float(self._highs.getInfo().objective_function_value)

    def solve(self, limits: Limits) -> Point | None:
        """Solve the program within the limits of a node; None if that fails, or time is up."""
        self._set(limits)
        if not self._run():
            return None
        status = self._highs.getModelStatus()
        if status == highspy.HighsModelStatus.kOptimal:
            solution = self._highs.getSolution()
            values, duals = np.array(solution.col_value), np.array(solution.row_dual)
            objective = float(self._highs.getInfo().objective_function_value)
            complete = values.size == self._lower.size and duals.size == self._rows
            finite = np.isfinite(objective) and np.isfinite(values).all() and np.isfinite(duals).all()
            return Point(values, duals, objective) if complete and finite else None
        if status == highspy.HighsModelStatus.kInfeasible:
            return self._ray()
        return None

    def _run(self) -> bool:
        """Run; return whether there was no error."""
        if self.end < math.inf:
            left = max(self.end - time.perf_counter(), _LEAST_S)
            self._highs.setOptionValue("time_limit", self._highs.getRunTime() + left)
        return bool(self._highs.run() != highspy.HighsStatus.kError)

    def _ray(self) -> Point | None:
        _, has_ray, ray = self._highs.getDualRay()
        found = np.array(ray) if has_ray else np.zeros(0)
        if found.size != self._rows or not np.isfinite(found).all() or not found.any():
            return None
        none = np.zeros(0)
        return Point(none, np.zeros(found.size), np.inf, found / np.abs(found).max())

    def _set(self, limits: Limits) -> None:
        """Change the bounds of columns and rows that are not yet those of the node."""
        changed = np.flatnonzero((limits.lower != self._lower) | (limits.upper != self._upper))
        if changed.size:
            index = changed.astype(np.int32)
            self._highs.changeColsBounds(len(index), index, limits.lower[changed], limits.upper[changed])
            self._lower[changed], self._upper[changed] = limits.lower[changed], limits.upper[changed]
        moved = (limits.least != self._least) | (limits.most != self._highest)
        for step, layer in np.argwhere(moved).tolist():
            size = float(self.program.coefficients.timed_sizes[layer])
            low, high = int(limits.least[step, layer]), int(limits.most[step, layer])
            lower = low * size if low > 0 else -np.inf
            upper = high * size if high < self._most[step, layer] else np.inf
            self._highs.changeRowBounds(int(self.counts[step, layer]), lower, upper)
        self._least[moved], self._highest[moved] = limits.least[moved], limits.most[moved]
