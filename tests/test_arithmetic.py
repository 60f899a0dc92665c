"""Arithmetic with results that do not depend on the machine."""

import math
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvbound.arithmetic import combine, exp, log, power, solve


def test_sums_are_in_the_order_of_the_terms() -> None:
    coefficients = np.array([[1.0, 1.0, 1.0], [0.0, 2.0, 0.5]])
    terms = np.array([[1e16, 3.0], [1.0, np.inf], [-1e16, 1.0]])
    assert combine(coefficients, terms[:, :1])[0, 0] == 1e16 + 1.0 - 1e16
    assert combine(coefficients, terms).tolist()[1] == [2.0 - 5e15, np.inf]
    onto = np.ones((2, 2))
    assert combine(coefficients, np.ones((3, 2)), onto) is onto
    assert onto.tolist() == [[4.0, 4.0], [3.5, 3.5]]
    assert combine(coefficients, np.array([1.0, 2.0, 3.0])).tolist() == [6.0, 5.5]


@given(st.lists(st.floats(-32, 0), min_size=1))
def test_exp(numbers: list[float]) -> None:
    assert exp(np.array(numbers)) == pytest.approx([math.exp(x) for x in numbers], rel=2e-15)


@given(st.lists(st.floats(1e-300, 1e300), min_size=1))
def test_log(numbers: list[float]) -> None:
    assert log(np.array(numbers)) == pytest.approx([math.log(x) for x in numbers], rel=1e-15, abs=3e-15)


def test_limits_and_shapes() -> None:
    assert exp(np.array([0.0, -1e9])).tolist() == [1.0, exp(np.array(-32.0))]
    assert log(np.array([1.0, 0.5])).tolist() == [0.0, -math.log(2)]
    wide = -np.arange(20_000.0).reshape(5, 4000).T / 1000
    assert np.array_equal(exp(wide)[17, 3], exp(wide[17, 3]))
    assert exp(np.zeros((0, 3))).shape == (0, 3)


def test_solve() -> None:
    half = np.random.default_rng(0).random((7, 4, 9))
    square = half @ half.swapaxes(1, 2) + np.eye(4) / 10
    right = np.random.default_rng(1).random((7, 4))
    found = solve(np.moveaxis(square, 0, -1), right.T)
    assert pytest.approx(np.linalg.solve(square, right[..., None])[..., 0], rel=1e-9) == found.T


@given(st.floats(0.01, 100), st.floats(-20, 20))
def test_power(base: float, exponent: float) -> None:
    exact = Decimal(base) ** Decimal(exponent)
    assert power(base, exponent) == float(exact)
