"""Compiled twin of `prices`: prices of some steps' counts at given loads."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvbound.kernels import compiled

Floats = NDArray[np.float64]


@compiled(error_model="numpy")
def price_at_loads(
    alpha: Floats,
    beta: Floats,
    sizes: Floats,
    counted: NDArray[np.bool_],
    chord: Floats,
    others: Floats,
    used: Floats,
    missing: Floats,
    penalty: float,
    weights: Floats,
    prices: Floats,
    first: int,
) -> None:
    """Price counts under row weights that are moved towards the rows that are highest at the loads.

    The inner loops run over the layers of a step, so that the compiler vectorises them.

    Parameters
    ----------
    alpha, beta, sizes, counted, chord, others
        See `minorants.SlotMinorants`, of all steps.
    used
        Counts of the chunk's steps, which begin with step `first`, (3K, chunk, layers).
    missing
        Share of their reads whose items have no path yet, (chunk, layers).
    penalty
        Weight per second that a row is below the highest one.
    weights
        Row weights, (rows, steps, layers).
    prices
        Price of every count, (3K, steps, layers); the chunk's are set.
    """
    count, _, layers = alpha.shape
    moved, top, level, slope = np.empty((count, layers)), np.empty(layers), np.empty(layers), np.empty(layers)
    for n in range(used.shape[1]):
        step = first + n
        _evaluate(alpha, beta, sizes, counted, chord, others, used, missing, moved, step, n)
        top[:] = moved[0]
        for row in range(1, count):
            for layer in range(layers):
                top[layer] = max(top[layer], moved[row, layer])
        for row in range(count):
            for layer in range(layers):
                moved[row, layer] = weights[row, step, layer] + penalty * (moved[row, layer] - top[layer])
        _project_onto_simplex(moved, level)
        _price(beta, sizes, counted, chord, others, moved, slope, prices, step)


@compiled()
def _evaluate(
    alpha: Floats,
    beta: Floats,
    sizes: Floats,
    counted: NDArray[np.bool_],
    chord: Floats,
    others: Floats,
    used: Floats,
    missing: Floats,
    values: Floats,
    step: int,
    n: int,
) -> None:
    """Evaluate the minorants of a step's slots at their counts, as `SlotMinorants.at` does."""
    (facets, kinds), layers = beta.shape, chord.shape[2]
    for row in range(len(values)):
        for layer in range(layers):
            values[row, layer] = (1 - missing[n, layer]) * alpha[row, step, layer]
        for kind in range(kinds):
            if row < facets and beta[row, kind] != 0:
                for layer in range(layers):
                    values[row, layer] += beta[row, kind] * (used[kind, n, layer] * sizes[layer])
        if row < facets:
            continue
        each = row - facets
        for layer in range(layers):
            whole = 0.0
            for kind in range(kinds):
                if counted[each, kind]:
                    whole += used[kind, n, layer]
            values[row, layer] += chord[each, step, layer] * whole
        for kind in range(kinds):
            if others[each, kind] != 0:
                for layer in range(layers):
                    values[row, layer] += used[kind, n, layer] * (others[each, kind] * sizes[layer])


@compiled()
def _price(
    beta: Floats,
    sizes: Floats,
    counted: NDArray[np.bool_],
    chord: Floats,
    others: Floats,
    weights: Floats,
    slope: Floats,
    prices: Floats,
    step: int,
) -> None:
    """Price the counts of a step's slots under row weights, as `SlotMinorants.prices` does."""
    (facets, kinds), layers = beta.shape, chord.shape[2]
    for kind in range(kinds):
        slope[:] = 0.0
        for row in range(facets):
            if beta[row, kind] != 0:
                for layer in range(layers):
                    slope[layer] += beta[row, kind] * weights[row, layer]
        for layer in range(layers):
            slope[layer] *= sizes[layer]
        for row in range(facets, len(weights)):
            each = row - facets
            if counted[each, kind]:
                for layer in range(layers):
                    slope[layer] += chord[each, step, layer] * weights[row, layer]
            if others[each, kind] != 0:
                for layer in range(layers):
                    slope[layer] += weights[row, layer] * (others[each, kind] * sizes[layer])
        prices[kind, step] = slope


@compiled(error_model="numpy")
def _project_onto_simplex(points: Floats, level: Floats) -> None:
    """Project every column in place; see `prices.project_onto_simplex`."""
    rows, columns = points.shape
    level[:] = -np.inf
    for _ in range(rows):
        for n in range(columns):
            total, above = -1.0, 0.0
            for row in range(rows):
                over = points[row, n] > level[n]
                total += points[row, n] if over else 0.0
                above += 1.0 if over else 0.0
            level[n] = total / above
    for row in range(rows):
        for n in range(columns):
            points[row, n] = max(points[row, n] - level[n], 0.0)
