"""The integer hull, compared with its definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from kvbound.instance import Instance
from kvbound.llm import Llm
from kvbound.memory import Memory, Tier
from kvbound.models import formulation
from kvbound.models.integer_hull import affine, hulls, integer_hull
from kvbound.rules import Initial, Rules
from kvbound.solvers.mip.highs import minimise
from kvbound.trace import Trace

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
    hull = integer_hull(rows, misses, entries)
    lines = np.vstack([hull, [time.min(), 0, 0]])
    assert ((lines[:, 0] + grid @ lines[:, 1:].T).max(axis=1) <= time + 1e-9 * (1 + time.max())).all()
    # at any point in between: the cheapest mixture of integer points
    point = np.array([u * misses, v * entries])
    mixture = linprog(time, A_eq=np.vstack([grid.T, np.ones(len(grid))]), b_eq=[*point, 1])
    assert (lines[:, 0] + lines[:, 1:] @ point).max() == pytest.approx(mixture.fun, rel=1e-6, abs=1e-6)


def test_on_a_slow_link_the_hull_is_far_above_the_facets() -> None:
    # hbm alone 100, both together 98 whatever is missed, each miss 76 on the link
    facets = np.array([[0.0, 0, 1, 0, 1, 0], [0.98, 0.98, 0.98, 0, 0.98, 0], [0, 76.0, 0, 0, 0, 0]])
    rows = affine(facets, 60.0, 1.0, 40, 1)
    hull = integer_hull(rows, 40, 41)
    at = rows[:, 0] + rows[:, 1:] @ [1.5, 0]
    assert (hull[:, 0] + hull[:, 1:] @ [1.5, 0]).max() > at.max() + 10


whole = st.integers(0, 9)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 30), whole, whole), min_size=2, max_size=4),
    st.integers(1, 6),
    st.lists(st.integers(1, 7), min_size=1, max_size=3),
)
@example([(0, 0, 1), (0, 2, 0)], 1, [1])
def test_a_hull_is_valid_for_every_slot_that_shares_it(
    planes: list[tuple[int, int, int]], reads: int, asked: list[int]
) -> None:
    facets = np.array([[0.0, missed, start, 0, written, 0] for start, missed, written in planes])
    hull, rows = hulls(facets, *np.ones((2, 1))), affine(facets, 1.0, 1.0, reads, 1)
    for entries in (*(min(each, reads + 1) for each in asked), reads + 1):
        found = hull(0, reads, 1, entries)
        grid = np.array([(m, z) for m in range(reads + 1) for z in range(entries + 1)], float)
        time = (rows[:, 0] + grid @ rows[:, 1:].T).max(axis=1)
        least = found[:, 0] + grid @ found[:, 1:].T
        assert (least <= time[:, None] + 1e-9 * (1 + time.max())).all()


def test_a_slot_with_few_entries_does_not_spoil_the_bound_of_one_with_more() -> None:
    # near: read over a, written over b; far: read over b and d, written over a, b and d
    memory = Memory(
        "four links",
        {"a": 27.0, "b": 9.0, "c": 29.0, "d": 5.0},
        (Tier("near", 3, ("a",), ("b",)), Tier("far", None, ("b", "d"), ("a", "b", "d"))),
    )
    lists = [[[6, 7, 8]], [[3, 4, 5]], *[[[3, 4, 5]]] * 6, [[6, 7]]]
    for weights in range(4):
        instance = Instance(
            "shared hull", memory, Llm("one layer", 1, 1, 0, float(weights)),
            Rules(initial=Initial.PREFILL_FIRST), Trace.from_lists(9, lists),
        )  # fmt: skip
        loose = minimise(formulation(instance, cuts=False).matrix, gap=1e-9, threads=1).objective
        tight = minimise(formulation(instance).matrix, gap=1e-9, threads=1).objective
        assert tight == pytest.approx(loose, rel=1e-6)


def test_slots_with_the_same_counts_share_a_hull() -> None:
    facets = np.array([[0.98, 0.98, 0.98, 0, 0.98, 0], [0, 76.0, 0, 0, 0, 0]])
    hull = hulls(facets, np.array([60.0, 60.0]), np.ones(2))
    assert hull(0, 40, 1, 5) is hull(1, 40, 1, 5)
    assert hull(0, 40, 1, 5) is not hull(0, 41, 1, 5)
    assert hull(0, 40, 1, 5) is not hull(0, 40, 1, 6)
    assert hull(0, 40, 1, 5) is not hull(0, 40, 2, 5)
