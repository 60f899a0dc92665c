"""Verification of what a solver returns: the objective of columns, and the bound that row duals prove."""

from __future__ import annotations

import numpy as np

from kvbound.models.sparse import Floats, Matrix

TOLERANCE = 1e-6
"""Relative tolerance of rows and objectives."""


def rounded_solution(matrix: Matrix, values: Floats) -> tuple[Floats | None, float]:
    """Round integer columns, clip all to their bounds, and recompute the objective.

    Returns
    -------
    tuple
        The columns, or None if some are not finite; and the objective, infinite if they violate a row or
        rounding changed them too much.
    """
    if values.shape != matrix.cost.shape or not np.isfinite(values).all():
        return None, np.inf
    near = np.clip(np.where(matrix.integer, np.rint(values), values), matrix.lower, matrix.upper)
    activity = matrix.rows @ near
    slack = TOLERANCE * np.maximum(1.0, abs(matrix.rows) @ np.abs(near))
    kept = (activity >= matrix.row_lower - slack) & (activity <= matrix.row_upper + slack)
    moved = np.abs(near - values) <= TOLERANCE * np.maximum(1.0, np.abs(near))
    return near, float(matrix.cost @ near) if kept.all() and moved.all() else np.inf


def dual_bound(matrix: Matrix, duals: Floats) -> float:
    """Return the bound that row duals prove by weak duality, for the program and for its relaxation."""
    if duals.shape != matrix.row_lower.shape or not np.isfinite(duals).all():
        return -np.inf
    reduced = matrix.cost - duals @ matrix.rows
    return _minimum(reduced, matrix.lower, matrix.upper) + _minimum(duals, matrix.row_lower, matrix.row_upper)


def _minimum(slope: Floats, lower: Floats, upper: Floats) -> float:
    """Minimum of slope @ x over lower <= x <= upper; a tiny slope of an unbounded column counts as 0."""
    side = np.where(slope > 0, lower, upper)
    flat = (slope == 0) | (~np.isfinite(side) & (np.abs(slope) <= TOLERANCE))
    return float((np.where(flat, 0.0, slope) * np.where(flat, 0.0, side)).sum())
