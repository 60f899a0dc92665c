"""Annealing on packed bits: valid schedules, exact counts, never slower than its start."""

from __future__ import annotations

import dataclasses
import signal
import threading
import time
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kvbound as kv
from kvbound.bitsets.two_tier import TwoTierSchedule
from kvbound.checker import check
from kvbound.cost.evaluate import evaluate
from kvbound.errors import UsageError
from kvbound.instance import Instance
from kvbound.progress import silent
from kvbound.residency import Residency
from kvbound.rules import Copies, Migration
from kvbound.solvers import incumbent
from kvbound.solvers.annealing import layout, packed
from kvbound.solvers.annealing.chains import marginal_ticks, slot_ticks, token_counts
from kvbound.solvers.annealing.packed import PackedAnnealer
from kvbound.solvers.annealing.packed_numba import existing
from kvbound.solvers.annealing.solve import solve_annealing
from kvbound.solvers.eviction import balanced
from kvbound.solvers.reference.brute_force import solve_brute
from kvbound.trace import Trace
from tests.replay import problems
from tests.strategies import layered_instances, tiny_instances

pytest.importorskip("numba", reason="packed annealing needs numba; without it such instances are refused")

simple = partial(tiny_instances, tiers=2, copies=Copies.INCLUSIVE, granularity=1)


@pytest.fixture(autouse=True)
def always_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat every instance as too large for an array of tiers."""
    monkeypatch.setattr(layout, "MAX_BYTES", 0)
    monkeypatch.setattr(packed, "CHUNK", 500)


movable = (
    simple(migration=Migration.ON_READ)
    | simple(migration=Migration.PREFETCH)
    | simple(migration=Migration.ON_READ, batch=True)
    | simple(migration=Migration.PREFETCH, batch=True)
)

different = partial(layered_instances, tiers=2, copies=Copies.INCLUSIVE, granularity=1)
differing = different(migration=Migration.ON_READ) | different(migration=Migration.PREFETCH)


@given(movable, st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_counts_match_the_schedule(instance: Instance, seed: int) -> None:
    """The arrays that moves update are those of the resulting schedule, which the checker accepts."""
    schedule, time_s = counted(instance, seed)
    arrays = schedule.residency.arrays(instance_sha256=instance.sha256, tokens=instance.tokens)
    report = check(instance.expanded(), instance.trace.rows, arrays, claimed_s=time_s)
    assert report.ok, report.problems


@given(differing, st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_counts_match_the_schedule_where_layers_differ(instance: Instance, seed: int) -> None:
    schedule, time_s = counted(instance, seed)
    events = schedule.residency.to_schedule()
    assert problems(instance, events) == []
    assert evaluate(instance, events).time_s == pytest.approx(time_s, rel=1e-12)


def counted(instance: Instance, seed: int) -> tuple[TwoTierSchedule, float]:
    """Compare the arrays that moves update with the resulting schedule; return this and its time."""
    annealer = PackedAnnealer.of(
        instance, next(balanced.schedules(instance, silent)), np.random.default_rng(seed)
    )
    before = annealer.time_s
    annealer.run(lambda: annealer.moves < 500)
    schedule, data, chain = annealer.schedule(), annealer.data, annealer.chain
    assert annealer.time_s <= before
    counts, occupancy = token_counts(instance, data, schedule.traffic(instance))
    layer = np.arange(instance.slots) % instance.layers
    ticks = slot_ticks(data, counts, layer)
    stored = np.tile(instance.units > 0, instance.decode_steps)  # counts of no bytes do not matter
    assert np.array_equal(counts[stored], chain.counts[stored])
    assert np.array_equal(occupancy[0], chain.occupancy)
    assert np.array_equal(ticks, chain.ticks)
    assert np.array_equal(marginal_ticks(data, counts, layer, ticks), chain.marginal)
    time_s = incumbent.evaluate_placement(instance, schedule)[0].time_s
    assert annealer.time_s == pytest.approx(time_s, rel=1e-6)
    return schedule, time_s


@given(movable | differing)
@settings(max_examples=25, deadline=None)
def test_time_is_between_the_optimum_and_the_start(instance: Instance) -> None:
    result, best = solve_annealing(instance, moves=500, gap=0.0), solve_brute(instance).time_s
    start = incumbent.evaluate_placement(instance, next(balanced.schedules(instance, silent)))[0].time_s
    assert best is not None
    assert result.time_s is not None
    assert best * (1 - 1e-9) <= result.time_s <= start * (1 + 1e-9)


@given(simple(migration=Migration.ON_READ, batch=True) | different(migration=Migration.ON_READ))
@settings(max_examples=40, deadline=None)
def test_every_token_that_exists_is_drawn(instance: Instance) -> None:
    steps = instance.decode_steps
    start = TwoTierSchedule.replayed(instance, next(balanced.schedules(instance, silent)).residency)
    chain = PackedAnnealer.of(instance, start, np.random.default_rng(0)).chain
    for layer, timeline in enumerate(instance.timelines):
        held = timeline.ends > timeline.born
        for state in range(steps + 1):
            drawn = {existing(chain, layer, u, state) for u in np.arange(0.5, 60) / 60}
            around = held & (timeline.born < state) & (timeline.ends >= state - 1)
            expected = {(t, min(state, int(timeline.ends[t]))) for t in np.flatnonzero(around).tolist()}
            assert drawn == (expected or {(-1, 0)})


def test_tokens_that_exist_are_found_among_many_that_have_ended() -> None:
    ends = [*[0] * 2000, None, None, None]
    trace = Trace.from_lists(2000, [[[0]], [[2001]], [[2001]]], births=[3, 0, 0], ends=ends)
    instance = dataclasses.replace(kv.read_instance("tiny-on-read"), workload=trace)
    start = TwoTierSchedule.replayed(instance, next(balanced.schedules(instance, silent)).residency)
    chain = PackedAnnealer.of(instance, start, np.random.default_rng(0)).chain
    drawn = {existing(chain, 0, u, 3) for u in np.arange(0.5, 60) / 60}
    assert drawn == {(2000, 3), (2001, 3), (2002, 3)}


@pytest.mark.parametrize(
    ("name", "moves"), [("swap-4x64-c30-b450", 20_000), ("native-r15-c25-b64-n64-prefetch", 400_000)]
)
def test_faster_than_balanced_eviction(name: str, moves: int) -> None:
    instance = kv.read_instance(name)
    start = incumbent.evaluate_placement(instance, next(balanced.schedules(instance, silent)))[0].time_s
    result = solve_annealing(instance, moves=moves, gap=0.0)
    assert result.time_s is not None
    assert result.time_s < 0.995 * start
    assert result.termination.reason == "done"


def test_same_seed_same_schedule() -> None:
    instance = kv.read_instance("swap-4x64-c30-b450")
    first, again, other = (solve_annealing(instance, moves=5000, gap=0.0, seed=seed) for seed in (1, 1, 2))
    assert first.schedule is not None
    assert again.schedule is not None
    assert first.time_s == again.time_s != other.time_s
    for one, two in zip(first.schedule.events, again.schedule.events, strict=True):
        assert np.array_equal(one.token, two.token)
        assert np.array_equal(one.step, two.step)


def test_too_large_for_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvbound.residency.EVENT_LIMIT", 0)
    instance = kv.read_instance("swap-1x200-c30-b450")
    result = solve_annealing(instance, time_limit=0.2)
    assert result.schedule is None
    assert isinstance(result.placement, Residency)
    assert result.time_s == pytest.approx(evaluate(instance, result.placement.to_schedule()).time_s)


def test_an_interrupt_keeps_the_best() -> None:
    instance, start = kv.read_instance("native-r15-c25-b64-n64"), threading.get_ident()
    timer = threading.Timer(1.5, lambda: signal.pthread_kill(start, signal.SIGINT))
    begin = time.perf_counter()
    timer.start()
    result = solve_annealing(instance, time_limit=60)
    assert time.perf_counter() - begin < 30
    assert result.termination.reason == "interrupted"
    assert result.schedule is not None


def test_chains_are_refused() -> None:
    instance = kv.read_instance("swap-1x200-c30-b450")
    with pytest.raises(UsageError, match="takes neither chains nor cycles"):
        solve_annealing(instance, chains=2)


def test_starts_from_events_or_bits() -> None:
    """Annealing continues from what pricing found, in either form."""
    instance = kv.read_instance("swap-4x64-c30-b450")
    start = kv.simulate(instance, "lru")
    assert start.schedule is not None
    known = TwoTierSchedule.replayed(instance, start.schedule)
    assert incumbent.evaluate_placement(instance, known)[0].time_s == pytest.approx(start.time_s)
    result = solve_annealing(instance, start=start.schedule, moves=2000)
    as_bits = solve_annealing(instance, start=known.residency, moves=2000)
    assert result.time_s is not None
    assert start.time_s is not None
    assert result.time_s < start.time_s
    assert as_bits.time_s == result.time_s
