"""Births and ends: legal schedules are accepted at their cost, violations named, bounds valid and tight."""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kvbound.certificate import FULL
from kvbound.checker import Report, check
from kvbound.cost.evaluate import evaluate
from kvbound.cost.ideal import ideal
from kvbound.instance import Instance
from kvbound.llm.model import Llm
from kvbound.rules import Rules
from kvbound.schedule import LayerEvents, Schedule
from kvbound.solvers.lagrangian.slots.minorants import ideal_theta
from kvbound.solvers.reference.brute_force import find_optimum
from kvbound.trace import Trace
from kvbound.trace.timeline import FIELDS
from tests.checker.test_certificate import any_multipliers
from tests.checker.test_physical import Arrays, as_file, checked, put, two_tiers, with_event, without
from tests.strategies import random_schedule, tiny_instance

SERIAL: dict[str, Any] = {"copies": "exclusive", "timing": "serial"}
"""With these and `two_tiers`, a byte read or written takes 1/4 s in the fast tier and 1 s in the slow one."""


def accepted(instance: Instance, schedule: Schedule, time_s: float) -> None:
    expected = evaluate(instance, schedule)
    report = checked(instance, schedule, claimed_s=time_s)
    assert report.problems == ()
    assert report.time_s == pytest.approx(expected.time_s, rel=1e-12)
    assert report.moved_bytes == expected.moved_bytes
    assert report.peak_bytes is not None
    assert list(report.peak_bytes) == list(expected.peak_bytes.values())
    found = report.to_mapping()
    assert found["hit_rate"] == pytest.approx(list(expected.hit_rate.values()))
    assert found["tpot_s"] == pytest.approx(dict(expected.tpot_s), rel=1e-12)


@pytest.mark.parametrize("seed", range(100, 160))
def test_optima_and_random_schedules_are_accepted(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rules = {"granularity": int(rng.integers(2, 5))} if seed % 3 == 0 else {}
    instance = tiny_instance(rng, batch=True, **rules)
    optimum = find_optimum(instance)
    accepted(instance, optimum.schedule, optimum.time_s)
    for _ in range(3):
        schedule = random_schedule(rng, instance)
        accepted(instance, schedule, evaluate(instance, schedule).time_s)


def one_layer(
    prefill: int,
    reads: list[list[int]],
    capacity: float = 100,
    size: int = 2,
    latency: tuple[float, float] = (0, 0),
    **more: Any,
) -> Instance:
    """One layer of one-byte items, on two tiers."""
    rules = Rules(granularity=size, **(SERIAL | more.pop("rules", {})))
    trace = Trace.from_lists(prefill, [[step] for step in reads], **more)
    memory = two_tiers(capacity=capacity, latency=latency)
    return Instance("some", memory, Llm("one", 1, 1, 0, 0), rules, trace)


def base() -> tuple[Instance, Schedule]:
    """Four blocks: tokens 0 and 1, 2 and 4, 3 and 5, and 6, which ends in the step of its birth.

    Tier 0 has room for two: the second one takes the place of the first in the step in which that ends.
    """
    instance = one_layer(
        3, [[0, 1], [2], [1, 4], [4, 5]], capacity=4, births=[2, 0, 1, 1], ends=[1, 2, 1, 2, None, None, 3],
        sequence=[0, 0, 1, 0, 1, 0, 1], outputs=[1, 0, 1, 1],
    )  # fmt: skip
    events = LayerEvents.of([0, 0, 2, 2, 3], [3, 4, 2, 5, 6], [0, 1, 0, 0, 0])
    return instance, Schedule(np.array([[0, 0, 1]], np.uint8), (events,))


def test_blocks_of_two_sequences_come_and_go() -> None:
    instance, schedule = base()
    report = checked(instance, schedule)
    assert report.problems == ()
    assert report.step_times_s is not None
    # births at 1/4 and 1 s; in step 2 the move carries token 4 alone, which is read
    assert report.step_times_s.tolist() == [2 / 4 + 1 / 4 + 1, 1, 1 / 4 + 1 + 1 / 4 + 1 / 4, 2 / 4 + 1 / 4]
    assert report.peak_bytes == (4, 2)
    assert report.moved_bytes == {"up": 1, "down": 0}


# The file's events, (slot, item, tier): (0, 3, 0) (0, 4, 1) (2, 2, 0) (2, 5, 0) (3, 6, 0)
CORRUPTIONS: dict[str, Callable[[Arrays], Arrays]] = {
    "slot 0 (step 0, layer 0): no birth of token 4": without(1),
    "slot 3 (step 3, layer 0): no birth of token 6": without(4),
    "slot 0 (step 0, layer 0): an item has two events": with_event(1, 0, 3, 0),
    "event 1: events must be sorted by slot, moves before the births, and these by token": lambda a: (
        put("item", slice(2), [4, 3])(put("tier", slice(2), [1, 0])(a))
    ),
    "event 3: events must be sorted by slot, moves before the births": lambda a: (
        put("item", slice(2, 4), [5, 2])(a)
    ),
    "event 2: the item is moved before its birth": with_event(2, 1, 5, 0),
    "event 3: the item is moved in its last step, or after it": with_event(3, 2, 0, 1),
    "event 4: the item is moved in its last step, or after it": with_event(4, 3, 0, 1),
    "event 2: a move must name the first token of its block": put("item", 2, 4),
    "slot 0 (step 0, layer 0): token 4 is born into another tier than its block's": put("tier", 1, 0),
    "slot 2 (step 2, layer 0): token 5 is born into another tier than its block's": put("tier", 3, 1),
    "slot 1 (step 1, layer 0): token 3 goes up without being read": lambda a: (
        put("tier", slice(0, 1), [1])(with_event(2, 1, 3, 0)(a))
    ),
    "after slot 1 (step 1, layer 0): tier fast holds 6 bytes, 2 over its capacity": lambda a: (
        put("slot", 2, 1)(a)
    ),
    "after slot 3 (step 3, layer 0): tier fast holds 6 bytes, 2 over its capacity": lambda a: a,
}  # fmt: skip


@pytest.mark.parametrize("sentence", CORRUPTIONS)
def test_each_corruption_is_named(sentence: str) -> None:
    instance, schedule = base()
    if sentence.startswith("after slot 3"):  # if it stays, the last block takes a place
        lasting = np.append(instance.timeline.ends[:-1], 4)
        trace = Trace.from_lists(
            3, [[[0, 1]], [[2]], [[1, 4]], [[4, 5]]], births=[2, 0, 1, 1], ends=lasting,
            sequence=instance.timeline.sequence,
        )  # fmt: skip
        instance = dataclasses.replace(instance, workload=trace)
    report = check(
        instance.expanded(), instance.trace.rows, CORRUPTIONS[sentence](as_file(instance, schedule))
    )
    assert any(sentence in problem for problem in report.problems), report.problems


def test_a_block_that_leaves_takes_up_births_where_it_is() -> None:
    instance = one_layer(1, [[0], [0]], births=[0, 1], ends=[1, 1])
    for tier, holds in enumerate((True, False)):
        schedule = Schedule(np.zeros((1, 1), np.uint8), (LayerEvents.of([1], [1], [tier]),))
        report = checked(instance, schedule)
        assert report.ok == holds
        assert holds or "token 1 is born into another tier than its block's" in report.problems[0]


def test_a_token_read_for_the_last_time_lets_its_block_go_up() -> None:
    instance = one_layer(2, [[0], [1]], births=[0, 0], ends=[0, None])
    schedule = Schedule(np.ones((1, 2), np.uint8), (LayerEvents.of([0], [0], [0]),))
    report = checked(instance, schedule)
    assert report.problems == ()
    assert report.step_times_s is not None
    assert report.step_times_s.tolist() == [1 + 1 + 1 / 4, 1 / 4]  # token 1 is read to move
    unread = one_layer(2, [[], [1]], births=[0, 0], ends=[0, None])
    assert "goes up without being read" in checked(unread, schedule).problems[0]


def test_a_block_without_tokens_keeps_its_place_and_moves_for_free() -> None:
    instance = one_layer(1, [[0], [], []], capacity=2, births=[0, 0, 1], ends=[0, None])
    schedule = Schedule(np.zeros((1, 1), np.uint8), (LayerEvents.of([1, 2], [0, 1], [1, 1]),))
    report = checked(instance, schedule)
    assert report.problems == ()
    assert report.time_s == 1 / 4 + 0 + 1
    assert report.peak_bytes == (2, 2)


def changed(name: str, index: int | slice, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(trace: dict[str, Any]) -> None:
        trace[name][index] = value

    return change


WRONG: tuple[Any, ...] = (None, 1, [], [0] * 9, {}, "none")


def replaced(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda trace: trace.update({name: value})


@pytest.mark.parametrize(
    "change",
    [
        changed("births", slice(0, 2), [1, 1]),
        changed("ends", 0, 2),
        changed("ends", 0, None),
        changed("ends", 4, 3),
        changed("ends", 3, 1),
        changed("sequence", 6, 0),
        changed("sequence", 2, 2),
        changed("outputs", 0, 2),
        lambda trace: trace.pop("ends"),
        lambda trace: trace.pop("sequence"),
        lambda trace: trace.pop("outputs"),
    ],
)
def test_another_timeline_is_another_instance(change: Callable[[dict[str, Any]], None]) -> None:
    instance, schedule = base()
    expanded = copy.deepcopy(instance.expanded())
    change(expanded["trace"])
    report = check(expanded, instance.trace.rows, as_file(instance, schedule))
    assert "the file was made for another instance" in report.problems[0]


@pytest.mark.parametrize(
    "change",
    [
        changed("births", 0, -1),
        changed("births", 0, 2.0),
        changed("births", 0, True),
        changed("births", 0, None),
        changed("ends", 0, -1),
        changed("ends", 3, -1),
        changed("ends", 5, 1),
        changed("ends", 0, 4),
        changed("ends", 0, 1.0),
        changed("ends", 0, 2**70),
        changed("sequence", 0, None),
        changed("sequence", 0, "a"),
        changed("sequence", 0, 2**64),
        changed("outputs", 0, 3),
        changed("outputs", 1, -1),
        *(replaced(name, value) for name in FIELDS for value in WRONG),
    ],
)
def test_a_malformed_timeline_is_refused(change: Callable[[dict[str, Any]], None]) -> None:
    instance, schedule = base()
    expanded = copy.deepcopy(instance.expanded())
    change(expanded["trace"])
    report = check(expanded, instance.trace.rows, as_file(instance, schedule))
    assert len(report.problems) == 1
    assert report.problems[0].startswith("the expanded instance is malformed: ValueError: expected ") or (
        "malformed: OverflowError" in report.problems[0]
    )


@pytest.mark.parametrize("births", [[2**60] * 4, [3, 0, 80, 0]])
def test_births_that_the_rows_have_no_room_for_are_refused(births: list[int]) -> None:
    instance, schedule = base()
    expanded = copy.deepcopy(instance.expanded())
    expanded["trace"]["births"] = births
    report = check(expanded, instance.trace.rows, as_file(instance, schedule))
    assert report.problems[0].startswith("layer 0: the trace's rows are uint8")


@pytest.mark.parametrize("field", FIELDS)
def test_the_published_accounting_knows_no_births_and_ends(field: str) -> None:
    instance = one_layer(4, [[0], [1]], size=1, rules={"copies": "inclusive", "timing": "parallel"})
    expanded = instance.with_rules(accounting="fang2025").expanded()
    expanded["trace"][field] = {"births": [1, 1], "outputs": [1, 1], "ends": [None] * 6, "sequence": [0] * 6}[
        field
    ]
    report = check(expanded, instance.trace.rows, {"schema": np.array("kvbound.schedule-fang2025/1")})
    assert report.problems == (
        "the expanded instance is malformed: ValueError: "
        "expected one birth per step and no ends under accounting fang2025",
    )


def test_a_trace_that_reads_ended_tokens_is_refused() -> None:
    instance, schedule = base()
    rows = [row.copy() for row in instance.trace.rows]
    rows[0][3, 0] |= 1 << 1
    wrong = dataclasses.replace(instance, workload=Trace(3, tuple(rows), timeline=instance.timeline))
    report = checked(wrong, schedule)
    assert report.problems == ("slot 3 (step 3, layer 0): the trace reads a token that has ended",)
    rows[0][3, 0] ^= 1 << 1
    rows[0][0, 0] |= 1 << 5
    wrong = dataclasses.replace(instance, workload=Trace(3, tuple(rows), timeline=instance.timeline))
    report = checked(wrong, schedule)
    assert report.problems == ("slot 0 (step 0, layer 0): the trace reads a token that is not born yet",)


def certified(instance: Instance, arrays: Arrays) -> Report:
    return check(instance.expanded(), instance.trace.rows, arrays)


def any_batch(seed: int, **rules: Any) -> tuple[np.random.Generator, Instance]:
    rng = np.random.default_rng(seed)
    if seed % 3 == 0:
        rules["granularity"] = int(rng.integers(2, 5))
    return rng, tiny_instance(rng, batch=True, **rules)


@pytest.mark.parametrize("seed", range(60))
def test_any_multipliers_prove_no_more_than_the_optimum(seed: int) -> None:
    rng, instance = any_batch(seed)
    optimum = find_optimum(instance).time_s
    for _ in range(4):
        report = certified(instance, any_multipliers(instance, rng))
        assert report.problems == ()
        assert report.bound_s is not None
        assert report.bound_s <= optimum * (1 + 1e-12)


def multipliers(instance: Instance, scale: int, prices: Any, theta: Any = None, capacity: Any = 0) -> Arrays:
    """Multipliers of one range of slots.

    Parameters
    ----------
    prices, capacity
        (3K, steps, layers) and, of tier 0, (1 + slots,), in seconds.
    theta
        Weights of the memory's resources by set of late tiers, (sets, R, steps, layers); by default 0, so
        that slots cost nothing.
    """
    slots, names = (instance.decode_steps, instance.layers), list(instance.memory.resources)
    sets = 1 << sum(tier.latency > 0 for tier in instance.memory.tiers)
    weights = np.zeros((sets, len(names), *slots)) if theta is None else theta[:, np.argsort(names)]
    whole = np.floor(weights * FULL * (1 - 1e-13)).astype(np.int64)
    held = np.zeros((instance.tiers, 1 + instance.slots), np.int64)
    held[0] = np.floor(np.multiply(capacity, 2.0**scale))
    return {
        "schema": np.array("kvbound.certificate/1"),
        "instance_sha256": np.array(instance.sha256),
        "bound_s": np.float64(0),
        "scale": np.int64(scale),
        "tier": np.int64(instance.tiers - 1),
        "capacity": held,
        "prices": np.floor(prices * 2.0**scale).astype(np.int64),
        "whole": np.full(slots, -1),
        "theta": np.repeat(whole, 2, axis=0),
    }


@pytest.mark.parametrize("seed", range(40))
def test_prices_of_zero_prove_the_ideal(seed: int) -> None:
    """Where every tier has room for all reads; else they may prove more."""
    _, instance = any_batch(seed)
    roomy = tuple(dataclasses.replace(tier, capacity=10**6) for tier in instance.memory.tiers)
    instance = dataclasses.replace(instance, memory=dataclasses.replace(instance.memory, tiers=roomy))
    shape = (instance.decode_steps, instance.layers)
    arrays = multipliers(instance, 40, np.zeros((3 * instance.tiers, *shape)), ideal_theta(instance))
    assert certified(instance, arrays).bound_s == pytest.approx(ideal(instance), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("seed", range(60))
def test_what_every_byte_costs_proves_the_optimum_where_that_is_all_that_counts(seed: int) -> None:
    """With serial timing, room for everything and no latencies, every block minimizes its own time."""
    _, instance = any_batch(seed, timing="serial")
    roomy = (dataclasses.replace(tier, capacity=10**4, latency=0.0) for tier in instance.memory.tiers)
    instance = dataclasses.replace(instance, memory=dataclasses.replace(instance.memory, tiers=tuple(roomy)))
    memory, shape = instance.memory, (instance.decode_steps, instance.layers)
    read, write = ((load / memory.bandwidths).sum(axis=1) for load in (memory.read_load, memory.write_load))
    served = np.minimum(read, read[-1]) if instance.inclusive else read
    costs = np.concatenate([served, read, write])[:, None, None] * instance.item_bytes
    prices = np.broadcast_to(costs, (len(costs), *shape))
    arrays = multipliers(instance, 44, prices, np.ones((1, len(memory.resources), *shape)))
    optimum = find_optimum(instance).time_s
    assert certified(instance, arrays).bound_s == pytest.approx(optimum, rel=1e-9, abs=1e-9)


def gain(instance: Instance, prices: Any, capacity: float = 0) -> int:
    """What prices in units add to the bound, at which slots cost nothing but latencies, in units."""
    one, bounds = 2.0**-30, []
    for factor in (0, 1):
        arrays = multipliers(instance, 30, factor * one * prices, capacity=factor * one * capacity)
        bounds.append(certified(instance, arrays).bound_s)
    assert bounds[0] is not None
    assert bounds[1] is not None
    return round((bounds[1] - bounds[0]) / one)


@pytest.mark.parametrize("seed", range(20))
def test_slots_are_paid_for_the_largest_counts(seed: int) -> None:
    """At prices of one unit, which no item has to pay."""
    _, instance = any_batch(seed, initial="free")
    tiers_at_once = tuple(dataclasses.replace(tier, latency=0.0) for tier in instance.memory.tiers)
    memory = dataclasses.replace(instance.memory, tiers=tiers_at_once)
    instance = dataclasses.replace(instance, memory=memory)
    tiers, timeline = instance.tiers, instance.timeline
    live, births = timeline.live[:-1, None], timeline.births[:, None] + 0 * instance.trace.past_counts()
    for column in (tiers, 2 * tiers - 1, 2 * tiers):
        prices = np.zeros((3 * tiers, *births.shape))
        prices[column] = 1
        unread = live - instance.trace.past_counts()
        assert gain(instance, prices) == -np.sum(live + births if column == 2 * tiers else unread)


@pytest.mark.parametrize("seed", range(50))
def test_blocks_are_paid_for_moves_of_the_tokens_that_exist_before_and_after(seed: int) -> None:
    rules: dict[str, Any] = {"copies": "exclusive", "migration": "prefetch", "granularity": 1 + seed % 2}
    instance = tiny_instance(np.random.default_rng(seed), batch=True, **rules)
    timeline, slots = instance.timeline, (instance.decode_steps, instance.layers)
    prices = np.zeros((3 * instance.tiers, *slots))
    prices[instance.tiers : 2 * instance.tiers] = -1
    unread = 0
    for step, layer in np.ndindex(slots):
        carried = np.flatnonzero((timeline.born < step) & (step < timeline.ends))
        unread += np.setdiff1d(carried, instance.trace.reads(step, layer)).size
    assert gain(instance, prices) == -unread


@pytest.mark.parametrize("seed", range(30))
def test_blocks_pay_for_room_until_they_leave(seed: int) -> None:
    _, instance = any_batch(seed, initial="prefill-first", migration="none")
    first, *others = instance.memory.tiers
    roomy = dataclasses.replace(instance.memory, tiers=(dataclasses.replace(first, capacity=10**4), *others))
    instance = dataclasses.replace(instance, memory=roomy)
    times, blocks = 1 + instance.slots, instance.grouping
    leave = 1 + blocks.last[:, : blocks.prompt].T * instance.layers + np.arange(instance.layers)
    room = instance.capacity_units[0]
    assert room is not None
    prices = np.zeros((3 * instance.tiers, instance.decode_steps, instance.layers))
    assert gain(instance, prices, 1) == np.minimum(leave, times).sum() - times * room


def test_a_slot_without_reads_does_not_wait() -> None:
    for births, reads, expected in ((0, [], 0), (0, [0], 3), (1, [], 0), (1, [0], 3)):
        instance = one_layer(1, [reads], latency=(3, 4), births=[births])
        arrays = multipliers(instance, 40, np.zeros((6, 1, 1)))
        assert certified(instance, arrays).bound_s == expected
