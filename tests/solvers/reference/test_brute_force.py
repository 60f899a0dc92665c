"""Brute force: its schedules are valid and take the time it reports, and no valid schedule is faster."""

import dataclasses
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvbound.checker import check
from kvbound.cost.evaluate import evaluate
from kvbound.cost.ideal import ideal
from kvbound.cost.slot import SlotCost
from kvbound.errors import InfeasibleError, UsageError
from kvbound.instance import Instance
from kvbound.llm.model import Llm
from kvbound.memory import Memory, Tier
from kvbound.result import Status
from kvbound.rules import Rules
from kvbound.schedule import Schedule, from_tiers
from kvbound.solvers.reference.brute_force import Optimum, find_optimum, solve_brute
from kvbound.solvers.reference.slot_times import slot_times
from kvbound.trace import Trace
from tests.strategies import random_schedule, rule_combinations, tiny_instance


def verify(instance: Instance, optimum: Optimum) -> None:
    slot, item, tier = optimum.schedule.flat(instance.tokens)
    arrays = {
        "schema": np.array("kvbound.schedule/1"), "instance_sha256": np.array(instance.sha256),
        "initial": optimum.schedule.initial, "slot": slot, "item": item, "tier": tier,
    }  # fmt: skip
    report = check(instance.expanded(), instance.trace.rows, arrays, claimed_s=optimum.time_s)
    assert report.problems == ()


@pytest.mark.parametrize("combination", range(len(rule_combinations())))
def test_the_checker_accepts_the_optimum_and_random_schedules_are_no_faster(combination: int) -> None:
    rules = rule_combinations()[combination]
    for seed in range(2):
        rng = np.random.default_rng([combination, seed])
        instance = tiny_instance(rng, **rules)
        optimum = find_optimum(instance)
        verify(instance, optimum)
        assert optimum.time_s >= ideal(instance) * (1 - 1e-12)
        for _ in range(5):
            other = random_schedule(rng, instance, restless=rng.random())
            assert optimum.time_s <= evaluate(instance, other).time_s * (1 + 1e-12)


@pytest.mark.parametrize("tiers", [2, 3])
@pytest.mark.parametrize("timing", ["parallel", "serial"])
def test_its_slot_times_are_those_of_the_cost_model_with_and_without_births(tiers: int, timing: str) -> None:
    """Without births, nothing but reads that it serves for others touches the last tier."""
    rng = np.random.default_rng(tiers)
    for _ in range(40):
        instance = tiny_instance(rng, tiers=tiers, timing=timing, copies="inclusive")
        loads = rng.integers(0, 30, (10, 3, tiers)) * (rng.random((10, 3, tiers)) < 0.7)
        loads[:5, :, -1] = 0
        times = SlotCost.of(instance).times(loads.reshape(10, -1).astype(float))
        assert slot_times(instance, loads.astype(float)) == pytest.approx(times, rel=1e-9)


def enumerate_all(instance: Instance) -> float:
    """Minimum time over all schedules, for one layer, blocks of one token and two tiers."""
    prefill, steps = instance.prefill_tokens, instance.decode_steps
    best, room = np.inf, instance.capacity_units[0]

    def legal(state: tuple[int, ...], after: tuple[int, ...], read: set[int]) -> bool:
        rule = instance.rules.migration
        for token, (was, now) in enumerate(zip(state, after, strict=False)):
            if was != now and (rule == "none" or (now < was and rule == "on-read" and token not in read)):
                return False
        return room is None or after.count(0) <= room

    def explore(step: int, path: list[tuple[int, ...]]) -> None:
        nonlocal best
        if step == steps:
            best = min(best, evaluate(instance, as_schedule(path)).time_s)
            return
        read = set(instance.trace.reads(step, 0).tolist())
        for after in np.ndindex(*[2] * (prefill + step + 1)):
            if legal(path[-1], after, read):
                explore(step + 1, [*path, after])

    def as_schedule(path: list[tuple[int, ...]]) -> Schedule:
        after = np.zeros((steps, prefill + steps), np.uint8)
        for step, state in enumerate(path[1:]):
            after[step, : len(state)] = state
        return from_tiers(np.array([path[0]], np.uint8), [after])

    for start in np.ndindex(*[2] * prefill):
        if room is None or start.count(0) <= room:
            explore(0, [start])
    return float(best)


@pytest.mark.parametrize("copies", ["inclusive", "exclusive"])
@pytest.mark.parametrize("migration", ["none", "on-read", "prefetch"])
def test_dynamic_programming_equals_listing_every_schedule(copies: str, migration: str) -> None:
    rng = np.random.default_rng(5)
    rates = {"fast": 9.0, "slow": 2.0, "up": 1.5}
    for _ in range(3):
        capacity = float(rng.integers(0, 5))
        tiers = (Tier("fast", capacity, ("fast",), ("fast",)), Tier("slow", None, ("slow",), ("slow", "up")))
        reads = [[np.flatnonzero(rng.random(2 + step) < 0.6)] for step in range(2)]
        rules = Rules(copies=copies, migration=migration)  # type: ignore[arg-type]
        llm = Llm("one", 1, 1, 0, float(rng.integers(0, 3)))
        instance = Instance("few", Memory("two", rates, tiers), llm, rules, Trace.from_lists(2, reads))
        assert find_optimum(instance).time_s == pytest.approx(enumerate_all(instance), rel=1e-12)


def relaxed(instance: Instance, tier: int, **changes: Any) -> Instance:
    tiers = list(instance.memory.tiers)
    tiers[tier] = dataclasses.replace(tiers[tier], **changes)
    return dataclasses.replace(instance, memory=dataclasses.replace(instance.memory, tiers=tuple(tiers)))


@given(seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=20)
def test_more_capacity_bandwidth_or_freedom_is_never_slower(seed: int) -> None:
    rng = np.random.default_rng(seed)
    instance = tiny_instance(rng, initial="free")
    time_s = find_optimum(instance).time_s
    capacity = instance.memory.tiers[0].capacity
    assert capacity is not None
    larger = relaxed(instance, 0, capacity=capacity + instance.granularity * instance.unit_sizes[0])
    rates = {name: rate * 1.5 for name, rate in instance.memory.resources.items()}
    faster = dataclasses.replace(instance, memory=dataclasses.replace(instance.memory, resources=rates))
    for better in (larger, faster):
        assert find_optimum(better).time_s <= time_s * (1 + 1e-12)
    times = [
        find_optimum(instance.with_rules(migration=rule)).time_s for rule in ("prefetch", "on-read", "none")
    ]
    assert all(a <= b * (1 + 1e-12) for a, b in pairwise(times))


@given(seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=20)
def test_a_prefix_never_costs_more_and_prompt_tokens_may_swap(seed: int) -> None:
    rng = np.random.default_rng(seed)
    instance = tiny_instance(rng, initial="free", granularity=1)
    time_s = find_optimum(instance).time_s
    prefill, steps, layers = instance.prefill_tokens, instance.decode_steps, instance.layers
    reads = [[instance.trace.reads(j, n) for n in range(layers)] for j in range(steps)]
    names = np.concatenate([rng.permutation(prefill), np.arange(prefill, prefill + steps)])
    swapped = Trace.from_lists(prefill, [[np.sort(names[ids]) for ids in row] for row in reads])
    again = find_optimum(dataclasses.replace(instance, workload=swapped)).time_s
    assert again == pytest.approx(time_s, rel=1e-12)
    if steps > 1:
        prefix = Trace.from_lists(prefill, reads[:-1])
        shorter = find_optimum(dataclasses.replace(instance, workload=prefix)).time_s
        assert shorter <= time_s * (1 + 1e-12)


@pytest.mark.parametrize("capacity", range(5))
def test_the_example_of_a_forced_fill(capacity: int) -> None:
    resources = {"fast": 1.0, "slow": 1.0, "births": 1.0}
    tiers = (Tier("fast", capacity, ("fast",), ("births",)), Tier("slow", None, ("slow",), ("births",)))
    rules = Rules("exclusive", "none", "parallel", "prefill-first")  # type: ignore[arg-type]
    trace = Trace.from_lists(4, [[[0, 1, 2, 3]]] * 3)
    instance = Instance("forced", Memory("equal", resources, tiers), Llm("unit", 1, 1, 0, 0), rules, trace)
    assert find_optimum(instance).time_s == pytest.approx([12, 9, 6, 9, 12][capacity])


def test_the_result_holds_schedule_measures_and_its_own_bound() -> None:
    instance = tiny_instance(np.random.default_rng(1))
    result = solve_brute(instance)
    assert result.status is Status.OPTIMAL
    assert result.gap == pytest.approx(0, abs=1e-12)
    assert result.schedule is not None
    assert result.time_s == evaluate(instance, result.schedule).time_s
    assert result.bound.time_s == find_optimum(instance).time_s


def test_large_instances_are_refused() -> None:
    rng = np.random.default_rng(0)
    trace = Trace.from_lists(30, [[[0]]])
    instance = dataclasses.replace(tiny_instance(rng), llm=Llm("one", 1, 1, 0, 0), workload=trace)
    with pytest.raises(UsageError, match="too many for brute force"):
        find_optimum(instance)


def test_fang2025_accounting_is_refused() -> None:
    instance = tiny_instance(np.random.default_rng(0)).with_rules(accounting="fang2025")
    with pytest.raises(UsageError, match="physical"):
        find_optimum(instance)


def test_instances_that_do_not_fit_are_infeasible() -> None:
    instance = tiny_instance(np.random.default_rng(0))
    heavy = dataclasses.replace(instance, llm=dataclasses.replace(instance.llm, weight_bytes=10**6))
    with pytest.raises(InfeasibleError):
        find_optimum(heavy)
    assert solve_brute(heavy).status is Status.INFEASIBLE
    tight = relaxed(instance.with_rules(copies="inclusive"), instance.tiers - 1, capacity=1.0)
    with pytest.raises(InfeasibleError, match=r"do not fit|no schedule fits"):
        find_optimum(tight)
