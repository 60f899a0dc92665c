"""The program with any number of births per step, ends, and blocks of several sequences."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import highspy
import numpy as np
import pytest

from kvbound.cost.evaluate import evaluate
from kvbound.errors import InfeasibleError, UsageError
from kvbound.instance import Instance
from kvbound.llm import Llm
from kvbound.memory import Memory, Tier
from kvbound.models import Formulation, formulation, intervals
from kvbound.models.coefficients import Coefficients, count_cuts
from kvbound.models.intervals import Intervals
from kvbound.models.time_indexed import TimeIndexed
from kvbound.rules import Rules
from kvbound.schedule import Schedule
from kvbound.solvers.mip.disjunctive_cuts import as_rows, cuttable_slots, deepest_cut
from kvbound.solvers.mip.exact import improve
from kvbound.solvers.mip.export import export_model
from kvbound.solvers.mip.highs import minimise
from kvbound.solvers.reference.brute_force import Optimum, find_optimum
from kvbound.trace import Trace
from tests.strategies import random_schedule, tiny_batch, tiny_instance

INTERVALS: dict[str, Any] = {"tiers": 2, "copies": "inclusive", "migration": "on-read", "granularity": 1}
CLOSE = 1e-6


def solved(seed: int, count: int, **rules: Any) -> Iterator[tuple[np.random.Generator, Instance, Optimum]]:
    """Random instances with their optima."""
    rng = np.random.default_rng(seed)
    while count:
        instance = tiny_instance(rng, batch=True, **rules)
        try:
            optimum = find_optimum(instance)
        except (InfeasibleError, UsageError):
            continue
        count -= 1
        yield rng, instance, optimum


def agrees_with_brute_force(program: Formulation, optimum: Optimum) -> None:
    """Optimum, schedule, relaxations, and the start from the other's schedule."""
    found = minimise(program.matrix, gap=1e-9)
    assert found.values is not None
    assert found.objective * program.unit_s == pytest.approx(optimum.time_s, rel=CLOSE)
    schedule = program.schedule(found.values)
    assert evaluate(program.instance, schedule).time_s == pytest.approx(optimum.time_s, rel=1e-7)
    again = minimise(program.matrix.with_fixed(*program.start(optimum.schedule)), gap=1e-9)
    assert again.objective * program.unit_s == pytest.approx(optimum.time_s, rel=CLOSE)
    for cuts in (False, True):
        relaxed = minimise(type(program)(program.instance, cuts=cuts).matrix, integer=False)  # type: ignore[call-arg]
        assert relaxed.bound <= found.objective * (1 + CLOSE)


@pytest.mark.parametrize("copies", ["inclusive", "exclusive"])
@pytest.mark.parametrize("migration", ["none", "on-read", "prefetch"])
def test_the_time_indexed_form_has_the_optimum_of_brute_force(copies: str, migration: str) -> None:
    for _, instance, optimum in solved(len(copies + migration), 10, copies=copies, migration=migration):
        agrees_with_brute_force(TimeIndexed(instance), optimum)


def test_the_interval_form_has_the_optimum_of_brute_force() -> None:
    for _, instance, optimum in solved(1, 40, **INTERVALS):
        if intervals.supports(instance):
            agrees_with_brute_force(Intervals(instance), optimum)


@pytest.mark.parametrize("rules", [{}, INTERVALS], ids=["any", "intervals"])
def test_a_schedule_converts_to_a_start_and_back(rules: dict[str, Any]) -> None:
    for rng, instance, _ in solved(2, 30, **rules):
        if instance.capacity_units[-1] is not None:
            continue
        program, schedule = formulation(instance), random_schedule(rng, instance)
        answer = minimise(program.matrix.with_fixed(*program.start(schedule)), gap=1e-9)
        assert answer.values is not None
        time = evaluate(instance, schedule).time_s * (1 + CLOSE)
        assert answer.objective * program.unit_s <= time
        assert evaluate(instance, program.schedule(answer.values)).time_s <= time


@pytest.mark.parametrize("rules", [{}, INTERVALS], ids=["any", "intervals"])
def test_the_search_finds_the_optimum(rules: dict[str, Any]) -> None:
    for rng, instance, optimum in solved(3, 10, **rules):
        if instance.capacity_units[-1] is not None:
            continue
        first = random_schedule(rng, instance)
        known = first, evaluate(instance, first)
        found = improve(instance, known, end=math.inf, gap=1e-6, work=1000, threads=1)
        assert found.known[1].time_s == pytest.approx(optimum.time_s, rel=1e-5)
        assert found.bound_s <= optimum.time_s * (1 + CLOSE)
        assert found.rejected == 0


def test_disjunctive_cuts_leave_the_optimum_as_it_is() -> None:
    rng, deepest = np.random.default_rng(4), 0.0
    tiers = Tier("near", 12, ("near",), ("near",)), Tier("far", None, ("down",), ("up",))
    memory = Memory("linked", {"near": 10.0, "down": 1.0, "up": 1.0}, tiers)
    for _ in range(8):
        instance = Instance(
            "m", memory, Llm("two", 2, 1, 0, (30.0, 30.0)), Rules(), tiny_batch(rng, 2, 24, 8)
        )
        program = Intervals(instance)
        point, plain = minimise(program.matrix, integer=False).values, minimise(program.matrix, gap=1e-9)
        assert point is not None
        cuts = [cut for slot in cuttable_slots(program) if (cut := deepest_cut(slot, point)) is not None]
        if cuts:
            with_cuts = minimise(program.matrix.with_rows(*as_rows(cuts)), gap=1e-9)
            assert with_cuts.objective == pytest.approx(plain.objective, rel=CLOSE)
            deepest = max(deepest, *(cut.violation(point) for cut in cuts))
    assert deepest > 0.5


def test_an_exported_file_has_the_optimum(tmp_path: Path) -> None:
    for _, instance, optimum in solved(5, 5):
        unit_s = float(export_model(instance, tmp_path / "model.mps").split()[-2])
        highs = highspy.Highs()
        highs.setOptionValue("output_flag", False)
        highs.readModel(str(tmp_path / "model.mps"))
        highs.run()
        assert highs.getInfo().objective_function_value * unit_s == pytest.approx(optimum.time_s, rel=1e-4)


# Small cases


def one_layer(
    prefill: int,
    reads: list[list[int]],
    room: float,
    *,
    slow: float = 1.0,
    latency: float = 0.0,
    **fields: Any,
) -> Instance:
    """Two tiers that read and write a byte in 1 / 10 and in 1 / slow seconds; items of one byte."""
    rules = {
        name: fields.pop(name) for name in ("copies", "migration", "initial", "granularity") if name in fields
    }
    tiers = (
        Tier("near", room, ("near",), ("near",)),
        Tier("far", None, ("far",), ("far",), latency),
    )
    memory = Memory("two", {"near": 10.0, "far": slow}, tiers)
    trace = Trace.from_lists(prefill, [[ids] for ids in reads], **fields)
    return Instance("small", memory, Llm("one", 1, 1, 0, 0.0), Rules(**rules), trace)


def best(instance: Instance) -> tuple[float, Schedule]:
    program = formulation(instance)
    answer = minimise(program.matrix, gap=1e-9)
    assert answer.values is not None
    schedule = program.schedule(answer.values)
    assert evaluate(instance, schedule).time_s == pytest.approx(answer.objective * program.unit_s)
    return answer.objective * program.unit_s, schedule


@pytest.mark.parametrize("migration", ["none", "on-read", "prefetch"])
def test_an_item_that_ends_in_the_step_of_its_birth_goes_to_the_best_tier_and_takes_no_room(
    migration: str,
) -> None:
    """With exclusive copies; tier 0 is full."""
    instance = one_layer(
        1, [[0], [0]], room=1, copies="exclusive", migration=migration, ends=[None, 0, 1]
    )  # fmt: skip
    time, schedule = best(instance)
    assert time == pytest.approx(2 * (0.1 + 0.1))
    assert schedule.events[0].tier.tolist() == [0, 0]


@pytest.mark.parametrize("migration", ["on-read", "prefetch"])
def test_all_births_of_a_step_are_written_through(migration: str) -> None:
    """In either form; a step without births writes nothing."""
    instance = one_layer(1, [[0], [0]], room=1, migration=migration, births=[3, 0])
    assert best(instance)[0] == pytest.approx(3 + 1 / 11)  # a read split between the two copies


def test_latencies_with_many_births_and_with_none() -> None:
    """Births are written to the last tier without waiting for it."""
    instance = one_layer(0, [[], [0]], room=1, latency=5, births=[8, 0])
    assert best(instance)[0] == pytest.approx(8 + 0.1)


def test_a_move_carries_the_tokens_that_do_not_end() -> None:
    """A block of 2: token 3 ends in step 0, where it is read; token 2, read later, is read to be moved."""
    instance = one_layer(
        4, [[3], [2], [2], [2]], room=2, copies="exclusive", migration="prefetch", granularity=2,
        initial="prefill-first", births=0, ends=[0, 0, None, 0],
    )  # fmt: skip
    # up with its own read in step 1; in step 0 it would take another second
    assert best(instance)[0] == pytest.approx(1 + 1 + 0.1 + 0.1)


def test_items_do_not_move_when_they_end() -> None:
    """In the interval form, where items leave tier 0 after their last read."""
    instance = one_layer(3, [[1], [1]], room=3, initial="prefill-first", births=0, ends=[0, 1, None])
    assert isinstance(formulation(instance), Intervals)
    _, schedule = best(instance)
    assert schedule.events[0].token.tolist() == [2]


def test_count_cuts_contain_the_write_through_of_all_births() -> None:
    """With m of 8 reads missed and b births, the time is max(b + m, (8 + b) / 6), bent at (8 - 5 b) / 6."""
    tiers = Tier("near", 3, ("near",), ("near",)), Tier("far", None, ("far",), ("far",))
    memory = Memory("m", {"near": 5.0, "far": 1.0}, tiers)
    trace = Trace.from_lists(8, [[list(range(8))]] * 3, births=[0, 1, 2])
    coefficients = Coefficients.of(Instance("m", memory, Llm("one", 1, 1, 0, 0.0), Rules(), trace))
    cuts = [np.array(count_cuts(coefficients, step, 0)) * coefficients.unit_s for step in range(3)]
    assert cuts[0] == pytest.approx(np.array([[2 / 3, 2 / 3]]))
    assert cuts[1] == pytest.approx(np.array([[1 / 2, 3 / 2]]))
    assert not cuts[2].size
