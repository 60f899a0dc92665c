"""The cost model against the independent checker and hand calculations, and its refusals."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kvbound as kv
from kvbound.cost.evaluate import evaluate, measures, slot_times, spread, tpot
from kvbound.cost.traffic import schedule_traffic
from kvbound.errors import KvboundError, UsageError
from kvbound.schedule import LayerEvents, Schedule
from kvbound.simulation import simulate
from kvbound.trace import Trace
from tests.cost_cases import checked, random_schedule, toy
from tests.instance_documents import linked_tiers, llm
from tests.policies.cases import medium_instance

seeds = st.integers(0, 2**32 - 1)


@given(seeds)
@settings(max_examples=120, deadline=None)
def test_any_schedule_costs_the_same_in_the_checker(seed: int) -> None:
    rng = np.random.default_rng(seed)
    instance = medium_instance(rng)
    schedule = random_schedule(rng, instance)
    report, counted = checked(instance, schedule), schedule_traffic(instance, schedule)
    times = slot_times(instance, schedule)
    assert report.step_times_s is not None
    assert report.hit_bytes is not None
    assert report.peak_bytes is not None
    np.testing.assert_allclose(times.sum(axis=1), report.step_times_s, rtol=1e-11)
    assert np.array_equal(counted.traffic[:, :, : instance.tiers].sum(axis=(0, 1)), report.hit_bytes)
    assert report.moved_bytes == {"up": counted.up.sum(), "down": counted.down.sum()}
    held = counted.start + counted.units.reshape(-1, instance.tiers).cumsum(axis=0)
    peak = np.maximum(held.max(axis=0), counted.start) * (instance.granularity * instance.unit_sizes[0])
    peak[0] += instance.llm.weight_bytes
    assert np.array_equal(peak, report.peak_bytes)


@given(seeds)
@settings(max_examples=60, deadline=None)
def test_measures_agree_with_the_checker(seed: int) -> None:
    rng = np.random.default_rng(seed)
    instance = medium_instance(rng)
    schedule = random_schedule(rng, instance)
    roomy = dataclasses.replace(
        instance,
        memory=dataclasses.replace(
            instance.memory, tiers=tuple(dataclasses.replace(t, capacity=1e9) for t in instance.memory.tiers)
        ),
    )
    found, report = evaluate(roomy, schedule), checked(roomy, schedule)
    document = report.to_mapping()
    names = [tier.name for tier in instance.memory.tiers]
    assert found.time_s == pytest.approx(document["time_s"], rel=1e-12)
    assert found.tpot_s == pytest.approx(document["tpot_s"], rel=1e-11)
    assert list(found.hit_rate) == list(found.peak_bytes) == names
    assert list(found.hit_rate.values()) == pytest.approx(document["hit_rate"], abs=1e-15)
    assert list(found.peak_bytes.values()) == document["peak_bytes"]
    assert found.moved_bytes == document["moved_bytes"]
    fits = all(
        t.capacity is None or p <= t.capacity
        for t, p in zip(instance.memory.tiers, document["peak_bytes"], strict=True)
    )
    if fits:
        assert evaluate(instance, schedule) == found
    else:
        with pytest.raises(KvboundError, match="blocks into tier"):
            evaluate(instance, schedule)


@pytest.mark.parametrize("steps", [127, 128, 129, 300])
def test_long_runs_of_steps_without_moves(steps: int) -> None:
    """Steps without moves are counted together."""
    rng = np.random.default_rng(steps)
    reads = [[np.flatnonzero(rng.random(9 + step) < 0.4)] for step in range(steps)]
    instance = toy(trace=Trace.from_lists(8, reads), capacity=10**6)
    events = [(step, 8 + step, int(rng.integers(2))) for step in range(steps)]
    events += [(step, int(rng.integers(8)), 0) for step in rng.choice(steps, 3, replace=False)]
    ordered = sorted(events, key=lambda event: (event[0], event[1] == 8 + event[0]))
    schedule = Schedule(np.ones((1, 8), np.uint8), (LayerEvents.of(*zip(*ordered, strict=True)),))
    assert evaluate(instance, schedule).time_s == pytest.approx(checked(instance, schedule).time_s, rel=1e-12)


def test_exclusive_by_hand() -> None:
    """0 and 1 start in HBM. Step 0 moves 2 up and 0 down, both of which it reads; step 1 moves 1 down."""
    instance = toy(rules={"copies": "exclusive"})
    schedule = Schedule(
        np.array([[0, 0, 1]], np.uint8),
        (LayerEvents.of([0, 0, 0, 1, 1], [0, 2, 3, 1, 4], [1, 0, 0, 1, 1]),),
    )
    # step 0: HBM reads 0 and 1, writes 2 and the new 3: 4 bytes, 1 s; DDR reads 2, writes 0: 2 s
    # step 1: HBM reads 3, and 1 to move it: 2 bytes, 0.5 s; DDR reads 0, writes 1 and 4: 3 s
    assert slot_times(instance, schedule).tolist() == [[2.0], [3.0]]
    assert slot_times(instance.with_rules(timing="serial"), schedule).tolist() == [[3.0], [3.5]]
    found = evaluate(instance, schedule)
    assert found.moved_bytes == {"up": 1, "down": 2}
    assert found.peak_bytes == {"hbm": 3, "ddr": 3}
    assert found.hit_rate == {"hbm": 3 / 5, "ddr": 2 / 5}
    assert found.tpot_s == {"mean": 2.5, "p50": 2.5, "p95": 2.95, "p99": 2.99, "max": 3.0}


def test_inclusive_by_hand() -> None:
    """Moves down are free, births are written through once, hits may be served from either copy."""
    instance = toy(rules={"copies": "inclusive"})
    schedule = Schedule(
        np.array([[0, 0, 1]], np.uint8),
        (LayerEvents.of([0, 0, 0, 1, 1], [0, 2, 3, 1, 4], [1, 0, 0, 1, 1]),),
    )
    # step 0: HBM reads up to 2, writes 2 and 3; DDR reads 2, writes 3 through: 2 s, no split helps
    # step 1: HBM may read 3; DDR reads 0, writes 4: 2 s
    assert slot_times(instance, schedule).tolist() == [[2.0], [2.0]]
    assert evaluate(instance, schedule).moved_bytes == {"up": 1, "down": 0}
    assert evaluate(instance, schedule).peak_bytes == {"hbm": 3, "ddr": 5}


def test_hits_are_split_when_that_is_faster() -> None:
    """Nine hits and one write-through at 4 and 1 bytes/s: 10 bytes in 2 s."""
    instance = toy(trace={"prefill_tokens": 9, "reads": [[list(range(9))]]}, capacity=9)
    schedule = Schedule(np.zeros((1, 9), np.uint8), (LayerEvents.of([0], [9], [1]),))
    assert slot_times(instance, schedule).tolist() == [[2.0]]
    assert slot_times(instance.with_rules(copies="exclusive"), schedule).tolist() == [[9 / 4]]
    assert evaluate(instance, schedule).hit_rate["hbm"] == 1


def test_a_block_moves_whole_and_only_its_unread_tokens_are_extra_reads() -> None:
    instance = toy(
        trace={"prefill_tokens": 3, "reads": [[[1]], [[]]]}, capacity=4,
        rules={"copies": "exclusive", "granularity": 2},
    )  # fmt: skip
    schedule = Schedule(
        np.array([[1, 1, 1]], np.uint8), (LayerEvents.of([0, 0, 1, 1], [0, 3, 2, 4], [0, 1, 0, 1]),)
    )
    counted = schedule_traffic(instance, schedule)
    # reads by tier, unread reads by tier, writes by tier
    assert counted.traffic[:, 0].tolist() == [[0, 1, 0, 1, 2, 1], [0, 0, 0, 2, 2, 1]]
    assert counted.up.tolist() == [[2], [2]]
    assert counted.start.tolist() == [0, 2]
    assert counted.units[:, 0].tolist() == [[1, -1], [1, 0]]


def test_weights_and_rates() -> None:
    instance = toy(llm=llm(weights=1, reads=6))
    schedule = Schedule(np.array([[0, 0, 1]], np.uint8), (LayerEvents.of([0, 1], [3, 4], [1, 1]),))
    found = evaluate(instance, schedule)
    assert found.hit_rate == {"hbm": 3 / 5, "ddr": 2 / 5}
    assert found.hit_rate_with_weights == pytest.approx((3 + 12) / (5 + 12))
    assert found.peak_bytes == {"hbm": 3, "ddr": 5}
    assert found.time_s == 8 / 4 + 2
    as_many = evaluate(toy(llm=llm(reads=2.5)), schedule)  # bytes of weights as of KV
    assert as_many.hit_rate_with_weights == pytest.approx((3 + 5) / (5 + 5))


def test_a_trace_that_reads_nothing() -> None:
    instance = toy(trace={"prefill_tokens": 0, "reads": [[[]], [[1]]]})
    found = simulate(instance, "lru").measures
    assert found is not None
    assert found.hit_rate == {"hbm": 0.0, "ddr": 0.0}
    assert found.hit_rate_with_weights == 0


def test_the_spread_is_that_of_items_on_their_slowest_resource_and_of_latencies() -> None:
    memory = linked_tiers({"fast": 4, "down": 2, "up": 0.5, "slow": 1}, 3)
    assert spread(toy(memory=memory)) == 2 / 0.25
    memory["tiers"][1]["latency"] = 0.125
    assert spread(toy(memory=memory)) == 2 / 0.125
    memory["tiers"][0]["latency"] = 50
    assert spread(toy(memory=memory)) == 50 / 0.125
    assert spread(toy(memory=memory, llm=llm(item=1024))) == 2048 / 0.125


def test_tpot_is_a_statistic_over_steps() -> None:
    assert tpot(np.arange(1.0, 102.0)) == {"mean": 51.0, "p50": 51.0, "p95": 96.0, "p99": 100.0, "max": 101.0}


def broken(what: str) -> Schedule:
    events = {"step": [0, 0, 1], "token": [0, 3, 4], "tier": [1, 0, 1]}
    initial = np.array([[0, 0, 1]], np.uint8)
    match what:
        case "births":
            events = {key: values[:1] for key, values in events.items()}
        case "no events":
            events = {key: [] for key in events}
        case "twice":
            events = {"step": [0, 0, 1], "token": [3, 3, 4], "tier": [1, 1, 1]}
        case "future":
            events["token"][0] = 4
        case "negative":
            events["token"][0] = -1
        case "tier":
            events["tier"][0] = 2
        case "step":
            events["step"][2] = 2
        case "negative step":
            events["step"][1] = -1
        case "initial":
            initial += 1
        case "shape":
            initial = initial[:, :2]
        case "layers":
            return Schedule(initial, ())
    return Schedule(initial, (LayerEvents.of(*events.values()),))


def test_the_valid_schedule_is_accepted() -> None:
    assert evaluate(toy(), broken("nothing")).time_s > 0


@pytest.mark.parametrize(
    ("what", "said"),
    [
        *((what, "one birth of every token") for what in ("births", "no events", "twice")),
        *((what, "a step, token or tier that is not") for what in ("future", "negative", "tier")),
        *((what, "a step, token or tier that is not") for what in ("step", "negative step")),
        *((what, "starts with") for what in ("initial", "shape", "layers")),
    ],
)  # fmt: skip
def test_schedules_of_another_instance_are_refused(what: str, said: str) -> None:
    with pytest.raises(KvboundError, match=said):
        evaluate(toy(), broken(what))


def test_the_published_accounting_is_refused() -> None:
    published = toy(rules={"accounting": "fang2025"})
    for cost in (lambda: evaluate(published, broken("nothing")), lambda: kv.ideal(published)):
        with pytest.raises(UsageError, match="accounting physical only"):
            cost()


def test_measures_sum_up_the_traffic() -> None:
    instance = toy()
    schedule = broken("nothing")
    counted = schedule_traffic(instance, schedule)
    found = measures(instance, np.ones((2, 1)), counted, np.array([1, 2]))
    assert found.time_s == 2
    assert found.peak_bytes == {"hbm": 1, "ddr": 2}
    assert kv.evaluate(instance, schedule).moved_bytes == found.moved_bytes
