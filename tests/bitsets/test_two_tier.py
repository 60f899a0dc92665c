"""Two-tier schedules: counts and bits agree with the events and with the cost model's traffic."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvbound.bitsets.lanes import Lanes
from kvbound.bitsets.two_tier import TwoTierSchedule, add_counts, supports_two_tier_bits
from kvbound.cost.traffic import Columns, schedule_traffic
from kvbound.instance import Instance
from kvbound.rules import Copies
from tests.strategies import layered_instances, random_schedule, tiny_instance, tiny_instances

BITS: dict[str, Any] = {"tiers": 2, "copies": Copies.INCLUSIVE, "granularity": 1}
INSTANCES = tiny_instances(**BITS) | tiny_instances(**BITS, batch=True) | layered_instances(**BITS)


@pytest.mark.parametrize(
    ("rules", "supported"),
    [
        ({"tiers": 2, "copies": "inclusive", "granularity": 1}, True),
        ({"tiers": 3, "copies": "inclusive", "granularity": 1}, False),
        ({"tiers": 2, "copies": "exclusive", "granularity": 1}, False),
        ({"tiers": 2, "copies": "inclusive", "granularity": 2}, False),
    ],
)
def test_which_instances_have_bits(rules: dict[str, object], supported: bool) -> None:
    instance = tiny_instance(np.random.default_rng(0), **rules)  # type: ignore[arg-type]
    assert supports_two_tier_bits(instance) == supported


@given(INSTANCES, st.integers(0, 2**32 - 1))
@settings(max_examples=40)
def test_traffic_is_that_of_the_cost_model(instance: Instance, seed: int) -> None:
    schedule = random_schedule(np.random.default_rng(seed), instance)
    counted = TwoTierSchedule.replayed(instance, schedule)
    found, expected = counted.traffic(instance), schedule_traffic(instance, counted.residency.to_schedule())
    for name in ("traffic", "up", "down", "units", "start", "births"):
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name


@given(INSTANCES, st.integers(0, 2**32 - 1))
@settings(max_examples=40)
def test_only_births_of_tokens_that_are_never_held_differ_from_the_events(
    instance: Instance, seed: int
) -> None:
    schedule = random_schedule(np.random.default_rng(seed), instance)
    found, events = (
        schedule_traffic(instance, each)
        for each in (TwoTierSchedule.replayed(instance, schedule).residency.to_schedule(), schedule)
    )
    blocks = instance.grouping
    spared = np.zeros_like(events.births)
    for layer, each in enumerate(schedule.events):
        passing = (blocks.born[each.token] == each.step) & (blocks.last[layer, each.token] == each.step)
        np.add.at(spared, (each.step[passing & (each.tier == 0)], layer, 0), 1)
    spared[..., 1] = -spared[..., 0]
    assert np.array_equal(found.births, events.births - spared)
    written = Columns.of(events.traffic).writes
    written[..., 0] -= instance.item_bytes * spared[..., 0]
    for name in ("traffic", "up", "down", "units", "start"):
        assert np.array_equal(getattr(found, name), getattr(events, name)), name


@given(INSTANCES, st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_a_residency_has_the_counts_of_its_events(instance: Instance, seed: int) -> None:
    schedule = random_schedule(np.random.default_rng(seed), instance)
    once = TwoTierSchedule.replayed(instance, schedule)
    again = TwoTierSchedule.replayed(instance, once.residency)
    assert np.array_equal(again.counts, once.counts)
    assert np.array_equal(again.start, once.start)


@given(INSTANCES, st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_subtracted_counts_leave_nothing(instance: Instance, seed: int) -> None:
    schedule = random_schedule(np.random.default_rng(seed), instance)
    counted, lanes = TwoTierSchedule.replayed(instance, schedule), Lanes.all_of(instance, slice(None))
    inside = np.zeros(lanes.blocks.shape, np.bool_)
    inside[:, : instance.prefill_tokens] = schedule.initial == 0
    layers = range(instance.layers)
    after = np.stack([counted.residency.after(layer).view(np.uint64) for layer in layers], axis=1)
    add_counts(lanes, inside, after, counted.counts, -1)
    assert not counted.counts.any()
