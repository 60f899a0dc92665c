"""The parts of a decode time against hand calculations, and their sum against the time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvbound.cost.evaluate import slot_times
from kvbound.cost.parts import TimeParts, time_parts
from kvbound.cost.traffic import schedule_traffic
from kvbound.schedule import LayerEvents, Schedule
from tests.cost_cases import random_schedule, toy
from tests.instance_documents import llm, two_tiers
from tests.policies.cases import medium_instance

MOVING = Schedule(
    np.array([[0, 0, 1]], np.uint8),
    (LayerEvents.of([0, 0, 0, 1, 1], [0, 2, 3, 1, 4], [1, 0, 0, 1, 1]),),
)
"""0 and 1 start in HBM. Step 0 moves 2 up and 0 down, both of which it reads; step 1 moves 1 down, unread."""


def parts(**changes: Any) -> TimeParts:
    instance = toy(**changes)
    return time_parts(instance, schedule_traffic(instance, MOVING))


def test_serial_parts_are_the_seconds_of_all_bytes() -> None:
    # at 4 and 1 bytes/s; step 0: HBM reads 0, 1, DDR reads 2; 2 is written up, 0 down, 3 born in HBM
    # step 1: HBM reads 3 and, to move it, 1; DDR reads 0 and writes 1 and the new 4
    found = parts(rules={"copies": "exclusive", "timing": "serial"}, llm=llm(reads=2))
    assert found == TimeParts(
        weights=1.0,
        reads={"hbm": 0.75, "ddr": 2.0},
        births=0.25 + 1,
        moves=(0.25 + 1) + (0.25 + 1),
        latency=0,
    )


def test_only_what_binds_takes_time_in_parallel() -> None:
    # DDR binds in both steps: it reads 2 and writes 0; then it reads 0 and writes 1 and 4
    found = parts(rules={"copies": "exclusive"})
    assert found == TimeParts(weights=0, reads={"hbm": 0, "ddr": 2}, births=1, moves=2, latency=0)


def test_reads_that_are_split_count_where_they_are_served() -> None:
    instance = toy(trace={"prefill_tokens": 9, "reads": [[list(range(9))]]}, capacity=9)
    schedule = Schedule(np.zeros((1, 9), np.uint8), (LayerEvents.of([0], [9], [1]),))
    # nine hits and a write-through at 4 + 1 bytes/s: 8 from HBM, 1 from DDR, in 2 s, 0.2 s for every byte
    found = time_parts(instance, schedule_traffic(instance, schedule))
    assert found.reads == {"hbm": pytest.approx(1.6), "ddr": pytest.approx(0.2)}
    assert found.births == pytest.approx(0.2)


def test_latencies_are_a_part() -> None:
    memory = two_tiers(4, 1, 3)
    memory["tiers"][1]["latency"] = 0.5
    assert parts(memory=memory, rules={"copies": "exclusive"}).latency == 1.0


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=80, deadline=None)
def test_parts_add_up_to_the_time(seed: int) -> None:
    rng = np.random.default_rng(seed)
    instance = medium_instance(rng)
    schedule = random_schedule(rng, instance)
    found = time_parts(instance, schedule_traffic(instance, schedule))
    parts = [found.weights, *found.reads.values(), found.births, found.moves, found.latency]
    total = slot_times(instance, schedule).sum()
    assert min(parts) >= -1e-9 * total
    assert sum(parts) == pytest.approx(total, rel=1e-9)
