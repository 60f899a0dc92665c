"""The ideal against hand calculations and schedules."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import kvbound as kv
from kvbound.cost.evaluate import slot_times
from kvbound.cost.ideal import Slots, ideal, ideal_bytes, ideal_latency, ideal_slot_times, one_tier_bytes
from kvbound.cost.slot import SlotCost
from kvbound.instance import Instance
from kvbound.schedule import LayerEvents, Schedule
from tests.cost_cases import toy
from tests.instance_documents import llm, two_tiers


def with_latencies(near: float, far: float, **changes: Any) -> Instance:
    memory = two_tiers(4, 1, 5)
    memory["tiers"][0]["latency"], memory["tiers"][1]["latency"] = near, far
    return toy(memory=memory, **changes)


def everything_in(tier: int) -> Schedule:
    return Schedule(np.full((1, 3), tier, np.uint8), (LayerEvents.of([0, 1], [3, 4], [tier, tier]),))


def test_reads_and_exclusive_births_are_split_as_suits_each_slot() -> None:
    # slots of 3 and 2 bytes read and 1 written, at 4 + 1 bytes/s
    instance = toy(rules={"copies": "exclusive"})
    assert ideal_slot_times(instance).ravel().tolist() == pytest.approx([4 / 5, 3 / 5])
    assert ideal(instance) == pytest.approx(7 / 5)
    # inclusive: the slow tier writes its copy of the birth, 1 s
    assert ideal_slot_times(toy()).ravel().tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("copies", "weights", "latency"),
    [
        ("inclusive", 0, 0.5),  # the slow tier's copy of the birth
        ("inclusive", 1, 2.5),  # and weights in the fast one
        ("exclusive", 0, 0.5),  # the birth, wherever it goes
        ("exclusive", 1, 2.0),  # the weights
    ],
)
def test_latencies_that_no_placement_avoids_are_added(copies: str, weights: int, latency: float) -> None:
    changes = {"rules": {"copies": copies}, "llm": llm(reads=weights)}
    without, instance = with_latencies(0, 0, **changes), with_latencies(2.0, 0.5, **changes)
    assert ideal_slot_times(instance) - ideal_slot_times(without) == pytest.approx(latency)
    assert ideal(instance) <= slot_times(instance, everything_in(0)).sum() * (1 + 1e-12)


@pytest.mark.parametrize(("copies", "fast"), [("inclusive", [1.6, 1.4]), ("exclusive", [1.75, 1.5])])
def test_all_kv_in_one_tier(copies: str, fast: list[float]) -> None:
    instance = with_latencies(0, 0, rules={"copies": copies}, llm=llm(reads=3))
    for tier, seconds in enumerate((fast, [4.0, 3.0])):
        times = SlotCost.of(instance).times(one_tier_bytes(instance, Slots.of(instance), tier))
        assert np.array_equal(times, slot_times(instance, everything_in(tier)))
        assert times.ravel().tolist() == pytest.approx(seconds)


def test_slots_of_a_kind_have_the_same_ideal() -> None:
    instance = kv.read_instance("native-r15-c25-b64-n64")
    kinds, counts = Slots.kinds(instance)
    assert counts.sum() == instance.slots
    assert len(counts) < instance.slots
    transfer = SlotCost.of(instance).ideal_facets @ ideal_bytes(instance, kinds).T
    times = transfer.max(axis=0) + ideal_latency(instance, kinds)
    assert times @ counts == pytest.approx(ideal(instance))
    assert np.array_equal(np.unique(times), np.unique(ideal_slot_times(instance)))
