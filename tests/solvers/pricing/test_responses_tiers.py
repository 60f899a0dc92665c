"""Responses under any rules: legal schedules, better than policies, the same for any kernel and threads."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import kvbound as kv
from kvbound.bitsets.lanes import Lanes
from kvbound.checker import check
from kvbound.cost.evaluate import evaluate
from kvbound.instance import Instance
from kvbound.rules import Copies, Migration
from kvbound.schedule import Schedule
from kvbound.solvers.lagrangian.ascent import Multipliers
from kvbound.solvers.lagrangian.bound import maximize_dual
from kvbound.solvers.lagrangian.evaluation import prove
from kvbound.solvers.lagrangian.slots.minorants import SlotMinorants
from kvbound.solvers.pricing import best_response
from kvbound.solvers.pricing.responses.tiers import TierResponses
from kvbound.studies import Scale
from kvbound.studies.fang2025 import Cell
from tests.instance_documents import llm
from tests.replay import problems
from tests.strategies import rule_combinations, tiny_instance, with_layers, with_overlap

FAST = {"copies": Copies.INCLUSIVE, "granularity": 1, "tiers": 2}
"""Rules under which responses are bits instead."""
MOVING = [
    rules
    for rules in rule_combinations()
    if rules["migration"] is not Migration.NONE and not FAST.items() <= rules.items()
]


def untuned(instance: Instance, rng: np.random.Generator, *, dear: bool) -> Multipliers:
    """Random multipliers; without prices of capacity all items prefer the fastest tier."""
    rows = SlotMinorants.of(instance)
    weights = rng.random(rows.alpha.shape) + 1e-9
    capacity = dear * rng.exponential(rows.beta.max(), (instance.tiers, 1 + instance.slots))
    return Multipliers(weights / weights.sum(axis=0), capacity)


def rejected(instance: Instance, schedule: Schedule) -> tuple[str, ...]:
    arrays = schedule.arrays(instance_sha256=instance.sha256, tokens=instance.tokens)
    time_s = evaluate(instance, schedule).time_s
    return check(instance.expanded(), instance.trace.rows, arrays, claimed_s=time_s).problems


@given(st.sampled_from(MOVING), st.integers(0, 2**32 - 1), st.booleans(), st.booleans())
@settings(max_examples=80, deadline=None)
def test_a_legal_schedule_whatever_the_prices(
    rules: dict[str, Any], seed: int, dear: bool, batch: bool
) -> None:
    rng = np.random.default_rng(seed)
    instance = tiny_instance(rng, batch=batch, **rules)
    found = best_response.best_responses(instance, untuned(instance, rng, dear=dear), seed=seed).schedule()
    assert isinstance(found, Schedule)
    assert rejected(instance, found) == ()


@given(st.sampled_from(MOVING), st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_legal_schedule_where_layers_differ(rules: dict[str, Any], seed: int, dear: bool) -> None:
    rng = np.random.default_rng(seed)
    instance = with_layers(rng, tiny_instance(rng, layers=2, batch=bool(rng.integers(2)), **rules))
    instance = with_overlap(rng, instance)
    found = best_response.best_responses(instance, untuned(instance, rng, dear=dear), seed=seed).schedule()
    assert isinstance(found, Schedule)
    assert problems(instance, found) == []


@given(st.sampled_from(MOVING), st.integers(0, 2**32 - 1), st.booleans(), st.booleans())
@settings(max_examples=80, deadline=None)
def test_counts_are_those_of_the_plan(rules: dict[str, Any], seed: int, batch: bool, differ: bool) -> None:
    """Counts kept up to date with every response are those of the whole plan, counted at once."""
    rng = np.random.default_rng(seed)
    instance = tiny_instance(rng, batch=batch, layers=2 if differ else None, **rules)
    instance = with_layers(rng, instance) if differ else instance
    responses = TierResponses.empty(instance, 1, "numba", 1)
    lanes = Lanes.of(instance, slice(None), np.zeros(instance.layers, np.int64))

    def some(shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.bool_]]:
        return rng.random(shape) < 0.5

    shape = 3 * instance.tiers, instance.decode_steps, instance.layers
    for adopt in (None, some, some):
        prices = rng.random(shape), rng.random((instance.tiers, 1 + instance.slots))
        responses.update(lanes, *prices, adopt)
    again = TierResponses.empty(instance, 1, "numpy", 1)
    again._count(lanes, responses.first, responses.plan, 1)
    for name in ("counts", "after", "start"):
        assert np.array_equal(getattr(responses, name), getattr(again, name))
    assert responses.share == 1


def planned(plan: list[list[int]]) -> NDArray[np.uint8]:
    """Repair a plan for prompt blocks of one layer: their tiers at the start, and after every slot.

    Tiers 0 and 1 have room for two blocks each, the last for all; copies are exclusive, anything may move.
    """
    first, *after = plan
    memory = {
        "name": "m",
        "resources": {"a": 4, "b": 2, "c": 1},
        "tiers": [
            {"name": name, "capacity": room, "reads": [name], "writes": [name]}
            for name, room in (("a", 2), ("b", 2), ("c", None))
        ],
    }
    trace = {"prefill_tokens": len(first), "reads": [[[]]] * len(after), "births": 0}
    rules = {"copies": "exclusive", "migration": "prefetch"}
    instance = kv.make_instance("m", memory=memory, llm=llm(), trace=trace, rules=rules)
    responses = TierResponses.empty(instance, 1, "numpy", 1)
    responses.first[0, : len(first)] = first
    responses.plan[:, 0, : len(first)] = after
    schedule = responses.repaired()
    assert rejected(instance, schedule) == ()
    return np.concatenate([schedule.initial, responses.plan[:, 0, : len(first)]])


def test_blocks_of_full_tiers_change_places() -> None:
    plan = [[0, 0, 1, 1], [1, 1, 0, 0], [0, 1, 2, 0], [1, 2, 0, 0]]
    assert planned(plan).tolist() == plan


def test_where_there_is_no_room_blocks_wait() -> None:
    """Those that stay longest, as others may have their place later; rather from a tier with room."""
    assert planned([[1, 1, 2, 0, 0], [0, 0, 1, 0, 1], [0, 1, 1, 0, 2]]).tolist()[1] == [1, 0, 2, 0, 1]
    assert planned([[0, 0, 1, 1, 2], [0, 1, 0, 0, 1], [0, 1, 1, 0, 1]]).tolist()[1] == [0, 1, 0, 1, 2]


def exclusive(**factors: Any) -> Instance:
    case = Cell(**factors).instance(Scale("small", 64, 16, 0.0))
    return case.with_rules(accounting="physical", copies="exclusive")


@pytest.fixture(scope="module")
def high() -> tuple[Instance, Multipliers, float]:
    instance = exclusive(variation="high")
    tuned = maximize_dual(instance, time_limit=math.inf, iterations=200)
    assert tuned.multipliers is not None
    return instance, tuned.multipliers, tuned.certificate.bound_s


def test_close_to_the_bound_where_policies_are_not(high: tuple[Instance, Multipliers, float]) -> None:
    instance, multipliers, bound_s = high
    found = best_response.best_responses(instance, multipliers)
    schedule = found.schedule()
    assert isinstance(schedule, Schedule)
    assert rejected(instance, schedule) == ()
    time_s = evaluate(instance, schedule).time_s
    belady = kv.simulate(instance, "belady").time_s
    assert belady is not None
    assert prove(instance, found.multipliers).bound_s <= time_s
    assert bound_s <= time_s
    assert time_s - bound_s < 0.1 * (belady - bound_s)


@pytest.mark.parametrize("options", [{"threads": 2}, {"kernel": "numpy"}])
def test_same_schedule_for_any_threads_and_kernel(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(best_response, "SWEEPS", 1)
    instance = Cell(block=16).instance(Scale("small", 32, 32, 0.0)).with_rules(accounting="physical")
    multipliers = untuned(instance, np.random.default_rng(0), dear=True)
    files = []
    for chosen in ({}, options):
        found = best_response.best_responses(instance, multipliers, **chosen).schedule()
        assert isinstance(found, Schedule)
        files.append(found.arrays(instance_sha256="", tokens=instance.tokens))
    for one, other in zip(files[0].values(), files[1].values(), strict=True):
        assert np.array_equal(one, other)


def test_unsupported_without_moves_or_where_the_plan_is_too_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    instance = exclusive()
    assert best_response.supports(instance)
    assert not best_response.supports(instance.with_rules(migration="none"))
    monkeypatch.setattr(best_response, "MOST_BYTES", 1e3)
    assert not best_response.supports(instance)
    assert best_response.supports(instance.with_rules(copies="inclusive"))
