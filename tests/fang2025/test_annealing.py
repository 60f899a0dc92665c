"""The published annealing: the best of its evaluations, its steps within their limits."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import kvbound as kv
from kvbound.errors import UsageError
from kvbound.fang2025 import annealing as published
from kvbound.fang2025.adapter import simulate_published
from kvbound.fang2025.annealing import START, State
from kvbound.instance import Instance
from kvbound.result import Limit, Reason, Result, Status, Termination
from tests.instance_documents import llm


def instance(capacity: str = "30%") -> Instance:
    model = llm(2, 16384, weights=1e6, reads=2e5)
    trace = kv.read_instance("swap-2x48-c30-b450").trace
    return kv.make_instance(
        "t", memory="gh200-paper", llm=model, trace=trace, rules={"accounting": "fang2025"}, capacity=capacity
    )


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[Result]:
    """The simulated results, in order."""
    results: list[Result] = []

    def watched(*args: Any, **options: Any) -> Result:
        results.append(simulate_published(*args, **options))
        return results[-1]

    monkeypatch.setattr(published, "simulate_published", watched)
    return results


def test_it_is_the_best_of_its_evaluations(evaluated: list[Result]) -> None:
    result = kv.solve(instance(), "anneal", evaluations=12)
    assert result.method == "anneal"
    assert result.status is Status.FEASIBLE
    assert result.termination == Termination()
    assert result.time_s == min(each.time_s or 0.0 for each in evaluated)
    assert evaluated[0].options == {"window": 5, "topk": 0.5}
    again = kv.simulate(instance(), "sa-guided", window=result.options["window"], topk=result.options["topk"])
    assert again.measures == result.measures
    states = [tuple(each.options.values()) for each in evaluated]
    assert len(set(states)) == len(states) == result.options["evaluations"]


def test_eight_evaluations_by_default(evaluated: list[Result]) -> None:
    runs = []
    for seed in (3, 3, 4):
        evaluated.clear()
        kv.solve(instance(), "anneal", seed=seed)
        runs.append([each.options for each in evaluated])
    assert len(runs[0]) == 8
    assert runs[0] == runs[1] != runs[2]


def test_steps_stay_within_their_limits() -> None:
    rng = np.random.default_rng(0)
    states = [START]
    for _ in range(500):
        states.append(states[-1].neighbour(rng))
    for one, other in pairwise(states):
        assert abs(other.window - one.window) <= 3
        assert other.window >= 1
        assert abs(other.topk - one.topk) <= 0.3
        assert 0.1 <= other.topk <= 1
    assert {state.window for state in (State(1, 0.5).neighbour(rng) for _ in range(100))} == {1, 2, 3, 4}


@pytest.mark.parametrize("calls", [1, 3])
def test_interruption_keeps_the_best(calls: int, evaluated: list[Result]) -> None:
    notes: list[str] = []

    def interrupt(done: float, total: float, note: str = "") -> None:
        notes.append(note)
        if len(notes) == calls:
            raise KeyboardInterrupt

    result = kv.solve(instance(), "anneal", progress=interrupt)
    assert result.termination == Termination(Reason.INTERRUPTED)
    assert result.time_s == min(each.time_s or 0.0 for each in evaluated)
    assert notes[-1] == f"best {result.time_s:.6g} s"


def test_the_time_limit_leaves_one_evaluation(evaluated: list[Result]) -> None:
    result = kv.solve(instance(), "anneal", time_limit=0.0)
    assert result.termination == Termination(Reason.LIMIT, Limit.TIME)
    assert len(evaluated) == 1
    assert dataclasses.replace(result, method="sa-guided").measures == evaluated[0].measures


def test_invalid_options_are_refused() -> None:
    with pytest.raises(UsageError, match="annealing needs at least 1 evaluation, not 0"):
        kv.solve(instance(), "anneal", evaluations=0)
    with pytest.raises(UsageError, match="takes neither a start nor a bound"):
        kv.solve(instance(), "anneal", bound_s=1.0)


def test_weights_that_do_not_fit_are_infeasible() -> None:
    assert kv.solve(instance("0.5MB"), "anneal").status is Status.INFEASIBLE
