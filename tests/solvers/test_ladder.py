"""The ladder from the ideal over every bound to the optimum and the policies, and where bounds coincide."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import highspy
import numpy as np
import pytest
from numpy.typing import NDArray

import kvbound as kv
from kvbound.bitsets.lanes import Lanes
from kvbound.cost.evaluate import evaluate
from kvbound.cost.ideal import ideal
from kvbound.cost.slot import SlotCost
from kvbound.instance import Instance
from kvbound.models.time_indexed import TimeIndexed
from kvbound.policies import POLICIES
from kvbound.solvers.lagrangian.bound import solve_dual
from kvbound.solvers.lagrangian.evaluation import item_subproblem
from kvbound.solvers.lagrangian.subproblem import limited_tiers
from kvbound.solvers.mip.highs import highs_program
from kvbound.solvers.reference.brute_force import solve_brute
from tests.strategies import (
    random_schedule,
    rule_combinations,
    tiny_instance,
    with_experts,
    with_formats,
    with_free_writes,
    with_layers,
    with_overlap,
    with_placeable_weights,
)

Floats = NDArray[np.float64]
CLOSE = 1e-7


def has_latency(instance: Instance) -> bool:
    return any(tier.latency for tier in instance.memory.tiers)


def bound(instance: Instance, method: str, **options: Any) -> float:
    """Return the bound of a method without a schedule."""
    if method == "dual":
        found = solve_dual(instance, iterations=60, kernel="numpy", **options)[0]
    else:
        found = kv.solve(instance, method, **options).bound
    assert found.time_s is not None
    return found.time_s


def ladder(instance: Instance, rng: np.random.Generator) -> None:
    """ideal <= plain LP <= LP with count cuts <= MIP optimum = brute force <= any schedule.

    The dual is between ideal and optimum, the plain one below the plain LP.
    """
    brute, exact = solve_brute(instance), kv.solve(instance, "exact", gap=1e-7)
    assert brute.time_s is not None
    assert exact.time_s == pytest.approx(brute.time_s, rel=CLOSE)
    assert exact.termination.reason == "done"
    duals = [bound(instance, "dual", integer_counts=whole) for whole in (False, True)]
    plain, cut = (bound(instance, "relax", cuts=cuts) for cuts in (False, True))
    steps = [ideal(instance), plain, cut, brute.time_s]
    assert all(low <= high * (1 + CLOSE) for low, high in pairwise(steps)), steps
    for dual in duals:
        assert ideal(instance) * (1 - 1e-9) <= dual <= brute.time_s * (1 + 1e-12)
    if not has_latency(instance):  # which the relaxation pays in part
        assert duals[0] <= plain * (1 + CLOSE)
    found = {name: kv.simulate(instance, name).time_s for name in POLICIES}
    found |= {f"random {n}": evaluate(instance, random_schedule(rng, instance)).time_s for n in range(3)}
    for name, time in found.items():
        assert time is not None
        assert time >= brute.time_s * (1 - 1e-12), name


@pytest.mark.parametrize("rules", rule_combinations(), ids=lambda rules: "-".join(map(str, rules.values())))
def test_under_every_rule(rules: dict[str, object]) -> None:
    rng = np.random.default_rng(list("-".join(map(str, rules.values())).encode()))
    for _ in range(2):
        ladder(tiny_instance(rng, **rules), rng)  # type: ignore[arg-type]


@pytest.mark.parametrize("number", range(48))
def test_with_births_ends_and_other_formats(number: int) -> None:
    rng = np.random.default_rng([1, number])
    rules = rule_combinations()[2 * number + int(rng.integers(2))]
    instance = tiny_instance(rng, batch=True, **rules)
    ladder(with_formats(rng, instance) if number % 2 else instance, rng)


@pytest.mark.parametrize("number", range(48))
def test_with_layers_that_differ(number: int) -> None:
    rng = np.random.default_rng([3, number])
    rules = rule_combinations()[2 * number + int(rng.integers(2))]
    instance = with_layers(rng, tiny_instance(rng, layers=2, batch=bool(rng.integers(2)), **rules))
    instance = with_formats(rng, instance) if number % 3 == 0 else instance
    ladder(with_overlap(rng, instance), rng)


@pytest.mark.parametrize("number", range(32))
def test_with_weights_that_may_be_placed(number: int) -> None:
    rng = np.random.default_rng([4, number])
    agree(small_with_weights(rng))


@pytest.mark.parametrize("number", range(48))
def test_with_experts_that_slots_name(number: int) -> None:
    rng = np.random.default_rng([5, number])
    rules = rule_combinations()[2 * number + int(rng.integers(2))]
    agree(small_with_weights(rng, experts=True, **rules))


def small_with_weights(rng: np.random.Generator, *, experts: bool = False, **rules: Any) -> Instance:
    """Return an instance with placeable weights that brute force can enumerate."""
    while True:
        instance = tiny_instance(rng, batch=bool(rng.integers(2)), **rules)
        placed = with_placeable_weights(rng, instance)
        placed = with_experts(rng, placed) if experts else placed
        chunks = int(placed.chunks.exist.sum())
        if instance.tiers ** (2 * (instance.layers * instance.blocks + chunks)) <= 2**21:
            return placed


@pytest.mark.slow
@pytest.mark.parametrize("start", range(0, 300, 20))
def test_every_method_and_the_checker_agree_on_what_is_placed(start: int) -> None:
    """With batches, and by turns formats, layers that differ, both, and weights; two to four tiers."""
    for number in range(start, start + 20):
        rng = np.random.default_rng([2, number])
        if number % 5 == 4:
            agree(small_with_weights(rng, experts=bool(number % 2)))
            continue
        instance = tiny_instance(rng, tiers=2 + number % 3, layers=1 + number % 5 // 2, batch=True)
        if number % 5 > 1:
            instance = with_layers(rng, instance)
        agree(with_formats(rng, instance) if number % 2 else instance)


def agree(instance: Instance) -> None:
    """Brute force = program <= every schedule; certificate <= optimum; the checker accepts all of them."""
    brute, exact = solve_brute(instance), kv.solve(instance, "exact", gap=1e-7)
    assert brute.time_s is not None
    assert exact.time_s == pytest.approx(brute.time_s, rel=CLOSE)
    bound, certificate = solve_dual(instance, iterations=60, kernel="numpy")
    assert bound.time_s is not None
    assert bound.time_s <= brute.time_s * (1 + 1e-12)
    assert kv.check(instance, certificate).ok
    found = [brute, exact, *(kv.solve(instance, name, work=40) for name in ("pricing", "anneal"))]
    for result in [*found, kv.simulate(instance, "belady"), kv.simulate(instance, "lru")]:
        report = kv.check(instance, result)
        assert report.ok, (result.method, report.problems)
        assert (result.time_s or 0.0) >= brute.time_s * (1 - CLOSE)


@pytest.mark.parametrize("number", range(0, 96, 4))
def test_with_tiers_that_cost_nothing_to_write(number: int) -> None:
    rng = np.random.default_rng(number)
    rules = rule_combinations()[number + int(rng.integers(4))]
    instance = with_free_writes(rng, tiny_instance(rng, **rules))
    ladder(instance, rng)
    optimum = solve_brute(instance).time_s
    assert optimum is not None
    for method in ("pricing", "anneal"):
        found = kv.solve(instance, method, work=5)
        assert kv.check(instance, found).ok
        assert found.time_s is not None
        assert (found.bound.time_s or 0) <= optimum * (1 + CLOSE) <= found.time_s * (1 + 3 * CLOSE)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_on_more(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(40):
        ladder(tiny_instance(rng), rng)


def relaxed(instance: Instance) -> tuple[float, Floats, Floats]:
    """Solve the plain time-indexed LP: its value, and its prices of facets and of capacity, in seconds.

    Returns
    -------
    Value; weights of the facets (V, steps, layers); price of a block's capacity (K, 1 + steps * layers).
    """
    form = TimeIndexed(instance, cuts=False)
    lp = highs_program(form.matrix, integer=False)
    free = np.array(form.matrix.lower)
    free[form.time] = 0  # that no slot beats its ideal is no row of the dual
    lp.col_lower_ = free
    highs = highspy.Highs()
    highs.setOptionValue("output_flag", False)
    highs.passModel(lp)
    assert highs.run() == highspy.HighsStatus.kOk
    weights = np.zeros((len(form.coefficients.facets), instance.decode_steps, instance.layers))
    capacity = np.zeros((instance.tiers, 1 + instance.slots))
    for name, price in zip(form.matrix.row_names(), highs.getSolution().row_dual, strict=True):
        family, keys = name.rstrip("]").split("[")
        key = [int(part) for part in keys.split(",")]
        if family == "facet":
            weights[key[2], key[0], key[1]] = price
        elif family == "room":
            capacity[key[1], 1 + key[0]] = -price
        elif family == "rest":
            capacity[-1, 1 + key[0]] = price
    return highs.getObjectiveValue() * form.unit_s, weights, capacity * form.unit_s


def plain_dual(instance: Instance, weights: Floats, capacity: Floats) -> float:
    """Return the dual value of facet weights and capacity prices, where counts need not be integers."""
    cost, tiers, size = SlotCost.of(instance), instance.tiers, instance.unit_sizes[0]
    reads = instance.read_counts()
    base = np.zeros((*reads.shape, 3 * tiers))  # everything read in tier 0
    base[..., 0], base[..., tiers] = reads * size, instance.llm.weight_reads
    base[..., -1] = size if instance.inclusive else 0
    slots = float((np.moveaxis(weights, 0, -1) * (base @ cost.facets.T)).sum())
    beta = size * cost.facets
    beta[:, :tiers] -= beta[:, :1]
    if instance.inclusive:
        beta[:, -1] = 0
    prices, everyone = np.tensordot(beta.T, weights, 1), np.zeros(instance.layers, np.int64)
    lanes = Lanes.of(instance, slice(None), everyone)
    items = item_subproblem(instance, lanes, "numpy", 1).evaluate(prices, capacity, demand=False)[0]
    return (
        slots
        + items
        - sum(float(instance.capacity_units[k] or 0) * capacity[k].sum() for k in limited_tiers(instance))
    )


@pytest.mark.parametrize("part", range(4))
def test_from_the_relaxations_own_prices_the_plain_dual_is_the_relaxation(part: int) -> None:
    """Of 200 instances: the paths of items have integer optima, so nothing else is relaxed."""
    rng, seen = np.random.default_rng([7, part]), 0
    while seen < 50:
        instance = tiny_instance(rng)
        if has_latency(instance):
            continue
        seen += 1
        value, weights, capacity = relaxed(instance)
        assert weights.min() > -1e-9
        assert capacity.min() > -1e-9 * value
        assert weights.sum(axis=0) == pytest.approx(1)
        assert plain_dual(instance, weights, capacity) == pytest.approx(value, rel=1e-6)
