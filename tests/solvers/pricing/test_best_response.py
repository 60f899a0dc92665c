"""Best responses: legal schedules near the bound, the same for any kernel and number of threads."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvbound.bitsets.two_tier import TwoTierSchedule
from kvbound.checker import check
from kvbound.cost.evaluate import evaluate, evaluate_traffic
from kvbound.instance import Instance
from kvbound.progress import Progress, silent
from kvbound.result import Limit, Reason, Termination
from kvbound.rules import Migration
from kvbound.schedule import Schedule
from kvbound.solvers.eviction import balanced
from kvbound.solvers.lagrangian.ascent import Multipliers
from kvbound.solvers.lagrangian.bound import maximize_dual
from kvbound.solvers.lagrangian.evaluation import prove
from kvbound.solvers.pricing import best_response
from kvbound.solvers.pricing.best_response import best_responses
from kvbound.solvers.reference.brute_force import find_optimum
from kvbound.studies import Scale
from kvbound.studies.fang2025 import Cell
from tests.replay import problems
from tests.solvers.pricing.cases import cost, differing, simple, untuned
from tests.strategies import tiny_instance


@given(simple(), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_a_legal_schedule_that_costs_what_it_says(instance: Instance, seed: int) -> None:
    schedule = best_responses(instance, untuned(instance, seed), seed=seed).schedule()
    assert isinstance(schedule, TwoTierSchedule)
    measures = evaluate_traffic(instance, schedule.traffic(instance))
    bits = schedule.residency.arrays(instance_sha256=instance.sha256, tokens=instance.tokens)
    report = check(instance.expanded(), instance.trace.rows, bits, claimed_s=measures.time_s)
    assert report.problems == ()
    known = evaluate(instance, schedule.residency.to_schedule())
    assert known.time_s == pytest.approx(measures.time_s, rel=1e-12)
    assert (known.moved_bytes, known.hit_rate) == (measures.moved_bytes, measures.hit_rate)


@given(differing(), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_a_legal_schedule_where_layers_differ(instance: Instance, seed: int) -> None:
    found = best_responses(instance, untuned(instance, seed), seed=seed).schedule()
    assert isinstance(found, TwoTierSchedule)
    schedule = found.residency.to_schedule()
    assert problems(instance, schedule) == []
    assert evaluate(instance, schedule).time_s == pytest.approx(cost(instance, found), rel=1e-12)


@pytest.mark.parametrize("batch", [False, True])
def test_mostly_optimal_on_the_tiniest_instances(batch: bool) -> None:
    """As often where any number of tokens is born in a step and tokens end as elsewhere."""
    gaps = []
    for seed in range(16):
        rng = np.random.default_rng(seed)
        migration = [Migration.ON_READ, Migration.PREFETCH][seed % 2]
        instance = tiny_instance(rng, batch=batch, migration=migration)
        tuned = maximize_dual(instance, work=60)
        assert tuned.multipliers is not None
        found = best_responses(instance, tuned.multipliers, sweeps=2).schedule()
        assert found is not None
        schedule = found if isinstance(found, Schedule) else found.residency.to_schedule()
        arrays = schedule.arrays(instance_sha256=instance.sha256, tokens=instance.tokens)
        time_s = evaluate(instance, schedule).time_s
        assert check(instance.expanded(), instance.trace.rows, arrays, claimed_s=time_s).problems == ()
        optimum = find_optimum(instance).time_s
        assert tuned.certificate.bound_s <= optimum * (1 + 1e-9)
        assert optimum <= time_s * (1 + 1e-9)
        gaps.append(time_s / optimum - 1)
    assert np.median(gaps) < 1e-9


@pytest.fixture(scope="module")
def tight() -> tuple[Instance, Multipliers]:
    """High variation and a slow link with prefetch, where what a slot can use changes from step to step."""
    cell = Cell("high", hbm=25, link=64, migration="prefetch").instance(Scale("small", 64, 16, 0.0))
    instance = cell.with_rules(accounting="physical")
    tuned = maximize_dual(instance, time_limit=math.inf, iterations=400)
    assert tuned.multipliers is not None
    return instance, tuned.multipliers


@pytest.mark.parametrize("options", [{}, {"threads": 2}, {"kernel": "numpy"}])
def test_same_bits_for_any_threads_and_kernel(
    tight: tuple[Instance, Multipliers], options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    instance, multipliers = tight
    monkeypatch.setattr(best_response, "SWEEPS", 1)
    monkeypatch.setattr(best_response, "THREADED_FROM", 0)  # threads for the smallest instance, too
    one, other = (
        best_responses(instance, multipliers, seed=3, **chosen).schedule() for chosen in ({}, options)
    )
    assert isinstance(one, TwoTierSchedule)
    assert isinstance(other, TwoTierSchedule)
    for layer in range(instance.layers):
        assert np.array_equal(one.residency.after(layer), other.residency.after(layer))
    assert np.array_equal(one.residency.initial, other.residency.initial)


@pytest.mark.parametrize(("variation", "most"), [("high", 0.7), ("actual-like", 0.5)])
def test_closer_to_the_bound_than_balanced_eviction(variation: str, most: float) -> None:
    case = Cell(variation).instance(Scale("small", 16, 16, 0.0))
    instance = case.with_rules(accounting="physical")
    tuned = maximize_dual(instance, time_limit=math.inf, iterations=500)
    assert tuned.multipliers is not None
    bound = tuned.certificate.bound_s
    evicted = min(cost(instance, each) for each in balanced.schedules(instance, silent))
    priced = cost(instance, best_responses(instance, tuned.multipliers).schedule())
    assert bound <= priced
    assert priced - bound < most * (evicted - bound)


def test_no_schedule_where_time_runs_out(tight: tuple[Instance, Multipliers]) -> None:
    instance, multipliers = tight
    found = best_responses(instance, multipliers, end=time.perf_counter())
    assert found.schedule() is None
    assert found.termination == Termination(Reason.LIMIT, Limit.TIME)


def test_an_interrupt_keeps_a_complete_set_of_responses(tight: tuple[Instance, Multipliers]) -> None:
    instance, multipliers = tight

    def at(share: float) -> Progress:
        def interrupt(done: float, total: float, note: str = "") -> None:
            if done > share * total:
                raise KeyboardInterrupt

        return interrupt

    for share, complete in ((0.0, False), (0.5, True)):
        found = best_responses(instance, multipliers, progress=at(share))
        assert found.termination == Termination(Reason.INTERRUPTED)
        assert (found.schedule() is not None) == complete


def test_multipliers_improve(tight: tuple[Instance, Multipliers]) -> None:
    """Responses to poor multipliers lead to better ones, whose bound is valid."""
    instance, _ = tight
    poor = maximize_dual(instance, time_limit=math.inf, iterations=60)
    assert poor.multipliers is not None
    found = best_responses(instance, poor.multipliers)
    improved = prove(instance, found.multipliers)
    assert check(instance.expanded(), instance.trace.rows, improved.arrays()).ok
    assert poor.certificate.bound_s < improved.bound_s <= cost(instance, found.schedule())
