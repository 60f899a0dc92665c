"""The hull over whole counts, against the hull by definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from kvbound.models.integer_hull import affine, hulls, whole_hull

rates = st.sampled_from([0.0, 0.5, 0.91, 1.0, 9.8, 10.9, 76.6])
facet_rows = st.lists(st.tuples(st.floats(0, 60), rates, rates), min_size=1, max_size=5)


@settings(max_examples=60, deadline=None)
@given(facet_rows, st.integers(0, 9), st.integers(0, 9), st.floats(0, 1), st.floats(0, 1))
def test_it_is_the_convex_hull(
    facets: list[tuple[float, float, float]], misses: int, entries: int, u: float, v: float
) -> None:
    rows = np.array(facets)
    grid = np.array([(m, z) for m in range(misses + 1) for z in range(entries + 1)], float)
    time = (rows[:, 0] + grid @ rows[:, 1:].T).max(axis=1)
    hull = whole_hull(rows, misses, entries)
    lines = np.vstack([hull, [time.min(), 0, 0]])
    assert ((lines[:, 0] + grid @ lines[:, 1:].T).max(axis=1) <= time + 1e-9 * (1 + time.max())).all()
    # at any point in between: the cheapest mixture of whole points
    point = np.array([u * misses, v * entries])
    mixture = linprog(time, A_eq=np.vstack([grid.T, np.ones(len(grid))]), b_eq=[*point, 1])
    assert (lines[:, 0] + lines[:, 1:] @ point).max() == pytest.approx(mixture.fun, rel=1e-6, abs=1e-6)


def test_one_slow_link_costs_whole_misses() -> None:
    # hbm alone 100, both together 98 whatever is missed, each miss 76 on the link
    facets = np.array([[0.0, 0, 1, 0, 1, 0], [0.98, 0.98, 0.98, 0, 0.98, 0], [0, 76.0, 0, 0, 0, 0]])
    rows = affine(facets, 60.0, 40)
    hull = whole_hull(rows, 40, 41)
    at = rows[:, 0] + rows[:, 1:] @ [1.5, 0]
    assert (hull[:, 0] + hull[:, 1:] @ [1.5, 0]).max() > at.max() + 10


def test_slots_alike_share_one_hull() -> None:
    facets = np.array([[0.98, 0.98, 0.98, 0, 0.98, 0], [0, 76.0, 0, 0, 0, 0]])
    hull = hulls(facets, np.array([60.0, 60.0]))
    assert hull(0, 40, 5) is hull(1, 40, 6)
    assert hull(0, 40, 5) is not hull(0, 41, 5)
