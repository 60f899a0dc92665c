"""Schedules of dense reads keep the rules, and come near the bound."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kvbound as kv
from kvbound.checker import check
from kvbound.cost.evaluate import evaluate
from kvbound.instance import Instance
from kvbound.solvers.dense import fill
from kvbound.workloads import from_mapping
from tests.dense_cases import dense_instance, feasible, long_run, with_bits


@given(st.integers(0, 2**32 - 1))
def test_the_checker_accepts_them(seed: int) -> None:
    rng = np.random.default_rng(seed)
    instance = dense_instance(rng, tiers=int(rng.integers(2, 5)), granularity=1)
    if not fill.supports(instance) or not feasible(instance):
        return
    for schedule in fill.schedules(instance):
        measures = evaluate(instance, schedule)
        assert evaluate(with_bits(instance), schedule) == measures
        arrays = schedule.arrays(instance_sha256=instance.sha256, tokens=instance.tokens)
        assert check(instance.expanded(), None, arrays, claimed_s=measures.time_s).problems == ()


def best(instance: Instance) -> float:
    return min(evaluate(instance, schedule).time_s for schedule in fill.schedules(instance))


@pytest.mark.parametrize("tiers", [2, 3])
@pytest.mark.parametrize("copies", ["inclusive", "exclusive"])
@pytest.mark.parametrize("migration", ["none", "on-read", "prefetch"])
def test_they_are_near_the_bound(tiers: int, copies: str, migration: str) -> None:
    instance = long_run(steps=400, tiers=tiers, copies=copies, migration=migration)
    bound = kv.bound(instance, time_limit=10, work=1500).time_s
    assert bound is not None
    assert bound <= best(instance) <= bound * (1.01 if tiers == 2 else 1.02)  # half a token is 1 % of a tier


def test_room_that_ends_free_is_filled_again() -> None:
    shape = {"kind": "dense", "layers": 2, "prefill_tokens": 60, "decode_steps": 40}
    spec = from_mapping(shape | {"batch": 4, "arrivals": [0, 9, 30, 60]})
    instance = dataclasses.replace(long_run(layers=2, room=0.2, migration="on-read"), workload=spec)
    still, moving = (evaluate(instance, schedule).time_s for schedule in fill.schedules(instance))
    assert moving < still
    only = instance.with_rules(migration="none")
    assert [evaluate(only, schedule).time_s for schedule in fill.schedules(only)] == [still]


def test_a_tier_whose_latency_exceeds_its_gain_is_left_alone() -> None:
    instance = long_run(steps=50, tiers=3, room=5.0, copies="exclusive")
    fast, middle, slow = instance.memory.tiers
    late = dataclasses.replace(middle, latency=1.0)
    memory = dataclasses.replace(instance.memory, tiers=(fast, late, slow))
    (schedule,) = fill.schedules(dataclasses.replace(instance, memory=memory))
    used = {int(tier) for events in schedule.events for tier in events.tier}
    assert used | set(schedule.initial.ravel().tolist()) == {0, 2}


def test_pricing_uses_them() -> None:
    instance = long_run(steps=120, copies="exclusive", migration="none")
    result = kv.solve(instance, "pricing", work=300)
    assert result.time_s is not None
    assert result.time_s <= best(instance)
    assert result.gap is not None
    assert result.gap < 0.01
