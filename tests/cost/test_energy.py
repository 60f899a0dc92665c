"""Energies against hand calculations, and against the bytes that each resource transfers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, reject, settings
from hypothesis import strategies as st

import kvbound as kv
from kvbound.cost.energy import energy
from kvbound.cost.evaluate import slot_times
from kvbound.cost.slot import SlotCost
from kvbound.cost.traffic import schedule_traffic
from kvbound.errors import InfeasibleError
from kvbound.instance import Instance
from kvbound.schedule import LayerEvents, Schedule
from kvbound.solvers.portfolio import solve
from tests.cost.test_parts import MOVING
from tests.cost_cases import toy
from tests.energy_cases import energies, scaled, with_any_energy, with_energy
from tests.instance_documents import llm, tier
from tests.policies.cases import medium_instance
from tests.strategies import (
    random_schedule,
    tiny_instance,
    with_experts,
    with_formats,
    with_overlap,
    with_placeable_weights,
)

TWO = {"fast": 1.0, "slow": 10.0}
THREE = {"fast": 1.0, "link": 1.0, "middle": 2.0, "disk": 5.0}
PARTS = ("weights", "kv", "moves")
seeds = st.integers(0, 2**32 - 1)


def joules(instance: Instance, schedule: Schedule) -> dict[str, float | None] | None:
    """The energy of a schedule, which may exceed capacities."""
    time = float(slot_times(instance, schedule).sum())
    return energy(instance, schedule_traffic(instance, schedule), time)


def picojoules(
    schedule: Schedule, energy: dict[str, float] = TWO, **changes: Any
) -> tuple[float, ...] | None:
    """The energy of weights, KV and moves of a toy instance, in pJ."""
    found = joules(with_energy(toy(**changes), energy), schedule)
    if found is None:
        return None
    assert set(found) == {*PARTS, "compute"}
    return tuple(round(1e12 * (found[part] or 0.0), 9) for part in PARTS)


def test_exclusive_by_hand() -> None:
    # HBM costs 1 pJ per byte, DDR 10. Two slots read 2 bytes of weights. KV: HBM reads 0, 1 and 3, DDR 2 and
    # 0; 3 is born in HBM, 4 in DDR. Moves: 2 up and 0 down, both read; 1 down, which HBM reads for that
    found = picojoules(MOVING, rules={"copies": "exclusive"}, llm=llm(reads=2))
    assert found == (4, (3 + 1) + (20 + 10), (1 + 10) + (1 + 10))


def test_inclusive_by_hand() -> None:
    # births are written through, 4 only once, and moves down cost nothing, nor does a read for them
    found = picojoules(MOVING, rules={"copies": "inclusive"}, llm=llm(reads=2))
    assert found == (4, (3 + 1) + (20 + 10 + 10), 1)


@pytest.mark.parametrize(("timing", "kv"), [("parallel", 8 + 10 + 10), ("serial", 9 + 10)])
def test_reads_that_are_split_cost_what_the_tiers_that_serve_them_do(timing: str, kv: float) -> None:
    # nine hits and a write-through at 4 and 1 bytes/s: in parallel HBM serves 8 of the hits and DDR 1
    schedule = Schedule(np.zeros((1, 9), np.uint8), (LayerEvents.of([0], [9], [1]),))
    trace = {"prefill_tokens": 9, "reads": [[list(range(9))]]}
    assert picojoules(schedule, trace=trace, capacity=9, rules={"timing": timing}) == (0, kv, 0)


def test_placed_weights_and_kv_are_diverted_in_the_same_share() -> None:
    # as above, but three of the nine bytes that HBM holds are weights: one byte in nine is diverted
    placed = llm(reads=3, weights=3) | {"weights": "placeable"}
    trace = {"prefill_tokens": 6, "reads": [[list(range(6))]]}
    schedule = Schedule(np.zeros((1, 64 + 6), np.uint8), (LayerEvents.of([0], [64 + 6], [1]),))
    found = picojoules(schedule, trace=trace, capacity=9, llm=placed)
    assert found == pytest.approx(((3 - 1 / 3) + 10 / 3, (6 - 2 / 3) + 20 / 3 + 10, 0))


def test_placed_weights_that_move() -> None:
    # the chunk goes up in the first step, which reads it below, and stays there
    placed = llm(reads=3, weights=3) | {"weights": "placeable"}
    trace = {"prefill_tokens": 0, "reads": [[[]], [[]]]}
    initial = np.ones((1, 64), np.uint8)
    schedule = Schedule(initial, (LayerEvents.of([0, 0, 1], [0, 64, 65], [0, 0, 0]),))
    found = picojoules(schedule, trace=trace, llm=placed, capacity=9, rules={"copies": "exclusive"})
    assert found == (30 + 3, 2, 3)


def three(**rules: Any) -> dict[str, Any]:
    """Three tiers, the slower two behind a link; two of three tokens are read in the only step."""
    tiers = [tier("near", 9, "fast"), tier("mid", 9, "link middle"), tier("far", None, "link disk")]
    memory = {"name": "m", "resources": {"fast": 8, "link": 4, "middle": 3, "disk": 1}, "tiers": tiers}
    trace = {"prefill_tokens": 3, "reads": [[[1, 2]]]}
    return {"memory": memory, "trace": trace, "rules": rules, "llm": llm(reads=2)}


UP_AND_DOWN = Schedule(np.array([[0, 1, 2]], np.uint8), (LayerEvents.of([0, 0, 0], [0, 1, 3], [2, 0, 1]),))
"""0 goes from the first tier to the last, unread; 1 from the second to the first; 3 is born in the second."""


def test_three_exclusive_tiers_by_hand() -> None:
    # near costs 1 pJ per byte, mid 1 + 2, far 1 + 5
    found = picojoules(UP_AND_DOWN, THREE, **three(copies="exclusive"))
    assert found == (2, (3 + 6) + 3, (1 + 6) + 1)


def test_three_inclusive_tiers_by_hand() -> None:
    # the disk binds, so that it serves no read that mid can serve
    found = picojoules(UP_AND_DOWN, THREE, **three(copies="inclusive"))
    assert found == (2, (3 + 6) + (3 + 6), 1)


def test_a_tier_that_costs_nothing_to_write_takes_no_energy() -> None:
    parts = three(copies="exclusive")
    parts["memory"]["tiers"][2]["writes"] = []
    assert picojoules(UP_AND_DOWN, THREE, **parts) == (2, (3 + 6) + 3, 1 + 1)


@pytest.mark.parametrize("missing", TWO)
def test_no_energy_without_that_of_every_resource_that_is_loaded(missing: str) -> None:
    some = {name: value for name, value in TWO.items() if name != missing}
    assert picojoules(MOVING, some) is None
    assert picojoules(MOVING, {}) is None
    # all stays in HBM, with exclusive copies: the other resource is idle
    still = Schedule(np.zeros((1, 3), np.uint8), (LayerEvents.of([0, 1], [3, 4], [0, 0]),))
    assert (picojoules(still, some, rules={"copies": "exclusive"}) is None) == (missing == "fast")


def test_only_the_middle_estimate_of_the_device_counts() -> None:
    instance = toy()
    for level, point in (("system", "mid"), ("device", "low"), ("device", "high")):
        memory = replace(instance.memory, energy={name: {level: {point: 1.0}} for name in TWO})
        assert joules(replace(instance, memory=memory), MOVING) is None


def test_arithmetic_and_static_power() -> None:
    memory = {"static_watts": 3.0, "mac_energy": {"device": {"mid": 1.5}}}
    instance = with_energy(toy(llm=llm() | {"parameters": 1000}), TWO, **memory)
    found = joules(instance, MOVING)
    assert found is not None
    assert found["compute"] == pytest.approx(2 * 1000 * 1.5e-12)  # two decoded tokens, one MAC per parameter
    assert found["static"] == pytest.approx(3 * slot_times(instance, MOVING).sum())
    mixture = replace(instance.llm, experts=8, expert_bytes=1, experts_read=2.0)
    for changed in (
        replace(instance, llm=replace(instance.llm, parameters=None)),
        replace(instance, llm=mixture),
        replace(instance, memory=replace(instance.memory, mac_energy={"system": {"mid": 1.5}})),
    ):
        assert joules(changed, MOVING) == found | {"compute": None}


CHANGES: tuple[tuple[Callable[[np.random.Generator, Instance], Instance], ...], ...] = (
    (), (with_formats,), (with_placeable_weights,), (with_placeable_weights, with_experts),
)  # fmt: skip


def any_instance(rng: np.random.Generator) -> Instance:
    """Any small instance with an unlimited last tier: formats, placed weights, experts, unlike layers."""
    if rng.random() < 0.3:
        made = medium_instance(rng, batch=bool(rng.integers(2)), differ=bool(rng.integers(2)))
    else:
        made = tiny_instance(rng, batch=bool(rng.integers(2)))
        for change in CHANGES[int(rng.integers(len(CHANGES)))]:
            made = change(rng, made)
    *others, last = made.memory.tiers
    return replace(made, memory=replace(made.memory, tiers=(*others, replace(last, capacity=None))))


def any_schedule(rng: np.random.Generator, instance: Instance) -> Schedule:
    """A schedule of any legal moves, or, where weights may be placed, one that was searched for."""
    if not instance.chunks.ids:
        return random_schedule(rng, instance)
    try:
        found = solve(instance, "anneal", work=5, seed=int(rng.integers(1000))).schedule
        return found or solve(instance, "lru").schedule or random_schedule(rng, instance)
    except InfeasibleError:  # nothing fits beside the weights
        reject()


@given(seeds)
@example(116_071)  # whose weights do not fit
@settings(max_examples=120, deadline=None)
def test_the_parts_add_up_to_the_energy_of_the_bytes_of_all_resources(seed: int) -> None:
    rng = np.random.default_rng(seed)
    instance = with_overlap(rng, with_any_energy(rng, any_instance(rng)))
    schedule = any_schedule(rng, instance)
    found = joules(instance, schedule)
    assert found is not None
    assert min(found[part] or 0.0 for part in PARTS) >= 0
    traffic = instance.timed(schedule_traffic(instance, schedule).traffic, axis=1)
    busy = SlotCost.of(instance).busy(traffic).sum(axis=(0, 1))
    transferred = busy * instance.memory.bandwidths
    total = float(transferred @ instance.memory.joules_per_byte())
    assert math.fsum(found[part] or 0.0 for part in PARTS) == pytest.approx(total, rel=1e-9)


@given(seeds, st.sampled_from([0.0, 0.5, 3.0]))
@settings(max_examples=40, deadline=None)
def test_energies_scale(seed: int, factor: float) -> None:
    rng = np.random.default_rng(seed)
    instance = with_any_energy(rng, medium_instance(rng))
    schedule = random_schedule(rng, instance) if instance.memory.tiers[-1].capacity is None else None
    if schedule is None:
        return
    found = joules(instance, schedule)
    more = joules(replace(instance, memory=scaled(instance.memory, factor)), schedule)
    assert found is not None
    assert more == pytest.approx({part: factor * (value or 0.0) for part, value in found.items()}, rel=1e-12)


@given(seeds)
@settings(max_examples=30, deadline=None)
def test_placed_weights_cost_what_resident_ones_do_where_they_are(seed: int) -> None:
    """Whole blocks of weights that stay in the first tier, with exclusive copies."""
    rng = np.random.default_rng(seed)
    made = tiny_instance(rng, copies="exclusive", granularity=1, migration="none", initial="free")
    item, layers = made.llm.kv_sizes[0], made.layers
    reads = tuple(float(item * n) for n in rng.integers(1, 4, layers))
    tiers = tuple(
        replace(each, capacity=10**6 if k == 0 else each.capacity) for k, each in enumerate(made.memory.tiers)
    )
    model = replace(made.llm, weight_bytes=int(sum(reads)), weight_read_bytes_per_layer=reads)
    resident = with_any_energy(rng, replace(made, llm=model, memory=replace(made.memory, tiers=tiers)))
    placed = replace(resident, llm=replace(resident.llm, weights="placeable"))
    one, other = (kv.simulate(each, "static") for each in (resident, placed))
    assert one.measures is not None
    assert other.measures is not None
    assert other.measures.energy_j == pytest.approx(one.measures.energy_j, rel=1e-12)


def test_a_batch_and_results_without_a_schedule() -> None:
    instance = with_energy(kv.read_instance("tiny-three"), THREE)
    found = kv.simulate(instance, "lru")
    assert found.measures is not None
    assert found.measures.energy_j is not None
    assert found.total_energy_j == sum(found.measures.energy_j[part] or 0.0 for part in PARTS)
    assert found.energy_per_token_j == pytest.approx(found.total_energy_j / 4)
    assert found.to_json()["energy_j"] == found.measures.energy_j
    bound = kv.simulate(instance, "ideal")
    assert bound.total_energy_j is bound.energy_per_token_j is bound.to_json()["energy_j"] is None


def test_the_published_accounting_has_no_energy() -> None:
    instance = with_energy(kv.read_instance("tiny-on-read").with_rules(accounting="fang2025"), TWO)
    named = {name: 1.0 for name in instance.memory.resources}
    found = kv.simulate(with_energy(instance, named), "static")
    assert found.measures is not None
    assert found.measures.energy_j is None


def test_energies_change_neither_the_hash_nor_the_schedule() -> None:
    instance = kv.read_instance("tiny-on-read")
    named = dict.fromkeys(instance.memory.resources, 1.0)
    rich = with_energy(instance, named, static_watts=1.0, mac_energy={"device": {"mid": 1.0}})
    rich = replace(rich, llm=replace(rich.llm, parameters=7))
    assert rich.sha256 == instance.sha256
    assert kv.simulate(rich, "lru").time_s == kv.simulate(instance, "lru").time_s
    assert rich.expanded()["memory"]["energy"] == energies(named)
