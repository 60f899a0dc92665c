"""Relations that hold for every cost, and the ideal as a lower bound."""

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvbound.cost.evaluate import evaluate, slot_times, utilisation
from kvbound.cost.ideal import ideal, ideal_slot_times
from kvbound.cost.traffic import schedule_traffic
from kvbound.identity import identify
from kvbound.instance import Instance
from kvbound.instance_io import make_instance
from kvbound.rules import Copies, Timing
from kvbound.schedule import LayerEvents, Schedule
from kvbound.simulation import simulate
from kvbound.solvers.reference.brute_force import solve_brute
from kvbound.trace import Trace
from kvbound.workloads import RandomSwap
from tests.cost_cases import random_schedule, toy
from tests.policies.cases import medium_instance
from tests.strategies import tiny_instance

seeds = st.integers(0, 2**32 - 1)


def scaled(instance: Instance, factor: float) -> Instance:
    """The instance with all bandwidths multiplied, and without latencies."""
    tiers = tuple(dataclasses.replace(tier, latency=0.0) for tier in instance.memory.tiers)
    rates = {name: factor * rate for name, rate in instance.memory.resources.items()}
    return dataclasses.replace(
        instance, memory=dataclasses.replace(instance.memory, resources=rates, tiers=tiers)
    )


def busy_shares(instance: Instance, schedule: Schedule) -> dict[str, float]:
    """Utilisation, even if the schedule exceeds capacities."""
    return utilisation(
        instance, schedule_traffic(instance, schedule), float(slot_times(instance, schedule).sum())
    )


@given(seeds, st.sampled_from([0.125, 0.5, 2.0, 1024.0]))
@settings(max_examples=40, deadline=None)
def test_bandwidth_scales_time(seed: int, factor: float) -> None:
    rng = np.random.default_rng(seed)
    instance = medium_instance(rng)
    schedule = random_schedule(rng, instance)
    one, other = scaled(instance, 1.0), scaled(instance, factor)
    np.testing.assert_allclose(slot_times(one, schedule), factor * slot_times(other, schedule), rtol=1e-12)
    assert ideal(one) == pytest.approx(factor * ideal(other), rel=1e-12)


@given(seeds, st.sampled_from([0.5, 2.0, 1024.0]))
@settings(max_examples=40, deadline=None)
def test_scaling_all_bandwidths_keeps_the_utilisation(seed: int, factor: float) -> None:
    rng = np.random.default_rng(seed)
    instance = medium_instance(rng)
    schedule = random_schedule(rng, instance)
    one, other = (busy_shares(scaled(instance, by), schedule) for by in (1.0, factor))
    assert one == pytest.approx(other, rel=1e-9)


@given(seeds, st.sampled_from(Timing))
@settings(max_examples=40, deadline=None)
def test_utilisation_adds_up(seed: int, timing: Timing) -> None:
    """Serial: the shares add up to 1. Parallel: each is at most 1, and they add up to at least 1."""
    rng = np.random.default_rng(seed)
    instance = scaled(medium_instance(rng), 1.0).with_rules(timing=timing)
    found = busy_shares(instance, random_schedule(rng, instance))
    assert list(found) == list(instance.memory.resources)
    shares = list(found.values())
    assert min(shares) >= 0
    assert max(shares) <= 1
    assert sum(shares) == pytest.approx(1) if timing is Timing.SERIAL else sum(shares) >= 1 - 1e-12


@given(seeds)
@settings(max_examples=40, deadline=None)
def test_more_bandwidth_is_never_slower(seed: int) -> None:
    rng = np.random.default_rng(seed)
    instance = medium_instance(rng)
    schedule = random_schedule(rng, instance)
    rates = {n: b * rng.choice([1.0, 1.0, 3.0]) for n, b in instance.memory.resources.items()}
    faster = dataclasses.replace(instance, memory=dataclasses.replace(instance.memory, resources=rates))
    assert np.all(slot_times(faster, schedule) <= slot_times(instance, schedule) * (1 + 1e-12))
    assert np.all(ideal_slot_times(faster) <= ideal_slot_times(instance) * (1 + 1e-12))


@given(seeds, st.integers(1, 16))
@settings(max_examples=40, deadline=None)
def test_the_first_steps_cost_the_same_in_a_longer_trace(seed: int, steps: int) -> None:
    rng = np.random.default_rng(seed)
    instance = medium_instance(rng)
    schedule, steps = random_schedule(rng, instance), min(steps, instance.decode_steps)
    head = dataclasses.replace(instance, workload=instance.trace.head(steps))
    cut = tuple(
        LayerEvents(e.step[e.step < steps], e.token[e.step < steps], e.tier[e.step < steps])
        for e in schedule.events
    )
    times = slot_times(instance, schedule)
    np.testing.assert_allclose(slot_times(head, Schedule(schedule.initial, cut)), times[:steps], rtol=1e-14)
    assert ideal(head) <= ideal(instance)


@given(seeds)
@settings(max_examples=40, deadline=None)
def test_prompt_tokens_may_be_permuted(seed: int) -> None:
    """Permuting the prompt tokens in trace and schedule does not change the cost."""
    rng = np.random.default_rng(seed)
    instance = medium_instance(rng, granularity=1)
    schedule, prefill = random_schedule(rng, instance), instance.prefill_tokens
    rename = np.concatenate([rng.permutation(prefill), np.arange(prefill, instance.tokens)])
    reads = [
        [rename[instance.trace.listed(step, layer)] for layer in range(instance.layers)]
        for step in range(instance.decode_steps)
    ]
    renamed = dataclasses.replace(instance, workload=Trace.from_lists(prefill, reads))
    initial = np.empty_like(schedule.initial)
    initial[:, rename[:prefill]] = schedule.initial
    events = tuple(LayerEvents.of(e.step, rename[e.token], e.tier) for e in schedule.events)
    expected = slot_times(instance, schedule)
    np.testing.assert_allclose(slot_times(renamed, Schedule(initial, events)), expected, rtol=1e-14)


@given(seeds)
@settings(max_examples=40, deadline=None)
def test_a_move_within_its_tier_has_no_effect(seed: int) -> None:
    instance = medium_instance(np.random.default_rng(seed))
    schedule = simulate(instance, "static").schedule
    assert schedule is not None
    parts = []
    for layer, events in enumerate(schedule.events):
        moves = []
        for step, token, tier in zip(events.step, events.token, events.tier, strict=True):
            if instance.prefill_tokens:
                moves.append((step, 0, schedule.initial[layer, 0]))
            moves.append((step, token, tier))
        parts.append(LayerEvents.of(*zip(*moves, strict=True)))
    assert evaluate(instance, Schedule(schedule.initial, tuple(parts))) == evaluate(instance, schedule)


@given(seeds)
@settings(max_examples=60, deadline=None)
def test_ideal_is_below_every_schedule_slot_by_slot(seed: int) -> None:
    rng = np.random.default_rng(seed)
    instance = medium_instance(rng)
    times = slot_times(instance, random_schedule(rng, instance))
    assert np.all(ideal_slot_times(instance) <= times * (1 + 1e-12))


@given(seeds)
@settings(max_examples=40, deadline=None)
def test_the_ideal_is_below_the_optimum_and_the_optimum_below_every_policy(seed: int) -> None:
    instance = tiny_instance(np.random.default_rng(seed))
    found: Any = solve_brute(instance)
    optimum = found.time_s
    assert ideal(instance) <= optimum * (1 + 1e-9)
    for policy in ("static", "lru", "belady", "lookahead-one"):
        assert optimum <= (simulate(instance, policy).time_s or 0.0) * (1 + 1e-9)


@pytest.mark.parametrize("timing", Timing)
def test_ideal_of_two_inclusive_tiers_is_everything_in_the_first(timing: Timing) -> None:
    trace = {"prefill_tokens": 20, "reads": [[list(range(20))], [list(range(5))], [[]]]}
    instance = toy(trace=trace, rules={"timing": timing}, capacity=1000)
    schedule = Schedule(np.zeros((1, 20), np.uint8), (LayerEvents.of([0, 1, 2], [20, 21, 22], [1, 1, 1]),))
    np.testing.assert_allclose(ideal_slot_times(instance), slot_times(instance, schedule), rtol=1e-12)


def test_ideal_of_the_paper_is_reads_over_both_bandwidths() -> None:
    """GH200: reads and weights over HBM and the link, where writes do not bind."""
    spec = RandomSwap(layers=32, prefill_tokens=30_000, decode_steps=3)
    instance = make_instance("t", memory="gh200-144", llm="llama-3.1-8b-mha", trace=spec)
    bytes_read = instance.read_counts() * 16384 + instance.llm.weight_reads
    assert "trace" not in vars(instance)
    assert instance.memory.resources["hbm"] == 4900e9
    np.testing.assert_allclose(ideal_slot_times(instance), bytes_read / 5350e9, rtol=1e-12)


@pytest.mark.parametrize("copies", Copies)
def test_identity(copies: Copies) -> None:
    instance = toy(rules={"copies": copies})
    about = identify(instance)
    assert json.loads(json.dumps(about.to_json())) == {
        "name": "toy", "sha256": instance.sha256, "layers": 1, "prefill_tokens": 3, "decode_steps": 2,
        "reads": 5,
    }  # fmt: skip
    assert identify(instance, with_trace=False).sha256 is None
