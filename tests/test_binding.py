"""The parts of the ideal time add up, and the resources that bind are those that would speed it up."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kvbound as kv
from kvbound.binding import Binding, binding
from kvbound.cost.evaluate import evaluate
from kvbound.cost.ideal import ideal
from kvbound.instance import Instance, Timing
from kvbound.report.binding import sentences, summary
from kvbound.schedule import LayerEvents, Schedule
from tests.cost_cases import toy
from tests.instance_documents import llm, two_tiers
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


def test_placement_gains_nothing_where_weights_take_all_the_time() -> None:
    instance = toy(llm=llm(reads=4000))
    text = sentences(instance, found(instance))
    assert "weights 100.0 %; fast binds" in text
    assert "next to nothing to gain from placement" in text
    assert "next to nothing to gain from placement" in summary(instance, found(instance))


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
    for tier in memory["tiers"]:
        tier["writes"] = []
    instance = toy(memory=memory, trace={"prefill_tokens": 3, "reads": [[[]], [[]]]})
    known = found(instance)
    assert known.time_s == known.slowest_s == 0
    expected = "no time: nothing is read, and writes cost nothing"
    assert sentences(instance, known) == f"If placement were no constraint, decoding would take {expected}."
    assert summary(instance, known) == "none: nothing is read, and writes cost nothing"
