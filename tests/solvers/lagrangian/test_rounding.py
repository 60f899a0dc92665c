"""Rounding: multipliers come back from a certificate, and the ideal time has one."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kvbound.certificate import FULL, Certificate
from kvbound.checker import check
from kvbound.cost.evaluate import slot_times
from kvbound.cost.ideal import ideal
from kvbound.instance import Instance
from kvbound.llm.model import Llm
from kvbound.memory import Memory, Tier
from kvbound.rules import Rules, Timing
from kvbound.solvers.lagrangian.ascent import Multipliers
from kvbound.solvers.lagrangian.bound import maximize_dual
from kvbound.solvers.lagrangian.evaluation import evaluate_certificate, prove
from kvbound.solvers.lagrangian.rounding import ideal_certificate, recover_multipliers
from kvbound.solvers.lagrangian.slots.bounds import beyond_room, slot_bounds
from kvbound.solvers.lagrangian.slots.minorants import SlotMinorants
from kvbound.solvers.reference.brute_force import find_optimum
from kvbound.trace import Trace
from tests.cost_cases import item_counts
from tests.solvers.lagrangian.cases import swaps
from tests.strategies import layered_instances, random_schedule, tiny_instances, with_overlap

Floats = NDArray[np.float64]


@pytest.mark.parametrize(
    "rules", [{}, {"migration": "prefetch", "copies": "exclusive"}, {"timing": "serial"}]
)
def test_multipliers_are_recovered_from_a_certificate(rules: dict[str, Any]) -> None:
    instance = swaps(100, 12, **rules)
    first = maximize_dual(instance, iterations=100).certificate
    again = prove(instance, Multipliers(*recover_multipliers(instance, SlotMinorants.of(instance), first)))
    assert again.bound_s == pytest.approx(first.bound_s, rel=1e-6)


def with_room(instance: Instance) -> Instance:
    """Return the instance with room for everything in every tier, which its ideal does not depend on."""
    tiers = tuple(replace(tier, capacity=10**6) for tier in instance.memory.tiers)
    return replace(instance, memory=replace(instance.memory, tiers=tiers))


@given(tiny_instances())
@settings(max_examples=25)
def test_the_ideal_certificate_proves_the_ideal_time(instance: Instance) -> None:
    """It proves more where tiers have no room for what slots read."""
    certificate = ideal_certificate(instance)
    assert certificate.bound_s >= ideal(instance) * (1 - 1e-9)
    assert certificate.bound_s <= find_optimum(instance).time_s * (1 + 1e-12)
    assert check(instance.expanded(), instance.trace.rows, certificate.arrays()).ok
    assert ideal_certificate(with_room(instance)).bound_s == pytest.approx(ideal(instance), rel=1e-9)


@given(tiny_instances(batch=True))
@settings(max_examples=25)
def test_it_claims_the_ideal_time_where_tokens_come_and_go(instance: Instance) -> None:
    bound_s, optimum = ideal_certificate(instance).bound_s, find_optimum(instance).time_s
    assert ideal(instance) * (1 - 1e-9) <= bound_s <= optimum * (1 + 1e-12)
    assert ideal_certificate(with_room(instance)).bound_s == pytest.approx(ideal(instance), rel=1e-9)


def any_certificate(rng: np.random.Generator, instance: Instance, scale: int, prices: Floats) -> Certificate:
    """Return a certificate of random weights and splits with these prices in seconds; it claims nothing."""
    timed = instance.decode_steps, 1 if instance.by_step else instance.layers
    divided = not instance.inclusive and rng.random() < 0.7
    sets = 1 << sum(tier.latency > 0 for tier in instance.memory.tiers)
    theta = rng.random((sets * (4 if divided else 2), len(instance.memory.resources), *timed))
    if instance.rules.timing is Timing.PARALLEL:
        theta /= theta.sum(axis=1, keepdims=True)
    return Certificate(
        instance.sha256,
        bound_s=0.0,
        scale=scale,
        capacity=np.zeros((instance.tiers, 1 + instance.slots), np.int64),
        prices=(prices * 2.0**scale).astype(np.int64),
        tier=int(rng.integers(instance.tiers)),
        whole=rng.integers(-1, instance.tokens + 1, timed),
        theta=np.floor(theta * FULL).astype(np.int64),
        whole_writes=rng.integers(-1, instance.tokens + 1, timed) if divided else None,
    )


def counts_of(instance: Instance) -> tuple[int, ...]:
    return 3 * instance.tiers, instance.decode_steps, instance.layers


@given(tiny_instances() | tiny_instances(batch=True) | layered_instances(), st.integers(0, 2**32 - 1))
@settings(max_examples=80)
def test_no_slot_takes_less_than_its_bound_at_any_prices(instance: Instance, seed: int) -> None:
    rng = np.random.default_rng(seed)
    instance = with_overlap(rng, instance)
    certificate = any_certificate(rng, instance, 20, rng.normal(0.2, 1, counts_of(instance)))
    schedule = random_schedule(rng, instance)
    times = slot_times(instance, schedule)
    paid = (certificate.prices * item_counts(instance, schedule)).sum(axis=0)
    net = times * 2.0**20 - instance.timed(paid)
    assert np.all(slot_bounds(instance, certificate)[0] <= net + 1e-6 * (1 + abs(net)))


@given(tiny_instances() | tiny_instances(batch=True) | layered_instances(), st.integers(0, 2**32 - 1))
@settings(max_examples=150)
def test_the_claim_is_what_the_checker_proves_at_any_prices(instance: Instance, seed: int) -> None:
    """Whichever tiers serve reads in a case: none but the split's, or all others."""
    rng = np.random.default_rng(seed)
    latency = rng.choice([0.0, 0.25, 4.0], instance.tiers)
    late = (replace(t, latency=float(x)) for t, x in zip(instance.memory.tiers, latency, strict=True))
    instance = with_overlap(rng, replace(instance, memory=replace(instance.memory, tiers=tuple(late))))
    prices = np.abs(rng.normal(0.0, 0.1, counts_of(instance)))  # of both kernels' paths none is below 0
    prices *= rng.random(prices.shape) < 0.5
    certificate = any_certificate(rng, instance, 40, prices)
    if rng.random() < 0.5:
        shape = int((latency > 0).sum()), *counts_of(instance)[1:], instance.blocks
        certificate = replace(certificate, shares=rng.integers(0, 1 << 39, shape))
    claimed = evaluate_certificate(instance, certificate, "numpy").bound_s
    report = check(instance.expanded(), instance.token_trace.arrays, certificate.arrays())
    assert report.bound_s is not None
    assert max(report.bound_s, 0.0) == pytest.approx(claimed, rel=1e-6, abs=1e-6)


def test_what_has_no_room_in_other_tiers_is_read_at_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tier 0 has room for two of three items, so that every slot waits for the other tier."""
    tiers = (Tier("near", 2, ("a",), ("a",)), Tier("far", None, ("b",), ("b",), latency=100.0))
    instance = Instance(
        "forced",
        Memory("m", {"a": 1.0, "b": 1.0}, tiers),
        Llm("one", 1, 1, 0, 0),
        Rules(),
        Trace.from_lists(3, [[[0, 1, 2]], [[0, 1, 2]]]),
    )
    reads = instance.read_counts()
    least, fits = beyond_room(instance, reads, 1, np.array([True, True]))
    assert least.tolist() == [[1], [1]]
    assert fits.all()
    assert not beyond_room(instance, reads, 1, np.array([True, False]))[1].any()
    assert prove_from(instance) >= 200
    monkeypatch.setattr(
        "kvbound.solvers.lagrangian.slots.bounds.beyond_room",
        lambda instance, reads, slow, reading: (np.zeros((2, 1)), np.ones((2, 1), bool)),
    )
    assert prove_from(instance) < 200


def prove_from(instance: Instance) -> float:
    return maximize_dual(instance, work=100).certificate.bound_s
