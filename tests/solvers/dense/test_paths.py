"""Numbers of alike items have the cheapest paths, and the traffic, of the items themselves."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvbound.bitsets.lanes import Lanes
from kvbound.bitsets.two_tier import supports_two_tier_bits
from kvbound.kernels import Kernel
from kvbound.solvers.dense import items
from kvbound.solvers.dense.items import DenseItems
from kvbound.solvers.dense.paths import DensePaths
from kvbound.solvers.lagrangian.bound import solve_dual
from kvbound.solvers.lagrangian.paths.multi_tier import MultiTierPaths
from kvbound.solvers.lagrangian.paths.two_tier import TwoTierPaths
from tests.dense_cases import dense_instance, feasible, long_run, with_bits


@pytest.mark.parametrize("kernel", ["numpy", "numba"])
@given(seed=st.integers(0, 2**32 - 1), tiers=st.integers(2, 4), whole=st.booleans())
def test_they_equal_those_of_single_items(kernel: Kernel, seed: int, tiers: int, *, whole: bool) -> None:
    rng = np.random.default_rng(seed)
    instance = dense_instance(rng, tiers=tiers, weights=True, granularity=1)
    if not feasible(instance):
        return
    shape = instance.decode_steps, instance.layers
    prices = rng.normal(0.4, 1, (3 * tiers, *shape))
    capacity = np.abs(rng.normal(0, 0.3, (tiers, 1 + instance.slots)))
    if whole:  # many ties
        prices, capacity = np.round(2 * prices), np.round(2 * capacity)
    single = MultiTierPaths(with_bits(instance), Lanes.all_of(with_bits(instance), slice(None)))
    dense = DensePaths(instance, DenseItems.of(instance), kernel, 2)
    value, demand = single.evaluate(prices, capacity)
    found, counted = dense.evaluate(prices, capacity)
    assert found == pytest.approx(value, rel=1e-12, abs=1e-9)
    assert dense.evaluate(prices, capacity, demand=False) == (found, None)
    assert demand is not None
    assert counted is not None
    assert np.array_equal(counted.used, demand.used)
    assert np.array_equal(counted.held, demand.held)


@given(st.integers(0, 2**32 - 1))
def test_layers_add_up(seed: int) -> None:
    rng = np.random.default_rng(seed)
    instance = dense_instance(rng, granularity=1)
    if not feasible(instance):
        return
    prices = rng.random((3 * instance.tiers, instance.decode_steps, instance.layers))
    capacity = rng.random((instance.tiers, 1 + instance.slots))

    def of(layers: slice) -> float:
        return DensePaths(instance, DenseItems.of(instance, layers)).evaluate(prices, capacity)[0]

    parts = sum(of(slice(layer, layer + 1)) for layer in range(instance.layers))
    assert of(slice(None)) == pytest.approx(parts, rel=1e-12)


def test_they_equal_the_fast_paths_between_two_tiers() -> None:
    instance = long_run(steps=90, copies="inclusive")
    bits, rng = with_bits(instance), np.random.default_rng(1)
    assert supports_two_tier_bits(bits)
    prices = rng.random((6, 90, instance.layers)) + 0.1
    capacity = np.zeros((2, 1 + instance.slots))
    capacity[0] = 0.3 * rng.random(1 + instance.slots)
    value, demand = TwoTierPaths(bits, Lanes.all_of(bits, slice(None)), "numpy", 1).evaluate(prices, capacity)
    found, counted = DensePaths(instance, DenseItems.of(instance)).evaluate(prices, capacity)
    assert found == pytest.approx(value, rel=1e-12)
    assert demand is not None
    assert counted is not None
    assert np.array_equal(counted.used, demand.used)
    assert np.array_equal(counted.held[0], demand.held[0])


def test_they_apply_to_single_tokens_that_are_all_read() -> None:
    instance = long_run(steps=5)
    assert items.applies(instance)
    assert not items.applies(long_run(steps=5, granularity=2))
    assert not items.applies(with_bits(instance))


def test_with_many_ends_bits_serve_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    instance = long_run(steps=5)
    bound = solve_dual(instance, iterations=5)[1]
    monkeypatch.setattr(items, "_MOST_CHOICES", 9)
    assert not items.applies(instance)
    assert solve_dual(instance, iterations=5)[1].bound_s == pytest.approx(bound.bound_s, rel=1e-9)


@given(st.integers(0, 2**32 - 1))
def test_both_kernels_give_the_same_to_the_last_bit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    instance = dense_instance(rng, tiers=int(rng.integers(2, 5)), weights=True, granularity=1)
    if not feasible(instance):
        return
    prices = rng.normal(0.4, 1, (3 * instance.tiers, instance.decode_steps, instance.layers))
    capacity = np.abs(rng.normal(0, 0.3, (instance.tiers, 1 + instance.slots)))
    kernels: list[Kernel] = ["numpy", "numba"]
    one, other = (
        DensePaths(instance, DenseItems.of(instance), kernel).evaluate(prices, capacity) for kernel in kernels
    )
    assert one[0] == other[0]
    assert one[1] is not None
    assert other[1] is not None
    assert one[1].used.tobytes() == other[1].used.tobytes()
    assert one[1].held.tobytes() == other[1].held.tobytes()
