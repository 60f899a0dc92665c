"""Arithmetic with bitwise identical results on every machine.

Sums of products by BLAS and exponentials by NumPy or the C library differ in their last digits between
processors, and over many steps such differences change the outcome of a search. This module uses only
operations defined by IEEE 754, in a fixed order, on tables computed in decimal arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Context, Decimal
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_DIGITS = Context(prec=40)
_FINE = 64
"""Table entries per unit of the exponent, and per doubling of the logarithm's argument."""
_LOWEST = -32.0
_PART = 4096
"""Numbers processed at once, few enough for the processor's cache."""


def combine(coefficients: Floats, terms: NDArray[Any], onto: Floats | None = None) -> Floats:
    """Return ``coefficients @ terms``, shape (m, ...), with sums in the order of the terms.

    Parameters
    ----------
    coefficients
        Shape (m, n), with small m and n; terms with coefficient 0 are skipped.
    terms
        Shape (n, ...).
    onto
        Array to add to in place, shape (m, ...); by default zeros.
    """
    total = np.zeros((len(coefficients), *terms.shape[1:])) if onto is None else onto
    product = np.empty(terms.shape[1:])
    for m, row in enumerate(coefficients.tolist()):
        for coefficient, term in zip(row, terms, strict=True):
            if coefficient:
                np.multiply(term, coefficient, out=product)
                total[m] += product
    return total


def exp(x: Floats) -> Floats:
    """Return the exponential of numbers <= 0, clipped to -32, with a relative error of at most 1e-15."""
    return _by_parts(_exp, x)


def log(x: Floats) -> Floats:
    """Return the logarithm of positive numbers, with an error of at most 1e-14 max(1, |log x|)."""
    return _by_parts(_log, x)


def _by_parts(function: Callable[[Floats], Floats], x: Floats) -> Floats:
    flat, value = np.ravel(x), np.empty(np.shape(x))
    into = value.reshape(-1)
    for n in range(0, len(flat), _PART):
        into[n : n + _PART] = function(flat[n : n + _PART])
    return value


def _exp(x: Floats) -> Floats:
    steps = np.maximum(x, _LOWEST)
    steps *= -_FINE
    nearest = np.rint(steps)
    rest = np.subtract(nearest, steps, out=steps)
    rest *= 1 / _FINE  # |rest| <= 1 / 128
    series = rest * (1 / 120)
    for factor in (1 / 24, 1 / 6, 1 / 2, 1.0):
        series += factor
        series *= rest
    series += 1.0
    series *= _exponentials().take(nearest.astype(np.intp))
    return series


def _log(x: Floats) -> Floats:
    fraction, exponent = np.frexp(x)
    place = ((fraction - 0.5) * (2 * _FINE)).astype(np.intp)
    middle = (place + (_FINE + 0.5)) * (0.5 / _FINE)
    rest = (fraction - middle) / middle  # |rest| <= 1 / 128
    series = rest * (1 / 7)
    for factor in (-1 / 6, 1 / 5, -1 / 4, 1 / 3, -1 / 2, 1.0):
        series += factor
        series *= rest
    doublings, parts = _logarithms()
    series += parts.take(place)
    return np.asarray(exponent * doublings + series)


def solve(square: Floats, right: Floats) -> Floats:
    """Solve many positive definite systems square @ x = right at once, by elimination without pivoting.

    Parameters
    ----------
    square
        Shape (n, n, ...).
    right
        Shape (n, ...).
    """
    square, x, order = square.copy(), right.copy(), range(len(right))
    for k in order:
        for i in order[k + 1 :]:
            factor = square[i, k] / square[k, k]
            square[i, k + 1 :] -= factor * square[k, k + 1 :]
            x[i] -= factor * x[k]
    for k in reversed(order):
        for i in order[k + 1 :]:
            x[k] -= square[k, i] * x[i]
        x[k] /= square[k, k]
    return x


def power(base: float, exponent: float) -> float:
    """Return the power of a positive base, computed in decimal and rounded once."""
    return float(_DIGITS.exp(_DIGITS.multiply(_DIGITS.ln(Decimal(base)), Decimal(exponent))))


@cache
def _exponentials() -> Floats:
    """Return exp(-n / _FINE) for exponents from 0 to _LOWEST."""
    steps = range(int(-_LOWEST * _FINE) + 1)
    return np.array([float(_DIGITS.exp(_DIGITS.divide(Decimal(-n), _FINE))) for n in steps])


@cache
def _logarithms() -> tuple[float, Floats]:
    """Return the logarithms of 2, and of the midpoints of _FINE equal parts of [0.5, 1)."""
    middles = [_DIGITS.divide(Decimal(2 * n + 1 + 2 * _FINE), 4 * _FINE) for n in range(_FINE)]
    return float(_DIGITS.ln(2)), np.array([float(_DIGITS.ln(middle)) for middle in middles])
