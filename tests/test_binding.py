"""The parts of the ideal time add up, and the resources that bind are those that would speed it up."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kvbound as kv
from kvbound.binding import Binding, Onset, binding, schedule_parts
from kvbound.bitsets.two_tier import TwoTierSchedule
from kvbound.cost.evaluate import evaluate
from kvbound.cost.ideal import ideal
from kvbound.instance import Instance, Timing
from kvbound.report.binding import made_of, sentences, summary
from kvbound.schedule import LayerEvents, Schedule
from kvbound.solvers.reference.brute_force import solve_brute
from tests.cost_cases import toy
from tests.instance_documents import llm, tier, two_tiers
from tests.strategies import tiny_instance

seeds = st.integers(0, 2**32 - 1)


def found(instance: Instance) -> Binding:
    known = binding(instance)
    assert known is not None
    return known


def faster(instance: Instance, resource: str, factor: float) -> Instance:
    memory = instance.memory
    rates = {name: rate * (factor if name == resource else 1) for name, rate in memory.resources.items()}
    return dataclasses.replace(instance, memory=dataclasses.replace(memory, resources=rates))


@given(seeds)
@settings(max_examples=60, deadline=None)
def test_shares_add_up_to_the_ideal_time(seed: int) -> None:
    instance = tiny_instance(np.random.default_rng(seed))
    known = found(instance)
    assert known.time_s == pytest.approx(ideal(instance), rel=1e-12)
    for shares in (known.parts, known.resources):
        assert all(share >= -1e-12 for share in shares.values())
        assert sum(shares.values()) == pytest.approx(1.0)
    assert list(known.resources) == list(instance.memory.resources)


@given(seeds)
@settings(max_examples=60, deadline=None)
def test_only_what_binds_is_worth_speeding_up(seed: int) -> None:
    """A little more bandwidth saves at most that resource's share, a little less costs it at least."""
    instance = tiny_instance(np.random.default_rng(seed), timing=Timing.PARALLEL)
    known = found(instance)
    transfer = known.time_s * (1 - known.parts["latency"])
    for name, share in known.resources.items():
        step = 1e-6
        slower = ideal(faster(instance, name, 1 / (1 + step))) - known.time_s
        quicker = known.time_s - ideal(faster(instance, name, 1 + step))
        assert slower >= share * transfer * step * (1 - 1e-3) - 1e-12 * known.time_s
        assert quicker <= share * transfer * step * (1 + 1e-3) + 1e-12 * known.time_s


@given(seeds)
@settings(max_examples=40, deadline=None)
def test_the_slowest_is_a_schedule_s_time(seed: int) -> None:
    instance = tiny_instance(np.random.default_rng(seed), copies="inclusive")
    last, steps, prefill = instance.tiers - 1, instance.decode_steps, instance.prefill_tokens
    birth = LayerEvents.of(np.arange(steps), prefill + np.arange(steps), np.full(steps, last))
    everything = Schedule(np.full((instance.layers, prefill), last, np.uint8), (birth,) * instance.layers)
    assert found(instance).slowest_s == pytest.approx(evaluate(instance, everything).time_s, rel=1e-12)


def heavy(copies: str = "exclusive", capacity: int = 10, slow: float = 1) -> Instance:
    """Weights take 100 s a slot at 4 bytes/s; five tokens at the end, one byte each; a slot reads one."""
    trace = {"prefill_tokens": 3, "reads": [[[0]], [[1]]]}
    memory = two_tiers(4, slow, capacity)
    return toy(memory=memory, llm=llm(reads=400), trace=trace, rules={"copies": copies})


def test_placement_starts_to_matter_with_the_batch_or_the_tokens_that_one_tier_cannot_serve() -> None:
    # x bytes of KV a slot: x s in the slow tier, at best max(100, (400 + x) / 5) s: over 1.01 from 101.3 on
    assert found(heavy()).onset == Onset("ddr", 1.0, 51, 502)  # x = 2 batch, or tokens / 5 + 1
    text = sentences(heavy(), found(heavy()))
    assert "Placement cannot matter here: with all KV in ddr it takes 1.000x as long." in text
    assert text.endswith("It starts to at a batch of 51 or at 502 tokens.")
    assert summary(heavy(), found(heavy())).endswith("1.000x with all KV in ddr: placement cannot matter")


def test_placement_starts_to_matter_where_the_fast_tier_is_full_and_no_other_would_do() -> None:
    onset = found(heavy(slow=1e-6)).onset
    assert onset is not None
    assert (onset.tier, onset.batch, onset.tokens) == ("hbm", 3, 11)


def test_placement_that_matters_at_no_size() -> None:
    memory = {"name": "m", "resources": {"bus": 4}, "tiers": [tier("a", 10, "bus"), tier("b", None, "bus")]}
    instance = toy(memory=memory, rules={"copies": "exclusive"})
    known = found(instance)
    assert known.onset == Onset("a", 1.0, None, None)
    assert sentences(instance, known).endswith("It starts to at no batch and no number of tokens.")


def test_placement_that_matters_already() -> None:
    assert found(toy()).onset is None
    assert found(heavy(copies="exclusive", capacity=0, slow=1e-6)).onset is None


@given(seeds)
@settings(max_examples=40, deadline=None)
def test_where_placement_cannot_matter_one_tier_is_within_a_hundredth_of_the_optimum(seed: int) -> None:
    rng = np.random.default_rng(seed)
    instance = tiny_instance(rng)
    instance = dataclasses.replace(
        instance, llm=dataclasses.replace(instance.llm, weight_read_bytes_per_layer=500.0)
    )
    known, optimum = found(instance), solve_brute(instance).time_s
    assert optimum is not None
    if known.onset is not None and instance.rules.initial == "free":
        assert known.onset.ratio <= 1.01
        assert known.time_s <= optimum * (1 + 1e-12)
        assert optimum <= known.time_s * known.onset.ratio * (1 + 1e-12)


def test_the_share_that_placement_decides_is_reported() -> None:
    text = sentences(toy(), found(toy()))
    assert "KV writes 100.0 %; slow binds." in text
    assert text.endswith("With all KV in ddr it would take 3.500x as long.")
    assert "\n" not in sentences(toy(), found(toy()))  # wrapped where it is printed, if at all


def test_serial_resources_divide_the_time() -> None:
    instance = toy().with_rules(timing=Timing.SERIAL)
    known = found(instance)  # five reads at 4 bytes/s, two births written through at 1
    assert known.time_s == ideal(instance) == 3.25
    assert known.resources == {"fast": 1.25 / 3.25, "slow": 2 / 3.25}
    assert "one after the other" in sentences(instance, known)


def test_fang2025_accounting_has_no_ideal() -> None:
    assert binding(kv.read_instance("paper-low")) is None


def test_a_run_that_takes_no_time_is_said_to() -> None:
    memory = two_tiers(4, 1, 2)
    for each in memory["tiers"]:
        each["writes"] = []
    instance = toy(memory=memory, trace={"prefill_tokens": 3, "reads": [[[]], [[]]]})
    known = found(instance)
    assert known.time_s == known.slowest_s == 0
    expected = "no time: nothing is read, and writes cost nothing"
    assert sentences(instance, known) == f"If placement were no constraint, decoding would take {expected}."
    assert summary(instance, known) == "none: nothing is read, and writes cost nothing"


def test_what_a_schedule_s_time_is_made_of() -> None:
    instance = toy(rules={"timing": "serial"})
    result = kv.simulate(instance, "static")  # 3 + 1 reads at 4 bytes/s, 1 + 2 births at 1
    assert made_of(instance, result) == [
        "The time of static's schedule: births 50.0 %, KV from hbm 25.0 %, KV from ddr 25.0 %."
    ]
    assert made_of(instance, kv.simulate(instance, "ideal")) == []
    published = kv.read_instance("paper-low")
    assert made_of(published, kv.simulate(published, "best")) == []


@pytest.mark.parametrize("migration", ["on-read", "prefetch"])
def test_bits_and_events_have_the_same_parts(migration: str) -> None:
    instance = kv.read_instance("swap-2x48-c30-b64").with_rules(migration=migration)
    events = kv.simulate(instance, "sa-guided").schedule
    assert events is not None
    bits = TwoTierSchedule.replayed(instance, events).residency
    assert schedule_parts(instance, bits) == schedule_parts(instance, events)
