"""Bounds of dense reads: those of the bits, at most the optimum, and one price for layers that are alike."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvbound.checker import check
from kvbound.instance import Instance
from kvbound.solvers.dense import alike_layers, fill
from kvbound.solvers.dense.items import DenseItems
from kvbound.solvers.dense.paths import DensePaths
from kvbound.solvers.incumbent import evaluate_placement
from kvbound.solvers.lagrangian.bound import maximize_dual, solve_dual
from kvbound.solvers.lagrangian.evaluation import prove
from kvbound.solvers.reference.brute_force import solve_brute
from tests.dense_cases import dense_instance, feasible, long_run, with_bits

RULES: list[dict[str, Any]] = [
    {"copies": copies, "migration": migration, "timing": timing}
    for copies in ("inclusive", "exclusive")
    for migration in ("none", "on-read", "prefetch")
    for timing in ("parallel", "serial")
]


@given(st.integers(0, 2**32 - 1))
def test_multipliers_prove_what_they_prove_of_bits(seed: int) -> None:
    rng = np.random.default_rng(seed)
    instance = dense_instance(rng, tiers=int(rng.integers(2, 5)), weights=True, granularity=1)
    if not feasible(instance):
        return
    found = maximize_dual(instance, iterations=3)
    assert found.multipliers is not None
    one, other = (prove(each, found.multipliers) for each in (instance, with_bits(instance)))
    assert one.instance_sha256 == other.instance_sha256
    assert one.bound_s == pytest.approx(other.bound_s, rel=1e-9, abs=1e-12)
    assert np.array_equal(one.prices, other.prices)


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.sampled_from(RULES))
def test_bound_optimum_and_schedule_are_in_order(seed: int, rules: dict[str, Any]) -> None:
    instance = dense_instance(np.random.default_rng(seed), granularity=1, **rules)
    if not feasible(instance):
        return
    bound = solve_dual(instance, iterations=200)[0].time_s
    best = solve_brute(instance).time_s
    assert best is not None
    assert solve_brute(with_bits(instance)).time_s == best
    assert bound is not None
    assert bound <= best * (1 + 1e-9)
    for schedule in fill.schedules(instance) if fill.supports(instance) else ():
        assert evaluate_placement(instance, schedule)[0].time_s >= best * (1 - 1e-9)


def _one(instance: Instance) -> Instance:
    one = alike_layers.one_of(instance, 0)
    assert one is not None
    return one


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("initial", ["free", "prefill-first"])
def test_a_layer_s_prices_are_worth_as_much_to_all(rules: dict[str, Any], initial: str) -> None:
    instance = long_run(steps=40, tiers=3, initial=initial, **rules)
    one = _one(instance)
    single = solve_dual(one, iterations=50)[1]
    joint = alike_layers.for_all(instance, single)
    paths = [
        DensePaths(each, DenseItems.of(each)).evaluate(
            certificate.prices.astype(float), certificate.capacity.astype(float), demand=False
        )[0]
        for each, certificate in ((one, single), (instance, joint))
    ]
    if initial == "free":
        assert paths[1] == pytest.approx(instance.layers * paths[0], rel=1e-12)
    back = alike_layers.for_one(one, instance, joint)
    assert back.arrays().keys() == single.arrays().keys()
    for name in ("capacity", *single.of_slots):
        assert np.array_equal(getattr(back, name), getattr(single, name))


@pytest.mark.parametrize("rules", RULES)
def test_layers_priced_together_prove_nearly_as_much(
    rules: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = long_run(steps=40, tiers=3, **rules)
    apart = solve_dual(instance, iterations=400)[1].bound_s
    monkeypatch.setattr(alike_layers.one_of, "__defaults__", (0,))
    found = maximize_dual(instance, iterations=400)
    together = found.certificate
    assert together.bound_s >= apart * 0.98
    for schedule in fill.schedules(instance):
        assert together.bound_s <= evaluate_placement(instance, schedule)[0].time_s
    assert found.multipliers is None
    report = check(instance.expanded(), None, together.arrays())
    assert report.problems == ()
    assert report.bound_s is not None
    assert together.bound_s <= report.bound_s <= together.bound_s * (1 + 1e-9)
    few, more = (
        maximize_dual(instance, iterations=50, resume=start).certificate.bound_s for start in (None, together)
    )
    assert few < more
    assert more >= together.bound_s * 0.98


def test_layers_that_differ_are_priced_apart() -> None:
    instance = long_run(steps=5)
    assert alike_layers.one_of(instance) is None  # small
    assert alike_layers.one_of(with_bits(instance), 0) is None
    assert alike_layers.one_of(long_run(steps=5, layers=1), 0) is None
    assert alike_layers.one_of(_reading(instance, (1.0, 2.0, 1.0, 3.0)), 0) is None


def _reading(instance: Instance, weights: tuple[float, ...]) -> Instance:
    llm = dataclasses.replace(instance.llm, weight_read_bytes_per_layer=weights)
    return dataclasses.replace(instance, llm=llm)


def test_most_layers_stand_for_a_few_with_other_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    size = 4096.0
    instance = _reading(long_run(steps=60, copies="exclusive"), (80 * size, 40 * size, 40 * size, 40 * size))
    apart = solve_dual(instance, iterations=400)[1].bound_s
    monkeypatch.setattr(alike_layers.one_of, "__defaults__", (0,))
    assert _one(instance).weight_reads.tolist() == [40 * size]
    found = maximize_dual(instance, iterations=400).certificate
    report = check(instance.expanded(), None, found.arrays())
    assert report.problems == ()
    assert report.bound_s is not None
    assert apart * 0.97 <= found.bound_s <= report.bound_s
    for schedule in fill.schedules(instance):
        assert found.bound_s <= evaluate_placement(instance, schedule)[0].time_s
