"""Compiled twins of what `best_response` charges around a schedule and of how `response_bits` changes it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvbound.bitsets.counts import HELD, HITS, UNREAD, UP
from kvbound.bitsets.popcount import popcount
from kvbound.kernels import compiled

Floats = NDArray[np.float64]
Words = NDArray[np.uint64]


@compiled(error_model="numpy")
def price_around(
    alpha: Floats,
    beta: Floats,
    chord: Floats,
    tier: int,
    used: Floats,
    missing: Floats,
    pull: float,
    weights: Floats,
    prices: Floats,
    first: int,
) -> None:
    """Move row weights of some steps, by what the rows say of what is used, and price counts under them.

    All layers of a step are worked on together, which the compiler makes vectors of.

    Parameters
    ----------
    alpha, beta, chord, tier
        See `minorants.SlotMinorants`, of all steps.
    used
        Of every count, from step `first` on, (3K, some, layers).
    missing
        Share of the reads whose items were not asked so far, (some, layers).
    pull
        Weight per second.
    weights
        Of the rows, (rows, steps, layers).
    prices
        Of every count, (3K, steps, layers); filled in.
    """
    count, _, layers = alpha.shape
    moved, top, level, slope = np.empty((count, layers)), np.empty(layers), np.empty(layers), np.empty(layers)
    for n in range(used.shape[1]):
        step = first + n
        _says(alpha, beta, chord, tier, used, missing, moved, step, n)
        top[:] = moved[0]
        for row in range(1, count):
            for layer in range(layers):
                top[layer] = max(top[layer], moved[row, layer])
        for row in range(count):
            for layer in range(layers):
                moved[row, layer] = weights[row, step, layer] + pull * (moved[row, layer] - top[layer])
        _onto_simplex(moved, level)
        _charge(beta, chord, tier, moved, slope, prices, step)


@compiled()
def _says(
    alpha: Floats,
    beta: Floats,
    chord: Floats,
    tier: int,
    used: Floats,
    missing: Floats,
    says: Floats,
    step: int,
    n: int,
) -> None:
    """Evaluate the minorants of a step's slots at what is used in them; as `SlotMinorants.at`."""
    (facets, kinds), layers = beta.shape, chord.shape[1]
    for row in range(len(says)):
        for layer in range(layers):
            says[row, layer] = (1 - missing[n, layer]) * alpha[row, step, layer]
        for kind in range(kinds):
            if row < facets and beta[row, kind] != 0:
                for layer in range(layers):
                    says[row, layer] += beta[row, kind] * used[kind, n, layer]
        if row >= facets:
            for layer in range(layers):
                slow = used[tier, n, layer] + used[kinds // 3 + tier, n, layer]
                says[row, layer] += chord[step, layer] * slow


@compiled()
def _charge(
    beta: Floats, chord: Floats, tier: int, weights: Floats, slope: Floats, prices: Floats, step: int
) -> None:
    """Price counts of a step's slots under row weights, as `SlotMinorants.prices` does."""
    (facets, kinds), layers = beta.shape, chord.shape[1]
    for kind in range(kinds):
        slope[:] = 0.0
        for row in range(facets):
            if beta[row, kind] != 0:
                for layer in range(layers):
                    slope[layer] += beta[row, kind] * weights[row, layer]
        if kind in (tier, kinds // 3 + tier):
            for row in range(facets, len(weights)):
                for layer in range(layers):
                    slope[layer] += chord[step, layer] * weights[row, layer]
        prices[kind, step] = slope


@compiled(error_model="numpy")
def _onto_simplex(points: Floats, level: Floats) -> None:
    """Project every column, leaving out again and again what falls below zero (Michelot, 1986)."""
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


@compiled()
def exchange(
    rows: Words,
    mine: Words,
    after: Words,
    began: Words,
    begins: Words,
    who: Words,
    counts: NDArray[np.int64],
    layer: int,
) -> None:
    """Put new bits in place of a layer's old ones, and change counts, but for births, by the difference.

    Parameters
    ----------
    rows, after
        Reads, and new bits, (steps, layers, words).
    mine
        Old bits, changed, (steps, words).
    began, begins
        Who was, and who is now, in tier 0 at the start, (layers, words).
    who
        Lanes whose bits change, (layers, words).
    counts
        See `balanced_numba`, (steps, layers, 5).
    """
    steps, width = mine.shape
    was, now = began[layer].copy(), begins[layer].copy()
    for step in range(steps):
        for word in range(width):
            old, new, read = mine[step, word], after[step, layer, word], rows[step, layer, word]
            new = old ^ (old ^ new) & who[layer, word]
            before, since = was[word], now[word]
            if old != new or before != since:
                left, entered = old & ~before, new & ~since
                counts[step, layer, HITS] += popcount(read & since) - popcount(read & before)
                counts[step, layer, UP] += popcount(entered) - popcount(left)
                counts[step, layer, UNREAD] += popcount(entered & ~read) - popcount(left & ~read)
                counts[step, layer, HELD] += popcount(new) - popcount(old)
                mine[step, word] = new
            was[word], now[word] = old, new
