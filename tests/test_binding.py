"""The parts of the ideal time add up, and the resources that bind are those that would speed it up."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kvbound as kv
from kvbound.binding import Binding, binding, schedule_parts
from kvbound.bitsets.two_tier import TwoTierSchedule
from kvbound.cost.evaluate import evaluate
from kvbound.cost.ideal import ideal
from kvbound.instance import Instance
from kvbound.onset import Onset
from kvbound.report.binding import made_of, placement_gains, sentences, summary
from kvbound.rules import Timing
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


@given(seeds, st.booleans())
@settings(max_examples=80, deadline=None)
def test_shares_add_up_to_the_ideal_time(seed: int, batch: bool) -> None:
    instance = tiny_instance(np.random.default_rng(seed), batch=batch)
    known = found(instance)
    assert known.time_s == pytest.approx(ideal(instance), rel=1e-12)
    for shares in (known.parts, known.resources):
        assert all(share >= -1e-12 for share in shares.values())
        assert sum(shares.values()) == pytest.approx(1.0 if any(shares.values()) else 0.0)
    assert list(known.resources) == list(instance.memory.resources)


@given(seeds)
@settings(max_examples=60, deadline=None)
def test_only_what_binds_is_worth_speeding_up(seed: int) -> None:
    """A little more bandwidth saves at most that resource's share, a little less costs it at least.

    With latencies that holds as long as the same tiers serve the reads.
    """
    instance = tiny_instance(np.random.default_rng(seed), timing=Timing.PARALLEL)
    tiers = tuple(dataclasses.replace(tier, latency=tier.latency * 0.987) for tier in instance.memory.tiers)
    instance = dataclasses.replace(instance, memory=dataclasses.replace(instance.memory, tiers=tiers))
    known = found(instance)
    transfer = known.time_s * (1 - known.parts["latency"])
    for name, share in known.resources.items():
        step = 1e-6
        slower = ideal(faster(instance, name, 1 / (1 + step))) - known.time_s
        quicker = known.time_s - ideal(faster(instance, name, 1 + step))
        assert slower >= share * transfer * step * (1 - 1e-3) - 1e-12 * known.time_s
        assert quicker <= share * transfer * step * (1 + 1e-3) + 1e-12 * known.time_s


@given(seeds, st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_slowest_is_a_schedule_s_time(seed: int, batch: bool) -> None:
    instance = tiny_instance(np.random.default_rng(seed), copies="inclusive", batch=batch)
    last, prefill = instance.tiers - 1, instance.prefill_tokens
    born = np.arange(prefill, instance.tokens)
    birth = LayerEvents.of(instance.timeline.born[born], born, np.full(len(born), last))
    everything = Schedule(np.full((instance.layers, prefill), last, np.uint8), (birth,) * instance.layers)
    assert found(instance).slowest_s == pytest.approx(evaluate(instance, everything).time_s, rel=1e-12)


def heavy(copies: str = "exclusive", capacity: int = 10, slow: float = 1) -> Instance:
    """Weights take 100 s a slot at 4 bytes/s; five tokens at the end, one byte each; a slot reads one."""
    trace = {"prefill_tokens": 3, "reads": [[[0]], [[1]]]}
    memory = two_tiers(4, slow, capacity)
    return toy(memory=memory, llm=llm(reads=400), trace=trace, rules={"copies": copies})


def test_one_tier_is_as_good_up_to_the_bytes_that_it_can_serve() -> None:
    # x bytes of KV a slot: x s in the slow tier, at best max(100, (400 + x) / 5) s: over 1.01 from 101.3 on
    known = found(heavy())
    assert known.onset == Onset("ddr", 1.0, 51, 502, 1, 5)  # x = 2 batch, or tokens / 5 + 1
    end = "No placement gains more than that here; one may gain from a batch of 51 or 502 tokens on."
    assert sentences(heavy(), known).endswith(f"With all KV in ddr it takes 1.000x as long. {end}")
    gains = "nothing over all KV in ddr (1.000x); it may gain from a batch of 51 or 502 tokens on"
    assert placement_gains(known.onset) == gains


def test_one_tier_is_as_good_until_it_is_full() -> None:
    known = found(heavy(slow=1e-6))
    assert known.onset is not None
    assert (known.onset.tier, known.onset.batch, known.onset.tokens) == ("hbm", 3, 11)
    assert "1.000x as long, and " in sentences(heavy(slow=1e-6), known)
    assert "x with all in ddr. No placement" in sentences(heavy(slow=1e-6), known)


def test_one_tier_is_as_good_at_any_size() -> None:
    memory = {"name": "m", "resources": {"bus": 4}, "tiers": [tier("a", 10, "bus"), tier("b", None, "bus")]}
    instance = toy(memory=memory, rules={"copies": "exclusive"})
    known = found(instance)
    assert known.onset == Onset("a", 1.0, None, None, 1, 5)
    assert sentences(instance, known).endswith("one may gain at no larger size.")


def test_no_tier_is_as_good() -> None:
    assert found(toy()).onset is None
    assert found(heavy(capacity=0, slow=1e-6)).onset is None
    assert placement_gains(None) == ""


def test_no_more_sequences_than_the_memory_holds() -> None:
    """Inclusive copies: the last tier has room for two sequences, though the first has for twenty."""
    memory = two_tiers(4, 1e-6, 100)
    memory["tiers"][1]["capacity"] = 10
    instance = heavy("inclusive")
    limited = toy(memory=memory, llm=llm(reads=4e9), trace=instance.trace, rules={"copies": "inclusive"})
    assert found(limited).onset == Onset("ddr", 1.0, None, None, 1, 5)


def test_a_forced_fill_allows_the_prompt_in_the_fastest_tier_only() -> None:
    changes = {"copies": "exclusive", "initial": "prefill-first", "migration": "none"}
    onset = found(heavy().with_rules(**changes)).onset
    assert onset is not None
    assert (onset.tier, onset.batch) == ("hbm", 3)  # without the rule ddr is as good up to a batch of 50
    assert found(heavy(capacity=2).with_rules(**changes)).onset is None


def test_whole_blocks_and_resident_weights_take_room() -> None:
    """Six bytes of room for KV; two sequences of five tokens take 10, or in blocks of four 16."""
    instance = heavy(slow=1e-6, capacity=400 + 17)
    resident = dataclasses.replace(instance, llm=dataclasses.replace(instance.llm, weight_bytes=400))
    for size, batch, tokens in ((1, 4, 18), (4, 3, 17)):
        onset = found(resident.with_rules(granularity=size)).onset
        assert onset is not None
        assert (onset.tier, onset.batch, onset.tokens) == ("hbm", batch, tokens)


def test_a_tier_that_is_full_at_an_odd_number() -> None:
    """Only just above four sequences, no longer at eight, is the latency of the second tier too much."""
    memory = {"name": "m", "resources": {"bus": 4}, "tiers": [tier("a", 20, "bus"), tier("b", None, "bus")]}
    memory["tiers"][1]["latency"] = 0.07  # type: ignore[index]
    trace = {"prefill_tokens": 3, "reads": [[[0]], [[1]]]}
    instance = toy(memory=memory, llm=llm(reads=14), trace=trace, rules={"copies": "exclusive"})
    onset = found(instance).onset
    assert onset is not None
    assert onset.batch == 5


@given(seeds)
@settings(max_examples=40, deadline=None)
def test_one_tier_that_is_as_good_is_within_a_hundredth_of_the_optimum(seed: int) -> None:
    instance = tiny_instance(np.random.default_rng(seed))
    llm = dataclasses.replace(instance.llm, weight_read_bytes_per_layer=500.0)
    instance = dataclasses.replace(instance, llm=llm)
    known, optimum = found(instance), solve_brute(instance).time_s
    assert optimum is not None
    if known.onset is not None:
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
    expected = "no time: nothing is read, and a birth costs nothing"
    assert sentences(instance, known) == f"If placement were no constraint, decoding would take {expected}."
    assert summary(instance, known) == "none: nothing is read, and a birth costs nothing"


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
