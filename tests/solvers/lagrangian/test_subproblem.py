"""Cheapest paths: two-tier and multi-tier paths and both kernels agree; the demand is a supergradient."""

import dataclasses
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvbound.bitsets.lanes import PADDING, Floats, Lanes, count_spans
from kvbound.bitsets.two_tier import supports_two_tier_bits
from kvbound.instance import Instance
from kvbound.kernels import Kernel
from kvbound.llm.model import Llm
from kvbound.solvers.lagrangian.paths.multi_tier import MultiTierPaths
from kvbound.solvers.lagrangian.paths.two_tier import TwoTierPaths
from kvbound.solvers.lagrangian.subproblem import ItemSubproblem
from kvbound.workloads import RandomSwap
from tests.solvers.lagrangian.cases import come_and_go
from tests.strategies import rule_combinations, tiny_instance, with_layers

KERNELS: tuple[Kernel, ...] = ("numpy", "numba")
TWO: dict[str, Any] = {"tiers": 2, "copies": "inclusive", "granularity": 1}


def lanes(instance: Instance) -> Lanes:
    return Lanes.all_of(instance, slice(None))


def random_prices(instance: Instance, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Prices without ties, all at least 0, and capacity prices."""
    slots = instance.decode_steps * instance.layers
    prices = rng.random((3 * instance.tiers, instance.decode_steps, instance.layers))
    prices[: instance.tiers] *= 3
    return prices, 0.2 * rng.random((instance.tiers, 1 + slots))


def same_demand(instance: Instance, prices: Floats, capacity: Floats) -> None:
    """Compare the multi-tier paths with the two-tier paths of both kernels."""
    if instance.inclusive:
        capacity[-1] = 0
    general: ItemSubproblem = MultiTierPaths(instance, lanes(instance))
    value, demand = general.evaluate(prices, capacity)
    found_bits: dict[str, Any] = {}
    for kernel in KERNELS:
        for threads in (1, 2):
            fast: ItemSubproblem = TwoTierPaths(instance, lanes(instance), kernel, threads)
            found, used = fast.evaluate(prices, capacity)
            assert found == pytest.approx(value, rel=1e-12)
            assert demand is not None
            assert used is not None
            np.testing.assert_allclose(used.used, demand.used)
            np.testing.assert_allclose(used.held[0], demand.held[0])
            starts, after = TwoTierPaths(instance, lanes(instance), kernel, threads).paths(prices, capacity)
            for name, bits in {"starts": starts, "after": after}.items():
                assert np.array_equal(bits, found_bits.setdefault(name, bits))
            assert fast.evaluate(prices, capacity, demand=False) == (found, None)


@pytest.mark.parametrize("migration", ["none", "on-read", "prefetch"])
@pytest.mark.parametrize("initial", ["free", "prefill-first"])
@given(st.integers(0, 2**32 - 1), st.booleans(), st.booleans())
@settings(max_examples=20)
def test_two_tier_paths_are_the_multi_tier_ones(
    migration: str, initial: str, seed: int, batch: bool, differ: bool
) -> None:
    rng = np.random.default_rng(seed)
    instance = tiny_instance(rng, **TWO, migration=migration, initial=initial, batch=batch, layers=2)
    instance = with_layers(rng, instance) if differ else instance
    same_demand(instance, *random_prices(instance, rng))


@pytest.mark.parametrize("rules", rule_combinations(), ids=lambda rules: "-".join(map(str, rules.values())))
def test_kernels_agree_on_multi_tier_paths(rules: dict[str, Any]) -> None:
    rng = np.random.default_rng([ord(letter) for letter in str(rules)])
    for batch in (False, False, True, True):
        instance = tiny_instance(rng, **rules, batch=batch)
        same_paths(instance, *random_prices(instance, rng))
        instance = with_layers(rng, instance)
        same_paths(instance, *random_prices(instance, rng))


def same_paths(instance: Instance, prices: Floats, capacity: Floats) -> None:
    plain = MultiTierPaths(instance, lanes(instance))
    value, demand = plain.evaluate(prices, capacity)
    assert demand is not None
    for threads in (1, 2):
        compiled = MultiTierPaths(instance, lanes(instance), "numba", threads)
        found, used = compiled.evaluate(prices, capacity)
        assert found == pytest.approx(value, rel=1e-12)
        assert used is not None
        assert np.array_equal(used.used, demand.used)
        assert np.array_equal(used.held, demand.held)
        assert compiled.evaluate(prices, capacity, demand=False) == (found, None)
        for one, other in zip(plain.paths(prices, capacity), compiled.paths(prices, capacity), strict=True):
            assert np.array_equal(one, other)


@pytest.mark.parametrize("rules", rule_combinations(), ids=lambda rules: "-".join(map(str, rules.values())))
def test_kernels_break_ties_alike(rules: dict[str, Any]) -> None:
    rng = np.random.default_rng([ord(letter) for letter in str(rules)])
    for highest in (1, 2, 3):
        instance = tiny_instance(rng, **rules, batch=highest == 2)
        prices, capacity = random_prices(instance, rng)
        prices, capacity = np.floor(highest * prices / 3), np.floor(highest * 4 * capacity)
        same_paths(instance, prices, capacity)
        if supports_two_tier_bits(instance):
            capacity[-1] = 0
            found = [
                TwoTierPaths(instance, lanes(instance), kernel, 1).evaluate(prices, capacity)
                for kernel in KERNELS
            ]
            (value, demand), (value2, demand2) = found
            assert demand is not None
            assert demand2 is not None
            assert value == value2
            assert np.array_equal(demand.used, demand2.used)
            assert np.array_equal(demand.held, demand2.held)


@pytest.mark.parametrize("granularity", [3, 16, 40])
def test_kernels_agree_on_blocks_that_share_words(granularity: int) -> None:
    rng = np.random.default_rng(granularity)
    reads = RandomSwap(layers=2, prefill_tokens=900, decode_steps=50, variation=0.3)
    rules: dict[str, Any] = {"tiers": 3, "copies": "inclusive", "migration": "on-read", "initial": "free"}
    some = tiny_instance(rng, **rules, granularity=granularity)
    instance = Instance("blocks", some.memory, Llm("two layers", 2, 1, 0, 1.0), some.rules, reads)
    same_paths(instance, *random_prices(instance, rng))


def test_words_of_tokens_that_are_all_born_late() -> None:
    rng = np.random.default_rng(0)
    reads = RandomSwap(layers=2, prefill_tokens=10, decode_steps=200, variation=0.3)
    some = tiny_instance(rng, **TWO, migration="prefetch", initial="free")
    llm = Llm("two layers", 2, 1, 0, 1.0)
    instance = Instance("late", some.memory, llm, some.rules, reads)
    prices, capacity = random_prices(instance, rng)
    same_demand(instance, prices, capacity / 100)


@pytest.mark.parametrize("migration", ["none", "on-read", "prefetch"])
def test_words_of_tokens_that_come_and_go(migration: str) -> None:
    """Tokens of a word are born in several steps, and end in others, some of them in the step of their
    birth.
    """
    for seed in range(4):
        rng = np.random.default_rng(seed)
        instance = come_and_go(rng, 300, 40, **TWO, migration=migration)
        prices, capacity = random_prices(instance, rng)
        same_demand(instance, prices, capacity / 20)


@pytest.mark.parametrize("granularity", [1, 3, 16])
def test_many_blocks_that_come_and_go(granularity: int) -> None:
    for seed in range(4):
        rng = np.random.default_rng(seed)
        instance = come_and_go(
            rng, 900, 30, granularity=granularity, copies=["inclusive", "exclusive"][seed % 2]
        )
        prices, capacity = random_prices(instance, rng)
        same_paths(instance, prices, capacity / 20)


@given(st.integers(0, 2**32 - 1), st.sampled_from(rule_combinations()), st.booleans())
@settings(max_examples=60)
def test_the_demand_is_a_supergradient(seed: int, rules: dict[str, Any], batch: bool) -> None:
    """The value is concave and positively homogeneous in the prices: it is the demand times the prices."""
    rng = np.random.default_rng(seed)
    instance = tiny_instance(rng, **rules, batch=batch)
    items = MultiTierPaths(instance, lanes(instance))
    here = random_prices(instance, rng)
    value, demand = items.evaluate(*here)
    assert demand is not None
    for prices, capacity in (here, *(random_prices(instance, rng) for _ in range(3))):
        linear = float((demand.used * prices).sum() + (demand.held * capacity).sum())
        assert items.evaluate(prices, capacity)[0] <= linear + 1e-9
    assert value == pytest.approx(float((demand.used * here[0]).sum() + (demand.held * here[1]).sum()))


def sampled(granularity: int) -> Instance:
    """An instance of 12 units, the last of which is not full."""
    rng = np.random.default_rng(granularity)
    reads = RandomSwap(layers=2, prefill_tokens=700, decode_steps=12, variation=0.3)
    rules: dict[str, Any] = {"tiers": 3, "copies": "exclusive", "migration": "prefetch", "initial": "free"}
    some = tiny_instance(rng, **rules, granularity=granularity)
    return Instance("sampled", some.memory, Llm("two layers", 2, 1, 0, 1.0), some.rules, reads)


@pytest.mark.parametrize("stride", [2, 3, 8])
@pytest.mark.parametrize("granularity", [1, 3, 16])
def test_units_from_all_offsets_make_up_all_items(stride: int, granularity: int) -> None:
    instance = sampled(granularity)
    prices, capacity = random_prices(instance, np.random.default_rng(stride))
    whole = MultiTierPaths(instance, lanes(instance)).evaluate(prices, capacity)[0]
    parts, taken = 0.0, []
    for offset in range(stride):
        one = Lanes.of(instance, slice(None), np.full(instance.layers, offset), stride)
        taken.append(one.blocks[0][one.born[0] != PADDING])
        parts += MultiTierPaths(instance, one).evaluate(prices, capacity)[0]
    assert np.array_equal(np.sort(np.concatenate(taken)), np.arange(instance.blocks))
    assert parts == pytest.approx(whole)


@pytest.mark.parametrize("stride", [1, 2, 3, 5, 7, 8, 20])
@pytest.mark.parametrize("granularity", [1, 3, 16])
def test_samples_are_unbiased(stride: int, granularity: int) -> None:
    """Every unit has the same probability, whether the stride divides their number or not."""
    instance = sampled(granularity)
    prices, capacity = random_prices(instance, np.random.default_rng(stride))
    value, demand = MultiTierPaths(instance, lanes(instance)).evaluate(prices, capacity)
    assert demand is not None
    count = count_spans(instance)
    values, held = [], []
    for first in range(count):
        given = Mock(np.random.Generator)
        given.integers.return_value = np.full((instance.layers, 1), first)
        drawn = Lanes.sample(instance, stride, given)
        one, asked = MultiTierPaths(instance, drawn).evaluate(prices, capacity)
        assert asked is not None
        values.append(one)
        held.append(asked.held)
    assert np.mean(values) == pytest.approx(value)
    assert np.mean(held, axis=0) == pytest.approx(demand.held)


@pytest.mark.parametrize("size", [1, 3, 7, 60, 100, 2**20 - 1])
@pytest.mark.parametrize("copies", ["inclusive", "exclusive"])
def test_blocks_of_any_size_need_no_more_words_than_the_trace(size: int, copies: str) -> None:
    """They need not fill whole words, and may reach beyond the last token."""
    rng = np.random.default_rng(size)
    base = tiny_instance(rng, tiers=3, copies=copies, migration="prefetch", granularity=1)
    reads = RandomSwap(layers=base.layers, prefill_tokens=70, decode_steps=12, variation=0.3)
    roomy = tuple(
        dataclasses.replace(t, capacity=None if k == 2 else size * 10**4)
        for k, t in enumerate(base.memory.tiers)
    )
    memory = dataclasses.replace(base.memory, tiers=roomy)
    instance = dataclasses.replace(base, workload=reads, memory=memory).with_rules(granularity=size)
    made = lanes(instance)
    assert made.rows.shape[-1] == instance.trace.words(0).shape[1]
    prices, capacity = random_prices(instance, rng)
    capacity[-1] = 0
    plain, compiled = (MultiTierPaths(instance, made, kernel) for kernel in ("numpy", "numba"))
    (value, demand), (found, used) = (each.evaluate(prices, capacity) for each in (plain, compiled))
    assert found == pytest.approx(value, rel=1e-12)
    assert demand is not None
    assert used is not None
    np.testing.assert_allclose(used.used, demand.used)
    np.testing.assert_allclose(used.held, demand.held)
    assert demand.used[: instance.tiers].sum() == instance.trace.past_counts().sum()
