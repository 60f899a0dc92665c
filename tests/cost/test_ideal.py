"""The ideal against hand calculations and schedules."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import kvbound as kv
from kvbound.cost.evaluate import slot_times
from kvbound.cost.ideal import Slots, best_ideal, ideal, ideal_bytes, ideal_slot_times, one_tier_bytes
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
    ("copies", "weights", "seconds"),
    [
        # 3 and 2 bytes after 2 s at 4 bytes/s, or after 0.5 s at 1 byte/s beside the birth
        ("inclusive", 0, [2.5, 2.3]),
        ("inclusive", 1, [2.7, 2.5]),  # and the weights
        ("exclusive", 0, [2.5, 2.3]),
        ("exclusive", 1, [2.7, 2.5]),
    ],
)
def test_reads_of_the_ideal_wait(copies: str, weights: int, seconds: list[float]) -> None:
    instance = with_latencies(2.0, 0.5, rules={"copies": copies}, llm=llm(reads=weights))
    assert ideal_slot_times(instance).ravel().tolist() == pytest.approx(seconds)
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
    times = best_ideal(SlotCost.of(instance), kinds, ideal_bytes(instance, kinds)).time
    assert times @ counts == pytest.approx(ideal(instance))
    assert np.array_equal(np.unique(times), np.unique(ideal_slot_times(instance)))
