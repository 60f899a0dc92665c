"""Bandwidths, latencies and sizes many orders of magnitude apart: right results, or one-line refusals."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kvbound as kv
from kvbound.checker import check
from kvbound.cost.evaluate import MOST_SPREAD, spread
from kvbound.errors import InputError
from kvbound.instance import Instance
from kvbound.result import Bound, BoundStatus, Result, Status
from kvbound.rules import Copies, Migration, Timing
from kvbound.solvers.certify import certify
from kvbound.solvers.lagrangian.bound import maximize_dual
from kvbound.solvers.reference.brute_force import solve_brute
from tests.paths import DATA
from tests.strategies import tiny_instance

FILES = sorted((DATA / "extreme").glob("*.json"))
seeds = st.integers(0, 2**32 - 1)


def extreme_instance(rng: np.random.Generator, span: float) -> Instance:
    """Return a tiny instance whose bandwidths, and latencies if any, are up to 10**span apart."""
    instance = tiny_instance(rng)
    size, memory = int(10.0 ** rng.integers(0, 8)), instance.memory
    low = rng.uniform(-6, 18 - span)
    rates = {name: 10.0 ** (low + span * rng.choice([0, rng.random(), 1])) for name in memory.resources}
    shortest = size * instance.unit_sizes[0] / max(rates.values())
    late = rng.random() < 0.3
    tiers = tuple(
        dataclasses.replace(
            tier,
            latency=min(shortest * 10.0 ** rng.uniform(0, span), 1e9) * late,
            capacity=None if tier.capacity is None else tier.capacity * size,
        )
        for tier in memory.tiers
    )
    llm = dataclasses.replace(
        instance.llm,
        kv_bytes_per_token_layer=instance.unit_sizes[0] * size,
        weight_bytes=instance.llm.weight_bytes * size,
    )
    return dataclasses.replace(
        instance, memory=dataclasses.replace(memory, resources=rates, tiers=tiers), llm=llm
    )


def accepted(instance: Instance, result: Result) -> bool:
    """Return whether the checker accepts a result's schedule at its time."""
    assert result.schedule is not None
    slot, item, tier = result.schedule.flat(instance.tokens)
    arrays = {
        "schema": np.array("kvbound.schedule/1"),
        "instance_sha256": np.array(instance.sha256),
        "initial": result.schedule.initial,
        "slot": slot,
        "item": item,
        "tier": tier,
    }
    return check(instance.expanded(), instance.trace.rows, arrays, claimed_s=result.time_s).ok


def certified(instance: Instance) -> Bound:
    """Return a certified bound after a short ascent."""
    return certify(instance, maximize_dual(instance, iterations=100, kernel="numpy").certificate)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_policies_and_bounds_of_inputs_that_failed(path: Path) -> None:
    instance = kv.read_instance(path)
    simulated = kv.simulate(instance, "static")
    assert accepted(instance, simulated)
    bound = certified(instance)
    assert bound.status is BoundStatus.CERTIFIED
    assert simulated.time_s is not None
    assert 0 < (bound.time_s or 0) <= simulated.time_s


def test_the_time_of_a_split_between_bandwidths_far_apart() -> None:
    instance = kv.read_instance(next(path for path in FILES if path.stem == "checker-time-1e12"))
    assert kv.simulate(instance, "static").time_s == 6144


@pytest.mark.parametrize("method", ["exact", "pricing", "anneal"])
def test_tier_0_may_be_the_slowest(method: str) -> None:
    instance = kv.read_instance(next(path for path in FILES if path.stem == "slow-tier0"))
    found = kv.solve(instance, method, time_limit=5)
    assert found.time_s == pytest.approx(2)
    assert accepted(instance, found)


@given(seeds)
@settings(max_examples=15, deadline=None)
def test_no_bandwidths_make_the_checker_reject_what_is_found(seed: int) -> None:
    instance = extreme_instance(np.random.default_rng(seed), 24)
    optimum = solve_brute(instance).time_s
    assert optimum is not None
    for policy in ("static", "lru", "belady"):
        assert accepted(instance, kv.simulate(instance, policy))
    bound = certified(instance)
    assert bound.status is BoundStatus.CERTIFIED
    assert (bound.time_s or 0) <= optimum * (1 + 1e-12)


@given(seeds)
@settings(max_examples=8, deadline=None)
def test_programs_and_annealing_are_right_up_to_the_spread_that_is_refused(seed: int) -> None:
    instance = extreme_instance(np.random.default_rng(seed), 7)
    optimum = solve_brute(instance).time_s
    assert optimum is not None
    if spread(instance) > MOST_SPREAD:  # latencies add to it
        return
    relaxed = kv.solve(instance, "relax").bound.time_s
    assert (relaxed or 0) <= optimum * (1 + 1e-6)
    annealed = kv.solve(instance, "anneal", time_limit=0.5)
    assert accepted(instance, annealed)


@pytest.mark.parametrize("method", ["exact", "relax", "anneal"])
def test_a_wider_spread_is_refused_with_its_size(method: str) -> None:
    instance = kv.read_instance(next(path for path in FILES if path.stem == "not-accept"))
    with pytest.raises(InputError, match=r"at most by a factor of 1e\+08, not of 1\.0e\+18"):
        kv.solve(instance, method)


def test_the_default_takes_any_spread() -> None:
    instance = kv.read_instance(next(path for path in FILES if path.stem == "not-accept"))
    found = kv.solve(instance, time_limit=5)
    assert found.method == "pricing"
    assert found.status is Status.FEASIBLE
    assert found.bound.status is BoundStatus.CERTIFIED
    assert accepted(instance, found)


def test_a_bound_whose_terms_cancel_is_proved_and_near() -> None:
    """Exclusive and serial, without room in a tier 0 that is slower by five orders of magnitude."""
    rng = np.random.default_rng(5)
    rules: dict[str, Any] = {"copies": Copies.EXCLUSIVE, "timing": Timing.SERIAL, "migration": Migration.NONE}
    instance = tiny_instance(rng, tiers=2, **rules)
    slow, fast = (dataclasses.replace(tier, latency=0.0) for tier in instance.memory.tiers)
    tiers = (
        dataclasses.replace(
            slow, capacity=float(instance.llm.weight_bytes), reads=("bus0",), writes=("bus0",)
        ),
        dataclasses.replace(fast, capacity=None, reads=("bus1",), writes=("bus1",)),
    )
    rates = dict(instance.memory.resources) | {"bus0": 3 / 7, "bus1": 3e4}
    llm = dataclasses.replace(instance.llm, weight_read_bytes_per_layer=(0.0,) * instance.layers)
    memory = dataclasses.replace(instance.memory, resources=rates, tiers=tiers)
    instance = dataclasses.replace(instance, memory=memory, llm=llm)
    bound, optimum = certified(instance), solve_brute(instance).time_s
    assert bound.status is BoundStatus.CERTIFIED
    assert bound.time_s == pytest.approx(optimum, rel=1e-6)
