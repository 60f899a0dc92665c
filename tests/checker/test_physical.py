"""Legal schedules are accepted at their true cost; each violation is named."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvbound.checker import Report, check, check_schedule
from kvbound.cost.evaluate import evaluate
from kvbound.instance import Instance
from kvbound.llm.model import Llm
from kvbound.memory import Memory, Tier
from kvbound.placement import write_placement
from kvbound.rules import Rules
from kvbound.schedule import LayerEvents, Schedule, from_flat, from_tiers
from kvbound.trace import Trace
from tests.strategies import random_schedule, tiny_instance

Arrays = dict[str, Any]


def as_file(instance: Instance, schedule: Schedule) -> Arrays:
    slot, item, tier = schedule.flat(instance.tokens)
    return {
        "schema": np.array("kvbound.schedule/1"),
        "instance_sha256": np.array(instance.sha256),
        "initial": schedule.initial,
        "slot": slot,
        "item": item,
        "tier": tier,
    }


def checked(instance: Instance, schedule: Schedule, **more: Any) -> Report:
    return check(instance.expanded(), instance.trace.rows, as_file(instance, schedule), **more)


def two_tiers(bandwidth: float = 1.0, capacity: float = 100, latency: tuple[float, float] = (0, 0)) -> Memory:
    resources = {"fast": 4.0, "slow": bandwidth, "up": 1.0}
    fast = Tier("fast", capacity, ("fast",), ("fast",), latency[0])
    return Memory("two", resources, (fast, Tier("slow", None, ("slow",), ("up",), latency[1])))


def one_slot(reads: list[int], memory: Memory, weights: float = 0, item: int = 1, **rules: Any) -> Instance:
    """One layer, one step, prompt tokens 0..3."""
    llm = Llm("one", 1, item, 0, weights)
    return Instance("one", memory, llm, Rules(**rules), Trace.from_lists(4, [[reads]]))


def timed(instance: Instance, initial: list[int], moves: dict[int, int], birth: int) -> float:
    tokens, tiers = [*moves, 4], [*moves.values(), birth]
    events = LayerEvents.of(np.zeros(len(tokens)), tokens, tiers)
    report = checked(instance, Schedule(np.array([initial], np.uint8), (events,)))
    assert report.problems == ()
    assert report.time_s is not None
    return report.time_s


@given(seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=150)
def test_legal_schedules_are_accepted_with_the_numbers_of_the_cost_model(seed: int) -> None:
    rng = np.random.default_rng(seed)
    instance = tiny_instance(rng)
    schedule = random_schedule(rng, instance)
    expected = evaluate(instance, schedule)
    report = checked(instance, schedule, claimed_s=expected.time_s)
    assert report.problems == ()
    assert report.time_s == pytest.approx(expected.time_s, rel=1e-12)
    assert report.hit_bytes is not None
    assert report.peak_bytes is not None
    assert report.moved_bytes == expected.moved_bytes
    assert list(report.peak_bytes) == list(expected.peak_bytes.values())
    found = report.to_mapping()
    assert found["tpot_s"] == pytest.approx(dict(expected.tpot_s), rel=1e-12)
    assert found["hit_rate"] == pytest.approx(list(expected.hit_rate.values()))


# Every number below is calculated by hand: fast 4 B/s, slow reads 1 B/s, slow writes on a link of 1 B/s.


def test_inclusive_reads_split_between_the_copies() -> None:
    # 4 reads + 1 birth at 4 B/s; u of the reads from the slow tier: (5 - u) / 4 = u at u = 1
    assert timed(one_slot([0, 1, 2, 3], two_tiers()), [0] * 4, {}, 0) == pytest.approx(1.0)
    # at half the rate: (5 - u) / 4 = 2 u; the write-through of the birth takes 1 s, less than that
    assert timed(one_slot([0, 1, 2, 3], two_tiers(0.5)), [0] * 4, {}, 0) == pytest.approx(10 / 9)


def test_exclusive_reads_are_served_where_the_item_is() -> None:
    rules: dict[str, Any] = {"copies": "exclusive"}
    assert timed(one_slot([0, 1, 2, 3], two_tiers(), **rules), [0] * 4, {}, 0) == pytest.approx(5 / 4)
    assert timed(one_slot([0, 1, 2, 3], two_tiers(), **rules), [0, 0, 1, 1], {}, 1) == pytest.approx(2.0)


def test_weights_are_read_from_tier_0() -> None:
    assert timed(one_slot([], two_tiers(), weights=8), [1] * 4, {}, 1) == pytest.approx(2.0)


def test_a_moved_item_that_is_read_shares_its_read() -> None:
    rules: dict[str, Any] = {"copies": "exclusive", "migration": "prefetch", "timing": "serial"}
    # serial seconds per byte: read fast 1/4, write fast 1/4, read slow 1, write slow 1
    instance = one_slot([2], two_tiers(), **rules)
    assert timed(instance, [0, 0, 1, 1], {}, 1) == pytest.approx(1 + 1)
    assert timed(instance, [0, 0, 1, 1], {2: 0}, 1) == pytest.approx(1 + 1 / 4 + 1)
    assert timed(instance, [0, 0, 1, 1], {3: 0}, 1) == pytest.approx(1 + 1 + 1 / 4 + 1)
    assert timed(instance, [0, 0, 1, 1], {0: 1}, 1) == pytest.approx(1 + 1 / 4 + 1 + 1)


def test_inclusive_births_are_written_through_once_and_moves_down_are_free() -> None:
    instance = one_slot([], two_tiers(), timing="serial")
    assert timed(instance, [0] * 4, {}, 1) == pytest.approx(1.0)
    assert timed(instance, [0] * 4, {}, 0) == pytest.approx(1 + 1 / 4)
    assert timed(instance, [0] * 4, {0: 1, 1: 1}, 1) == pytest.approx(1.0)


def test_an_own_token_read_costs_nothing() -> None:
    assert timed(one_slot([4], two_tiers(), timing="serial"), [0] * 4, {}, 1) == pytest.approx(1.0)


def test_reads_wait_for_their_tier_and_diverting_may_avoid_it() -> None:
    # one hit: read from tier 0 it waits 5 s, read from the slow tier 0.5 s; writes do not wait
    instance = one_slot([0], two_tiers(latency=(5, 0.5)))
    assert timed(instance, [0] * 4, {}, 1) == pytest.approx(1 + 0.5)
    exclusive = one_slot([0], two_tiers(latency=(5, 0.5)), copies="exclusive")
    assert timed(exclusive, [0] * 4, {}, 1) == pytest.approx(1 / 4 + 5)


def test_a_block_moves_whole_and_only_its_unread_tokens_are_read_extra() -> None:
    rules: dict[str, Any] = {"copies": "exclusive", "timing": "serial", "granularity": 2}
    instance = one_slot([2], two_tiers(), **rules)
    assert timed(instance, [0, 0, 1, 1], {2: 0}, 1) == pytest.approx(1 + 1 + 2 / 4 + 1)


@pytest.mark.parametrize(("layers", "steps"), [(1, 3), (3, 1)])
def test_forced_fill_makes_more_capacity_slower(layers: int, steps: int) -> None:
    """The model's example: four prompt tokens read in each of three slots, one byte each at 1 B/s."""
    for capacity, expected in enumerate([12, 9, 6, 9, 12]):
        resources = {"fast": 1.0, "slow": 1.0, "births": 1.0}  # births queue beside the reads
        fast = Tier("fast", capacity * layers, ("fast",), ("births",))
        memory = Memory("equal", resources, (fast, Tier("slow", None, ("slow",), ("births",))))
        rules = Rules("exclusive", "none", "parallel", "prefill-first")  # type: ignore[arg-type]
        trace = Trace.from_lists(4, [[[0, 1, 2, 3]] * layers] * steps)
        instance = Instance("forced", memory, Llm("unit", layers, 1, 0, 0), rules, trace)
        initial = np.repeat(np.arange(4) >= capacity, layers).reshape(4, layers).T.astype(np.uint8)
        after = np.ones((steps, 4 + steps), np.uint8)
        after[:, :4] = initial[0]
        report = checked(instance, from_tiers(initial, [after] * layers))
        assert report.problems == ()
        assert report.time_s == pytest.approx(expected)


def base() -> tuple[Instance, Schedule]:
    """Two layers, single tokens, a full tier 0; in layer 0 token 3, which is read, takes token 0's place."""
    memory = two_tiers(capacity=40)
    reads = [[[0, 3], [1]], [[3, 2], [0, 1]], [[3], [5, 6]]]
    instance = Instance("base", memory, Llm("two", 2, 10, 0, 0), Rules(), Trace.from_lists(4, reads))
    initial = np.array([[0, 0, 1, 1], [0, 0, 1, 1]], np.uint8)
    top = LayerEvents.of([0, 0, 0, 1, 2], [0, 3, 4, 5, 6], [1, 0, 1, 1, 1])
    return instance, Schedule(initial, (top, LayerEvents.of([0, 1, 2], [4, 5, 6], [1, 1, 1])))


def put(name: str, index: Any, value: Any) -> Callable[[Arrays], Arrays]:
    def change(arrays: Arrays) -> Arrays:
        array = arrays[name].copy()
        array[index] = value
        return arrays | {name: array}

    return change


def without(event: int) -> Callable[[Arrays], Arrays]:
    return lambda arrays: arrays | {name: np.delete(arrays[name], event) for name in ("slot", "item", "tier")}


def with_event(at: int, slot: int, item: int, tier: int) -> Callable[[Arrays], Arrays]:
    new = {"slot": slot, "item": item, "tier": tier}
    return lambda arrays: arrays | {name: np.insert(arrays[name], at, new[name]) for name in new}


# The file's events, (slot, item, tier): (0, 0, 1) (0, 3, 0) (0, 4, 1) (1, 11, 1) (2, 5, 1) (3, 12, 1) ...
CORRUPTIONS: dict[str, Callable[[Arrays], Arrays]] = {
    "slot 2 (step 1, layer 0): token 1 goes up without being read": lambda a: with_event(5, 2, 1, 0)(
        with_event(0, 0, 1, 1)(a)
    ),
    "after slot 0 (step 0, layer 0): tier fast holds 50 bytes, 10 over its capacity": without(0),
    "at the start: tier fast holds 50 bytes, 10 over its capacity": put("initial", (0, 2), 0),
    "the file was made for another instance": lambda a: a | {"instance_sha256": np.array("0" * 64)},
    "slot 1 (step 0, layer 1): no birth of token 4": without(3),
    "event 3: its tier does not exist": put("tier", 3, 2),
    "initial names a tier that does not exist": put("initial", (1, 1), 7),
    "event 0: the item is moved before its birth": put("item", 0, 6),
    "event 0: an item can change only in a slot of its own layer": put("item", 0, 7),
    "event 0: its item is outside the trace": put("item", 0, 99),
    "event 0: its slot is outside the trace": put("slot", 0, -1),
    "slot 0 (step 0, layer 0): an item has two events": with_event(0, 0, 0, 0),
    "events must be sorted by slot, moves before the birth": with_event(3, 0, 1, 1),
    "schema is 'other'": lambda a: a | {"schema": np.array("other")},
    "the file has no text 'schema'": lambda a: {k: v for k, v in a.items() if k != "schema"},
    "the file has no text 'instance_sha256'": lambda a: a | {"instance_sha256": np.array([1, 2])},
    "the file has no array 'tier'": lambda a: {k: v for k, v in a.items() if k != "tier"},
    "tier is int64 (8,), expected uint8": lambda a: a | {"tier": a["tier"].astype(np.int64)},
    "slot is float64 (8,), expected int64": lambda a: a | {"slot": a["slot"].astype(float)},
    "initial is uint8 (2, 3), expected uint8 (2, 4)": lambda a: a | {"initial": a["initial"][:, 1:]},
    "slot, item and tier differ in length": lambda a: a | {"slot": a["slot"][1:]},
}


def test_the_uncorrupted_schedule_is_accepted() -> None:
    instance, schedule = base()
    assert checked(instance, schedule).ok


@pytest.mark.parametrize("sentence", CORRUPTIONS)
def test_each_corruption_is_named(sentence: str) -> None:
    instance, schedule = base()
    arrays = CORRUPTIONS[sentence](as_file(instance, schedule))
    report = check(instance.expanded(), instance.trace.rows, arrays)
    assert not report.ok
    assert any(sentence in problem for problem in report.problems), report.problems


@given(
    name=st.sampled_from(["slot", "item", "tier", "initial"]),
    where=st.integers(0, 7),
    value=st.one_of(st.integers(-3, 15), st.integers(-(2**63), 2**63 - 1)),
)
def test_any_other_number_gives_a_report_and_never_a_traceback(name: str, where: int, value: int) -> None:
    instance, schedule = base()
    arrays = as_file(instance, schedule)
    changed = arrays[name].copy()
    changed.flat[where] = np.asarray(value).astype(changed.dtype)
    arrays[name] = changed
    report = check(instance.expanded(), instance.trace.rows, arrays)
    if report.ok:  # the change may give another legal schedule
        initial, slot, item, tier = (arrays[part] for part in ("initial", "slot", "item", "tier"))
        other = from_flat(initial, slot, item, tier, instance.tokens)
        expected = evaluate(instance, other).time_s
        assert report.time_s == pytest.approx(expected, rel=1e-12)


def test_many_tiers_are_refused_at_once() -> None:
    instance = one_slot([0], two_tiers())
    expanded = instance.expanded()
    expanded["memory"]["tiers"] = [expanded["memory"]["tiers"][0] | {"name": f"t{k}"} for k in range(9)]
    schedule = Schedule(np.full((1, 4), 8, np.uint8), (LayerEvents.of([0], [4], [8]),))
    report = check(expanded, instance.trace.rows, as_file(instance, schedule))
    assert report.problems == ("9 tiers are more than the 8 this checker can cost",)


def test_migration_none_forbids_every_move() -> None:
    instance, schedule = base()
    still = instance.with_rules(migration="none")
    assert (
        "token 0 moves, but the rules allow no migration (and 1 more" in checked(still, schedule).problems[0]
    )


def test_prefill_first_must_be_followed() -> None:
    instance, schedule = base()
    forced = instance.with_rules(initial="prefill-first")
    assert checked(forced, schedule).ok
    swapped = dataclasses.replace(schedule, initial=schedule.initial[:, ::-1].copy())
    problems = checked(forced, swapped).problems
    expected = (
        "layer 0: prefill-first puts prompt token 0 into fast, the schedule into slow (and 7 more like it)"
    )
    assert expected in problems


def test_blocks_are_not_divided() -> None:
    instance, _ = base()
    pairs = instance.with_rules(granularity=2)
    births = LayerEvents.of([0, 1, 2], [4, 5, 6], [1, 1, 1])
    arrays = as_file(pairs, Schedule(np.ones((2, 4), np.uint8), (births, births)))
    assert check(pairs.expanded(), pairs.trace.rows, arrays).ok
    for corrupt, sentence in {
        put("initial", (0, 1), 0): "initial differs within a block",
        put("tier", 2, 0): "token 5 is born into another tier than its block's",
        with_event(0, 0, 1, 0): "event 0: a move must name the first token of its block",
    }.items():
        report = check(pairs.expanded(), pairs.trace.rows, corrupt(arrays))
        assert any(sentence in problem for problem in report.problems), report.problems


@pytest.mark.parametrize("factor", [1 + 1e-8, 1 - 1e-8, float("nan"), 0.0])
def test_a_wrong_claim_is_refused(factor: float) -> None:
    instance, schedule = base()
    time_s = checked(instance, schedule).time_s
    assert time_s is not None
    assert checked(instance, schedule, claimed_s=time_s * (1 + 1e-11)).ok
    assert "the claimed time" in checked(instance, schedule, claimed_s=time_s * factor).problems[0]


def test_the_last_tier_of_inclusive_copies_holds_everything() -> None:
    instance, schedule = base()
    fast, slow = instance.memory.tiers
    full = dataclasses.replace(instance.memory, tiers=(fast, dataclasses.replace(slow, capacity=139.0)))
    report = checked(dataclasses.replace(instance, memory=full), schedule)
    assert report.problems == (
        "after slot 5 (step 2, layer 1): tier slow holds 140 bytes, 1 over its capacity",
    )


def test_resident_weights_take_capacity() -> None:
    instance, schedule = base()
    heavier = dataclasses.replace(instance, llm=dataclasses.replace(instance.llm, weight_bytes=1))
    problems = checked(heavier, schedule).problems
    assert problems == ("at the start: tier fast holds 41 bytes, 1 over its capacity (and 6 more like it)",)


def test_a_trace_that_reads_the_future_is_refused() -> None:
    instance, schedule = base()
    rows = [row.copy() for row in instance.trace.rows]
    rows[1][0, 0] |= 1 << 6
    instance = dataclasses.replace(instance, workload=Trace(4, tuple(rows)))
    problem = "slot 1 (step 0, layer 1): the trace reads a token that is not born yet"
    assert problem in checked(instance, schedule).problems


def test_the_file_form_reads_back(tmp_path: Any) -> None:
    instance, schedule = base()
    path = tmp_path / "schedule.npz"
    write_placement(schedule, path, instance_sha256=instance.sha256, tokens=instance.tokens)
    report = check(instance.expanded("somewhere.trace"), instance.trace.rows, path)
    assert report.ok
    assert report.instance_sha256 == instance.sha256
    assert report.time_s == check_schedule(instance.expanded(), instance.trace.rows, path).time_s
