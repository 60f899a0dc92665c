"""Augmented-Lagrangian prices: the same on both kernels, from weights on the simplex."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvbound.instance import Instance
from kvbound.solvers.lagrangian.ascent import Multipliers
from kvbound.solvers.lagrangian.slots.minorants import SlotMinorants
from kvbound.solvers.lagrangian.subproblem import limited_tiers
from kvbound.solvers.pricing.prices import Prices, project_onto_simplex
from tests.strategies import layered_instances, tiny_instances


@given(tiny_instances() | layered_instances(), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_compiled_prices_agree(instance: Instance, seed: int) -> None:
    pytest.importorskip("numba")
    rng, shape = np.random.default_rng(seed), (instance.decode_steps, instance.layers)
    minorants = SlotMinorants.of(instance)
    weights = rng.dirichlet(np.ones(len(minorants.alpha)), shape).transpose(2, 0, 1)
    multipliers = Multipliers(weights.copy(), np.zeros((instance.tiers, 1 + instance.slots)))
    loads = _Loads(instance, rng)
    plain, compiled = (Prices(instance, multipliers, kernel, map).at(loads) for kernel in ("numpy", "numba"))
    for one, other in zip(plain, compiled, strict=True):
        assert other == pytest.approx(one, rel=1e-12, abs=1e-12 * np.abs(one).max())


class _Loads:
    """Random loads."""

    def __init__(self, instance: Instance, rng: np.random.Generator) -> None:
        self.share, self.reads = 0.5, instance.trace.past_counts() // 2
        self.loads = rng.integers(0, 5, (3 * instance.tiers, *self.reads.shape)).astype(np.float64)
        self.blocks = rng.random((len(limited_tiers(instance)), 1 + instance.slots))

    def used(self, steps: slice) -> np.ndarray[Any, np.dtype[np.float64]]:
        return self.loads[:, steps]

    def held(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        return self.blocks


@given(st.integers(1, 4), st.integers(0, 99))
def test_projected_onto_the_simplex(rows: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(rows, 5, 3))
    found = project_onto_simplex(points)
    assert np.all(found >= 0)
    assert found.sum(axis=0) == pytest.approx(np.ones((5, 3)))
    other = rng.dirichlet(np.ones(rows), (5, 3)).transpose(2, 0, 1)
    # from the projection, every point of the simplex is at an obtuse angle to the projected one
    assert np.all(((points - found) * (other - found)).sum(axis=0) <= 1e-12)
    assert project_onto_simplex(found) == pytest.approx(found, abs=1e-12)
