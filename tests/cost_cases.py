"""Shared cases of cost tests: an instance small enough to count by hand, and random schedules."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvbound.checker import Report, check
from kvbound.cost.ideal import ideal
from kvbound.cost.traffic import schedule_traffic
from kvbound.instance import Instance
from kvbound.instance_io import make_instance
from kvbound.result import Result
from kvbound.schedule import LayerEvents, Schedule
from tests.instance_documents import llm, two_tiers


def toy(**changes: Any) -> Instance:
    """Two tiers at 4 and 1 bytes/s, items of one byte, no weights."""
    parts: dict[str, Any] = {
        "memory": two_tiers(4, 1, 3),
        "llm": llm(),
        "trace": {"prefill_tokens": 3, "reads": [[[0, 1, 2]], [[0, 3]]]},
    }
    return make_instance("toy", **(parts | changes))


def random_schedule(rng: np.random.Generator, instance: Instance) -> Schedule:
    """A random schedule that need not obey the rules or capacities."""
    size, prefill, tiers = instance.granularity, instance.prefill_tokens, instance.tiers
    busy = rng.uniform(0, 0.4)
    starts, parts = [], []
    for _ in range(instance.layers):
        tier = rng.integers(0, tiers, instance.blocks)
        starts.append(np.repeat(tier, size)[:prefill])
        events: list[tuple[int, int, int]] = []
        for step in range(instance.decode_steps):
            token = prefill + step
            for block in np.flatnonzero(rng.random(-(-token // size)) < busy):
                tier[block] = rng.integers(0, tiers)  # possibly the same tier
                events.append((step, int(block) * size, int(tier[block])))
            events.append((step, token, int(tier[token // size])))
        parts.append(LayerEvents.of(*zip(*events, strict=True)))
    return Schedule(np.array(starts, np.uint8).reshape(instance.layers, prefill), tuple(parts))


def item_counts(instance: Instance, schedule: Schedule) -> NDArray[np.float64]:
    """Items that a schedule's slots read, read without a choice, and write, by tier, (3K, steps, layers).

    They are also those of layers that keep no KV, where they have no bytes.
    """
    llm = replace(instance.llm, kv_bytes_per_token_layer=1, weight_bytes=0, weight_read_bytes_per_layer=0.0)
    single = replace(instance, llm=llm, formats={})
    return np.moveaxis(schedule_traffic(single, schedule).traffic, -1, 0)


def checked(instance: Instance, schedule: Schedule, claimed_s: float | None = None) -> Report:
    """The checker's report on a schedule."""
    slot, item, tier = schedule.flat(instance.tokens)
    file = {
        "schema": np.array("kvbound.schedule/1"), "instance_sha256": np.array(instance.sha256),
        "initial": schedule.initial, "slot": slot, "item": item, "tier": tier,
    }  # fmt: skip
    return check(instance.expanded(), list(instance.trace.rows), file, claimed_s=claimed_s)


def schedule_of(result: Result) -> Schedule:
    assert result.schedule is not None
    return result.schedule


def same(one: Schedule, other: Schedule) -> bool:
    (slot, item, tier), (slot2, item2, tier2) = one.flat(1000), other.flat(1000)
    moves = np.array_equal(slot, slot2) and np.array_equal(item, item2) and np.array_equal(tier, tier2)
    return moves and np.array_equal(one.initial, other.initial)


def assert_sound(instance: Instance, result: Result) -> None:
    """Assert that the checker accepts the schedule and its time, and that the ideal is not above it."""
    assert result.time_s is not None
    report = checked(instance, schedule_of(result), result.time_s)
    assert report.ok, report.problems
    assert ideal(instance) <= result.time_s * (1 + 1e-12)
