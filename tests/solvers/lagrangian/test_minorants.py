"""Slot minorants are never above the slot time, and as high as they can be."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvbound.cost.ideal import Slots, one_tier_bytes
from kvbound.cost.slot import SlotCost
from kvbound.cost.traffic import Columns, schedule_traffic
from kvbound.instance import Instance
from kvbound.llm.model import Llm
from kvbound.memory import Memory, Tier
from kvbound.rules import Copies, Rules
from kvbound.solvers.lagrangian.slots.minorants import SlotMinorants
from kvbound.trace import Trace
from tests.cost_cases import item_counts
from tests.solvers.lagrangian.cases import swaps
from tests.strategies import layered_instances, random_schedule, tiny_instance, tiny_instances

INSTANCES = tiny_instances() | tiny_instances(batch=True) | layered_instances()
Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def without_latencies(instance: Instance) -> Instance:
    tiers = tuple(replace(tier, latency=0.0) for tier in instance.memory.tiers)
    return replace(instance, memory=replace(instance.memory, tiers=tiers))


def counts_and_times(instance: Instance, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Return the counts (3K, steps, layers) and the slot times of a random schedule."""
    schedule = random_schedule(rng, instance)
    times = SlotCost.of(instance).times(schedule_traffic(instance, schedule).traffic)
    return item_counts(instance, schedule), times


@given(INSTANCES, st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=100)
def test_never_above_the_slot_time(instance: Instance, seed: int, integer_counts: bool) -> None:
    instance = without_latencies(instance)  # with these, facets that wait and chords only guide the ascent
    used, times = counts_and_times(instance, np.random.default_rng(seed))
    minorants = SlotMinorants.of(instance, integer_counts)
    values = minorants.at(used)
    if instance.tiers > 2:  # as chords do then
        values = values[: len(minorants.beta)]
    assert np.all(values <= times * (1 + 1e-12))


@given(INSTANCES, st.integers(0, 2**32 - 1))
@settings(max_examples=100)
def test_with_latencies_never_above_the_slot_time_where_tier_0_serves_all(
    instance: Instance, seed: int
) -> None:
    """A slot that reads nothing elsewhere, and moves nothing, waits for tier 0 alone."""
    rng, tiers = np.random.default_rng(seed), instance.tiers
    latency = rng.choice([0.25, 1.0, 4.0], tiers)
    late = (replace(t, latency=float(x)) for t, x in zip(instance.memory.tiers, latency, strict=True))
    roomy = tuple(replace(tier, capacity=10**6) for tier in late)  # for tier 0 to serve all
    instance = replace(instance, memory=replace(instance.memory, tiers=roomy))
    minorants, slots = SlotMinorants.of(instance), Slots.of(instance)
    near = one_tier_bytes(instance, slots, 0)
    Columns.of(near).writes[..., 0] = 0  # counts are 0, those of births, too
    values = minorants.at(np.zeros((3 * tiers, *minorants.chord.shape[1:])))
    if len(minorants.splits) > 1:  # the chord of writes has the births that are not among its count
        values = np.delete(values, len(minorants.beta) + 1, axis=0)
    assert np.all(values <= SlotCost.of(instance).times(near) * (1 + 1e-12))


@pytest.mark.parametrize("copies", ["inclusive", "exclusive"])
def test_slots_without_reads_do_not_wait(copies: str) -> None:
    trace = Trace.from_lists(2, [[[0]], [[]], [[1]]], births=[2, 0, 0])
    tiers = Tier("fast", 9.0, ("bus",), ("bus",), 0.25), Tier("slow", None, ("bus",), ("bus",), 0.5)
    memory, llm = Memory("some", {"bus": 1.0}, tiers), Llm("some", 1, 1, 0, 0.0)
    instance = Instance("idle", memory, llm, Rules(copies=Copies(copies)), trace)
    with_, without = (SlotMinorants.of(each, False) for each in (instance, without_latencies(instance)))
    waits = with_.alpha.max(axis=0) - without.alpha.max(axis=0)
    assert waits[:, 0].tolist() == pytest.approx([0.25, 0.0, 0.25])


@given(INSTANCES, st.integers(0, 2**32 - 1))
@settings(max_examples=100)
def test_the_highest_facet_is_the_slot_time_without_latencies(instance: Instance, seed: int) -> None:
    instance = without_latencies(instance)
    used, times = counts_and_times(instance, np.random.default_rng(seed))
    assert SlotMinorants.of(instance, False).at(used).max(axis=0) == pytest.approx(times, rel=1e-12)


def test_the_chord_is_above_the_facets_between_its_ends_and_meets_them_there() -> None:
    instance = swaps(1500, 4)
    minorants, reads = SlotMinorants.of(instance), instance.trace.past_counts()
    values = []
    for offset in (0.0, 0.5, 1.0):
        used = np.zeros((3 * instance.tiers, *reads.shape))
        used[minorants.tier] = minorants.breakpoints[0] + offset
        values.append(minorants.at(used))
    for end in (values[0], values[2]):
        assert end[-1] == pytest.approx(end[:-1].max(axis=0), rel=1e-12)
    assert np.all(values[1][-1] >= values[1][:-1].max(axis=0) * (1 - 1e-12))
    assert np.any(values[1][-1] > values[1][:-1].max(axis=0) * (1 + 1e-6))


def test_the_chord_of_writes_is_between_one_and_no_write_to_the_last_tier() -> None:
    """A slot reads weights for 2 s; a write takes 3 s, a read 4 s, and relieves the first tier by 0.5 s."""
    tiers = Tier("fast", 4, ("bus",), ()), Tier("slow", None, ("down",), ("up",))
    memory = Memory("some", {"bus": 2.0, "down": 0.25, "up": 1 / 3}, tiers)
    trace = Trace.from_lists(2, [[[0]], [[]], [[1]]], births=[1, 0, 0])
    instance = Instance("writes", memory, Llm("some", 1, 1, 0, 3.0), Rules(copies=Copies.EXCLUSIVE), trace)
    minorants = SlotMinorants.of(instance)
    used = np.zeros((6, 3, 1))
    for writes, reads, expected in ((0, 0, 2.0), (1, 0, 3.0), (2, 0, 4.0), (1, 1, 2.5)):
        used[5], used[1] = writes, reads
        assert minorants.at(used)[-1, [0, 2], 0] == pytest.approx(expected)


@given(tiny_instances(tiers=2) | layered_instances(tiers=2))
@settings(max_examples=100)
def test_the_facets_at_the_ends_of_the_chords_are_the_highest_beyond_them(instance: Instance) -> None:
    instance = without_latencies(instance)  # with these, facets wait in one chord and not in the other
    minorants, births = SlotMinorants.of(instance, False), instance.timeline.births[:, None]
    into_0, there = minorants.beta[:, 4], [minorants.beta[:, tier] for tier in (1, 5)]
    for slope, elsewhere, begin, ends in zip(
        there, (0 * into_0, into_0), minorants.breakpoints, minorants.ends, strict=False
    ):
        for end, side, facet in zip((0, 1), (-1, 1), ends, strict=True):
            number = (begin + end).astype(float)
            rest = elsewhere[:, None, None] * np.maximum(births - number, 0)
            at_end, beyond = (
                minorants.alpha + minorants.sizes * (rest + slope[:, None, None] * (number + side * distance))
                for distance in (0.0, 1.0)
            )
            active = at_end >= at_end.max(axis=0) * (1 - 1e-12)
            highest = np.where(active, beyond, -np.inf).max(axis=0)
            found = (np.take_along_axis(each, facet[None], 0)[0] for each in (at_end, beyond))
            assert next(found) == pytest.approx(at_end.max(axis=0), rel=1e-12)
            assert next(found) == pytest.approx(highest, rel=1e-9)


@given(tiny_instances() | layered_instances(), st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=50)
def test_prices_of_counts_give_the_mixed_minorants(
    instance: Instance, seed: int, integer_counts: bool
) -> None:
    rng = np.random.default_rng(seed)
    minorants = SlotMinorants.of(instance, integer_counts)
    weights, used = (
        rng.random(minorants.alpha.shape),
        rng.random((3 * instance.tiers, *minorants.chord.shape[1:])),
    )
    priced = (weights * minorants.alpha).sum(axis=0) + (minorants.prices(weights) * used).sum(axis=0)
    assert priced == pytest.approx((weights * minorants.at(used)).sum(axis=0))


def test_parts_are_those_of_the_steps() -> None:
    instance = tiny_instance(np.random.default_rng(0), tiers=2)
    minorants = SlotMinorants.of(instance)
    weights = np.random.default_rng(0).random(minorants.alpha.shape)
    parts = [slice(0, 1), slice(1, None)]
    prices = [minorants.part(steps).prices(weights[:, steps]) for steps in parts]
    assert np.array_equal(np.concatenate(prices, axis=1), minorants.prices(weights))
