"""The search of cores: small parts of the program that hold the best schedule so far and better ones."""

import dataclasses
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kvbound as kv
from kvbound.cost.evaluate import evaluate
from kvbound.instance import Instance
from kvbound.models import formulation
from kvbound.models.time_indexed import TimeIndexed
from kvbound.result import Measures
from kvbound.schedule import Schedule
from kvbound.simulation import simulate
from kvbound.solvers.lagrangian.bound import maximize_dual
from kvbound.solvers.mip.verification import TOLERANCE
from kvbound.solvers.pricing import core
from tests.strategies import layered_instances, random_schedule, tiny_instances


def states(instance: Instance) -> core.States:
    program = formulation(instance)
    assert isinstance(program, TimeIndexed)
    multipliers = maximize_dual(instance, work=30).multipliers
    assert multipliers is not None
    return core.States.of(program, multipliers)


def exclusive(steps: int) -> Instance:
    recorded = kv.read_instance("native-r15-c25-b64-n64-exclusive")
    return dataclasses.replace(recorded, workload=recorded.trace.head(steps))


def first(instance: Instance) -> tuple[Schedule, Measures]:
    result = simulate(instance, "belady")
    assert result.schedule is not None
    assert result.measures is not None
    return result.schedule, result.measures


@given(tiny_instances() | layered_instances(), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_a_core_contains_the_schedule_that_it_starts_from(instance: Instance, seed: int) -> None:
    rng = np.random.default_rng(seed)
    if not isinstance(formulation(instance), TimeIndexed):
        instance = instance.with_rules(migration="prefetch")
    found, schedule = states(instance), random_schedule(rng, instance)
    if not len(found.columns):
        return
    count, layer = int(rng.integers(len(found.columns))), int(rng.integers(instance.layers))
    for layers in (slice(None), slice(layer, layer + 1)):
        part = found.core(schedule, count, layers)
        columns, values = part.start(schedule)
        whole = np.zeros(part.matrix.columns)
        whole[columns] = values
        assert np.all((part.matrix.lower <= whole) | ~part.matrix.integer)
        again = part.schedule(whole)
        assert evaluate(instance, again).time_s == pytest.approx(evaluate(instance, schedule).time_s)


def test_it_is_a_small_part_of_the_program_and_holds_far_better_schedules() -> None:
    instance = exclusive(16)
    found, known = states(instance), first(instance)
    part = found.core(known[0], 1000, slice(None))
    assert part.matrix.columns < 0.4 * found.program.matrix.columns
    multipliers = maximize_dual(instance, work=300).multipliers
    assert multipliers is not None
    better = core.improve_in_core(
        instance, known, multipliers, end=time.perf_counter() + 60, gap=0.02, bound_s=0.0, threads=1
    )
    assert better.known[1].time_s < 0.9 * known[1].time_s


def test_bounds_of_cores_are_not_taken_for_bounds_of_the_instance(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program as a whole is solved in the end, and only that proves anything."""
    monkeypatch.setattr(core, "FEWEST_STATES", 5)
    instance = kv.read_instance("swap-1x24-c30-b64-exclusive-prefetch")
    optimum = kv.solve(instance, "exact", time_limit=60)
    assert optimum.time_s is not None
    multipliers = maximize_dual(instance, work=100).multipliers
    assert multipliers is not None
    found = core.improve_in_core(
        instance, first(instance), multipliers, end=time.perf_counter() + 60, gap=1e-6, bound_s=0.0
    )
    assert found.bound_s <= optimum.time_s * (1 + TOLERANCE)
    assert found.known[1].time_s == pytest.approx(optimum.time_s, rel=1e-4)


def test_an_interrupt_between_searches_keeps_what_they_found(monkeypatch: pytest.MonkeyPatch) -> None:
    instance, build, built = exclusive(10), core.States.core, list[int]()
    multipliers = maximize_dual(instance, work=200).multipliers

    def interrupted(self: core.States, *more: Any) -> core.Core:
        built.append(1)
        if len(built) == 3:
            raise KeyboardInterrupt
        return build(self, *more)

    monkeypatch.setattr(core, "FEWEST_STATES", 500)
    monkeypatch.setattr(core.States, "core", interrupted)
    known, end = first(instance), time.perf_counter() + 60
    found = core.improve_in_core(instance, known, multipliers, end=end, gap=1e-3, bound_s=0.0)
    assert found.termination.reason == "interrupted"
    assert found.known[1].time_s < known[1].time_s
