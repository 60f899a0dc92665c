"""Annealing: valid schedules, near the optimum and never below it, the same for the same seed."""

from __future__ import annotations

import dataclasses
import functools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kvbound as kv
from kvbound.checker import check
from kvbound.errors import InputError, UsageError
from kvbound.instance import Instance
from kvbound.library import best_known, entries
from kvbound.memory import Memory
from kvbound.result import BoundStatus, Limit, Reason, Result, Status, Termination
from kvbound.schedule import Schedule
from kvbound.solvers.annealing import layout
from kvbound.solvers.annealing import solve as annealing
from kvbound.solvers.annealing.solve import solve_annealing
from kvbound.solvers.annealing.tempering import Annealer
from kvbound.solvers.reference.brute_force import solve_brute
from tests.strategies import random_schedule, tiny_instance, tiny_instances

SMALL = [entry.name for entry in entries() if entry.set == "small"]

quick = functools.partial(solve_annealing, moves=60, cycles=1, chains=2)


def time_of(result: Result) -> float:
    assert result.time_s is not None
    return result.time_s


def assert_checked(instance: Instance, result: Result) -> None:
    assert result.schedule is not None
    sha256, tokens = instance.sha256, instance.tokens
    arrays = result.schedule.arrays(instance_sha256=sha256, tokens=tokens)
    report = check(instance.expanded(), instance.trace.rows, arrays, claimed_s=result.time_s)
    assert report.ok, report.problems


@given(tiny_instances() | tiny_instances(batch=True))
@settings(max_examples=30, deadline=None)
def test_schedules_keep_the_rules_and_are_not_below_the_optimum(instance: Instance) -> None:
    result = quick(instance)
    assert_checked(instance, result)
    assert time_of(result) >= time_of(solve_brute(instance)) * (1 - 1e-9)
    assert result.bound.time_s is not None
    assert result.bound.time_s <= time_of(result)
    for policy in annealing.STARTS:
        assert time_of(result) <= time_of(kv.simulate(instance, policy)) * (1 + 1e-9)


@pytest.mark.parametrize("batch", [False, True])
def test_near_the_optimum_on_tiny_instances(batch: bool) -> None:
    rng = np.random.default_rng(8)
    ratios = []
    for _ in range(30):
        instance = tiny_instance(rng, batch=batch)
        result = solve_annealing(instance, gap=0.0, moves=250, cycles=1, chains=8)
        ratios.append(time_of(result) / time_of(solve_brute(instance)))
    assert np.mean(np.array(ratios) < 1 + 1e-6) > 0.9
    assert np.mean(ratios) < 1.005


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_a_start_never_gets_slower(seed: int) -> None:
    rng = np.random.default_rng(seed)
    instance = tiny_instance(rng, batch=seed % 2 == 1)
    instance = dataclasses.replace(instance, memory=_roomy(instance))
    start = random_schedule(rng, instance)
    result = quick(instance, start=start, seed=seed)
    assert_checked(instance, result)
    assert time_of(result) <= kv.evaluate(instance, start).time_s * (1 + 1e-9)


def _roomy(instance: Instance) -> Memory:
    *fast, last = instance.memory.tiers
    return dataclasses.replace(instance.memory, tiers=(*fast, dataclasses.replace(last, capacity=None)))


def test_a_start_that_breaks_the_rules_is_refused() -> None:
    instance = kv.read_instance("swap-2x48-c30-b64")
    start = kv.simulate(instance, "lru").schedule
    assert start is not None
    everything = dataclasses.replace(start, initial=np.zeros_like(start.initial))
    with pytest.raises(InputError, match="start: expected a schedule that keeps the instance's rules"):
        quick(instance, start=everything)


def same(first: Schedule | None, second: Schedule | None) -> bool:
    assert first is not None
    assert second is not None
    layers = zip(first.events, second.events, strict=True)
    names = ("step", "token", "tier")
    alike = all(np.array_equal(getattr(a, name), getattr(b, name)) for a, b in layers for name in names)
    return alike and np.array_equal(first.initial, second.initial)


def test_same_seed_same_schedule() -> None:
    instance = kv.read_instance("swap-2x48-c30-b450")
    run = functools.partial(solve_annealing, instance, moves=200, cycles=2, chains=3, gap=0.0, time_limit=600)
    one, again, threaded, other = run(seed=1), run(seed=1), run(seed=1, threads=3), run(seed=2)
    assert same(one.schedule, again.schedule)
    assert same(one.schedule, threaded.schedule)
    assert not same(one.schedule, other.schedule)
    assert one.termination == Termination()
    assert one.options == again.options


@pytest.mark.parametrize("calls", [0, 1, 3])
def test_interruption_keeps_the_best(calls: int) -> None:
    instance, seen = kv.read_instance("swap-2x48-c30-b64"), []

    def interrupt(done: float, total: float, note: str = "") -> None:
        seen.append(note)
        if len(seen) > calls:
            raise KeyboardInterrupt

    result = solve_annealing(instance, moves=40, chains=2, gap=0.0, progress=interrupt)
    assert result.termination == Termination(Reason.INTERRUPTED)
    assert_checked(instance, result)
    assert time_of(result) <= time_of(kv.simulate(instance, "belady"))


def test_it_ends_at_the_limit_or_within_the_gap() -> None:
    instance = kv.read_instance("swap-2x48-c30-b450")
    late = solve_annealing(instance, time_limit=0.0, gap=0.0)
    assert late.termination == Termination(Reason.LIMIT, Limit.TIME)
    assert_checked(instance, late)
    near = solve_annealing(instance, bound_s=time_of(late), gap=0.01, time_limit=600)
    assert near.termination == Termination()
    assert near.options["moves"] == 0
    assert near.status is Status.OPTIMAL
    assert near.bound == kv.Bound(time_of(late), BoundStatus.CLAIMED, "given")
    ideal = solve_annealing(kv.read_instance("swap-2x48-c53-b64"), gap=0.0, time_limit=600)
    assert (ideal.status, ideal.bound.method) == (Status.OPTIMAL, "ideal")


def test_the_time_limit_excludes_compilation(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, calls = Annealer.seconds_per_move, list[int]()

    def delayed(self: Annealer, moves: int) -> float:
        if not calls:
            time.sleep(0.6)
        calls.append(moves)
        return plain(self, moves)

    monkeypatch.setattr(Annealer, "seconds_per_move", delayed)
    result = solve_annealing(kv.read_instance("swap-2x48-c30-b450"), time_limit=0.5, gap=0.0)
    assert result.options["moves"] > 0


def test_it_ends_without_improvement() -> None:
    rng = np.random.default_rng(1)
    instance = tiny_instance(rng, tiers=2)
    result = solve_annealing(instance, moves=2, chains=2, gap=0.0, time_limit=600)
    assert result.termination == Termination()


def test_an_instance_without_moves() -> None:
    rng = np.random.default_rng(0)
    fixed = {"migration": "none", "initial": "prefill-first", "granularity": 2, "tiers": 2}
    drawn = (tiny_instance(rng, **fixed) for _ in range(200))  # type: ignore[arg-type]
    instance = next(each for each in drawn if each.decode_steps == 1 and each.prefill_tokens % 2)
    result = solve_annealing(instance)
    assert result.options["moves"] == 0
    assert time_of(result) == pytest.approx(time_of(solve_brute(instance)))


def test_invalid_options_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    instance = kv.read_instance("tiny-on-read")
    for option in ("chains", "moves", "cycles", "threads"):
        with pytest.raises(UsageError, match=f"annealing needs at least 1 of {option}, not 0"):
            solve_annealing(instance, **{option: 0})  # type: ignore[arg-type]
    monkeypatch.setattr(layout, "MAX_BYTES", 10)
    with pytest.raises(UsageError, match="annealing keeps the tier of every block in every step"):
        solve_annealing(instance, kernel="numpy")


def test_an_instance_that_does_not_fit_is_infeasible() -> None:
    instance = kv.make_instance(
        "heavy",
        memory="gh200-144",
        llm="llama-3.1-70b",
        trace={"synthetic": {"kind": "random-swap", "layers": 80, "prefill_tokens": 4, "decode_steps": 2}},
        capacity="23GiB",
    )
    assert kv.solve(instance, "anneal").status is Status.INFEASIBLE


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_close_to_the_optimum_on_the_small_library(name: str) -> None:
    known = best_known()[name].time_s
    assert known is not None
    result = kv.solve(kv.read_instance(name), "anneal", gap=0.0, bound_s=known, time_limit=20)
    assert known * (1 - 1e-4) <= time_of(result) <= known * 1.005
