"""Schedules from prices: legal, as good as the bound lets one hope, and the same whatever runs them."""

from __future__ import annotations

import math
import time
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kvbound as kv
from kvbound.bitsets.lanes import Lanes, count_units
from kvbound.bitsets.two_tier import TwoTierSchedule
from kvbound.checker import check
from kvbound.cost.evaluate import evaluate, evaluate_traffic
from kvbound.instance import Copies, Instance, Migration
from kvbound.progress import Progress, silent
from kvbound.result import Termination
from kvbound.schedule import Schedule
from kvbound.solvers.eviction import balanced
from kvbound.solvers.lagrangian.ascent import Multipliers
from kvbound.solvers.lagrangian.bound import maximize_dual, prove
from kvbound.solvers.lagrangian.minorants import SlotMinorants
from kvbound.solvers.lagrangian.subproblem import limited_tiers
from kvbound.solvers.pricing import best_response, repair
from kvbound.solvers.pricing import solve as pricing
from kvbound.solvers.pricing.best_response import best_responses
from kvbound.solvers.pricing.prices import Prices, project_onto_simplex
from kvbound.solvers.pricing.response_bits import BitResponses
from kvbound.studies import Scale
from kvbound.studies.fang2025 import Cell
from tests.plain import without_numba
from tests.strategies import tiny_instances


def simple() -> st.SearchStrategy[Instance]:
    rules: dict[str, Any] = {"tiers": 2, "copies": Copies.INCLUSIVE, "granularity": 1}
    on_read = tiny_instances(migration=Migration.ON_READ, **rules)
    return on_read | tiny_instances(migration=Migration.PREFETCH, **rules)


def anything(instance: Instance, seed: int) -> Multipliers:
    """Multipliers that nobody tuned."""
    rng, rows = np.random.default_rng(seed), SlotMinorants.of(instance)
    weights = rng.random(rows.alpha.shape) + 1e-9
    capacity = np.zeros((2, 1 + instance.slots))
    capacity[0] = rng.exponential(rows.beta.max(), 1 + instance.slots)
    return Multipliers(weights / weights.sum(axis=0), capacity)


@given(simple(), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_a_legal_schedule_that_costs_what_it_says(instance: Instance, seed: int) -> None:
    play = best_responses(instance, anything(instance, seed), seed=seed).schedule()
    assert isinstance(play, TwoTierSchedule)
    measures = evaluate_traffic(instance, play.traffic(instance))
    bits = play.residency.arrays(instance.sha256)
    report = check(instance.expanded(), instance.trace.rows, bits, claimed_s=measures.time_s)
    assert report.problems == ()
    known = evaluate(instance, play.residency.schedule())
    assert known.time_s == pytest.approx(measures.time_s, rel=1e-12)
    assert (known.moved_bytes, known.hit_rate) == (measures.moved_bytes, measures.hit_rate)


@pytest.fixture(scope="module")
def tight() -> tuple[Instance, Multipliers]:
    """High variation and a slow link with prefetch, where what a slot can use changes from step to step."""
    cell = Cell("high", hbm=25, link=64, migration="prefetch").instance(Scale("small", 64, 16, 0.0))
    instance = cell.with_rules(accounting="physical")
    tuned = maximize_dual(instance, time_limit=math.inf, iterations=400)
    assert tuned.multipliers is not None
    return instance, tuned.multipliers


def cost(instance: Instance, play: TwoTierSchedule | Schedule | None) -> float:
    assert isinstance(play, TwoTierSchedule)
    return evaluate_traffic(instance, play.traffic(instance)).time_s


@pytest.mark.parametrize("options", [{}, {"threads": 2}, {"kernel": "numpy"}])
def test_same_bits_whatever_runs(
    tight: tuple[Instance, Multipliers], options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    instance, multipliers = tight
    monkeypatch.setattr(best_response, "SWEEPS", 1)
    monkeypatch.setattr(best_response, "THREADED_FROM", 0)  # threads for the smallest, too
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
    answer = cost(instance, best_responses(instance, tuned.multipliers).schedule())
    assert bound <= answer
    assert answer - bound < most * (evicted - bound)


def test_no_schedule_where_time_runs_out(tight: tuple[Instance, Multipliers]) -> None:
    instance, multipliers = tight
    answer = best_responses(instance, multipliers, end=time.perf_counter())
    assert answer.schedule() is None
    assert answer.termination == Termination("limit", "time")


def test_an_interrupt_keeps_what_everybody_has_answered(tight: tuple[Instance, Multipliers]) -> None:
    instance, multipliers = tight

    def at(share: float) -> Progress:
        def interrupt(done: float, total: float, note: str = "") -> None:
            if done > share * total:
                raise KeyboardInterrupt

        return interrupt

    for share, everybody in ((0.0, False), (0.5, True)):
        answer = best_responses(instance, multipliers, progress=at(share))
        assert answer.termination == Termination("interrupted")
        assert (answer.schedule() is not None) == everybody


def test_multipliers_learn(tight: tuple[Instance, Multipliers]) -> None:
    """From poor multipliers better ones come, and whatever comes proves no more than is true."""
    instance, _ = tight
    poor = maximize_dual(instance, time_limit=math.inf, iterations=60)
    assert poor.multipliers is not None
    answer = best_responses(instance, poor.multipliers)
    learnt = prove(instance, answer.multipliers)
    assert check(instance.expanded(), instance.trace.rows, learnt.arrays()).ok
    assert poor.certificate.bound_s < learnt.bound_s <= cost(instance, answer.schedule())


@given(simple(), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_made_to_fit(instance: Instance, seed: int) -> None:
    """Everybody is wanted everywhere: those leave that do not fit, and until they are read."""
    rng, (steps, layers) = np.random.default_rng(seed), (instance.decode_steps, instance.layers)
    room = instance.capacity_blocks[0]
    assert room is not None
    born = np.arange(instance.tokens)[:, None] < instance.prefill_tokens + 1 + np.arange(steps)
    words = np.zeros((layers, steps, 64), np.uint8)
    words[:, :, : instance.tokens] = born.T
    after = np.packbits(words, axis=2, bitorder="little").view(np.uint64)
    inside = np.zeros((layers, 64), np.bool_)
    inside[:, : instance.prefill_tokens] = rng.random((layers, instance.prefill_tokens)) < 0.7
    start = inside.copy()
    repair.repair(instance, inside, after, rng.integers(0, 2, (steps, layers)))
    bits = np.unpackbits(after.view(np.uint8), axis=2, bitorder="little")
    assert not np.any(bits > words)
    held = bits.sum(axis=2, dtype=np.int64).T
    assert not np.any(inside & ~start)
    now, size = inside.sum(axis=1), inside.sum()
    assert size <= room
    before = inside.astype(np.uint8)
    for step in range(steps):
        for layer in range(layers):
            size += held[step, layer] - now[layer]
            now[layer] = held[step, layer]
            assert size <= room
            read = np.zeros(64, np.bool_)
            read[instance.trace.reads(step, layer)] = True
            entering = (bits[layer, step] > before[layer]) & ~read
            if step or instance.prefill_tokens == 0 or start[layer, : instance.prefill_tokens].all():
                assert not entering[: instance.prefill_tokens + step].any()
            before[layer] = bits[layer, step]


@pytest.mark.parametrize("migration", ["on-read", "prefetch"])
def test_makes_the_most_of_its_room(migration: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Giving up useless hits and filling what is free is better than only leaving out what is over."""
    case = Cell("actual-like", migration=migration).instance(Scale("small", 32, 16, 0.0))
    instance = case.with_rules(accounting="physical")
    tuned = maximize_dual(instance, time_limit=math.inf, iterations=300)
    assert tuned.multipliers is not None
    # more sweeps leave nothing to give up here
    times = {"repair": cost(instance, best_responses(instance, tuned.multipliers, sweeps=3).schedule())}
    for name in ("extend_stays", "give_up_hits"):
        monkeypatch.setattr(repair, name, lambda *_: None)
        times[name] = cost(instance, best_responses(instance, tuned.multipliers, sweeps=3).schedule())
    assert times["repair"] < times["extend_stays"] < times["give_up_hits"]


@pytest.fixture(scope="module")
def plain() -> ModuleType:
    return without_numba(repair)


@given(simple(), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_made_to_fit_the_same_without_numba(plain: ModuleType, instance: Instance, seed: int) -> None:
    rng, shape = np.random.default_rng(seed), (instance.layers, instance.decode_steps)
    tokens = rng.random((*shape, 64)) < 0.8
    tokens[:, :, instance.tokens :] = False
    inside = rng.random((instance.layers, 64)) < 0.8
    inside[:, instance.prefill_tokens :] = False
    after = np.packbits(tokens, axis=2, bitorder="little").view(np.uint64)
    results = []
    for module in (repair, plain):
        parts = inside.copy(), after.copy(), np.ones(shape[::-1], np.int64)
        module.repair(instance, *parts)
        results.append(parts)
    for one, other in zip(*results, strict=True):
        assert np.array_equal(one, other)


@given(tiny_instances(), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_compiled_prices_agree(instance: Instance, seed: int) -> None:
    pytest.importorskip("numba")
    rng, shape = np.random.default_rng(seed), (instance.decode_steps, instance.layers)
    rows = SlotMinorants.of(instance)
    weights = rng.dirichlet(np.ones(len(rows.alpha)), shape).transpose(2, 0, 1)
    multipliers = Multipliers(weights.copy(), np.zeros((instance.tiers, 1 + instance.slots)))
    loads = _Loads(instance, rng)
    plain, compiled = (Prices(instance, multipliers, kernel, map).at(loads) for kernel in ("numpy", "numba"))
    for one, other in zip(plain, compiled, strict=True):
        assert other == pytest.approx(one, rel=1e-12, abs=1e-12 * np.abs(one).max())


class _Loads:
    """Of a schedule that nobody made."""

    def __init__(self, instance: Instance, rng: np.random.Generator) -> None:
        self.share, self.reads = 0.5, instance.trace.past_counts() // 2
        self.loads = rng.integers(0, 5, (3 * instance.tiers, *self.reads.shape)).astype(np.float64)
        self.blocks = rng.random((len(limited_tiers(instance)), 1 + instance.slots))

    def used(self, steps: slice) -> np.ndarray[Any, np.dtype[np.float64]]:
        return self.loads[:, steps]

    def held(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        return self.blocks


@given(simple(), st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_both_kernels_make_the_same_changes(instance: Instance, seed: int) -> None:
    """The same answers taken up by the same lanes leave the same bits and counts, and these agree."""
    pytest.importorskip("numba")
    stride = min(3, count_units(instance))
    both = [BitResponses.empty(instance, stride, kernel, 2) for kernel in ("numpy", "numba")]
    for number in range(3 * stride):
        multipliers = anything(instance, seed + number)
        prices = SlotMinorants.of(instance).prices(multipliers.weights)
        offsets = np.full(instance.layers, number % stride)
        for state in both:
            rng = np.random.default_rng(number)
            choose = None if number < stride else lambda shape, rng=rng: rng.random(shape) < 0.5
            lanes = Lanes.of(instance, slice(None), offsets, stride)
            state.update(lanes, prices, multipliers.capacity, choose)
    plain, compiled = both
    for name in ("inside", "after", "counts", "start", "reads"):
        assert np.array_equal(getattr(plain, name), getattr(compiled, name)), name
    (inside, after), width = compiled.bits(), count_units(instance)
    counted = TwoTierSchedule.of(
        instance, inside[:, : 64 * width], lambda layer: after[layer, :, :width]
    ).counts
    assert np.array_equal(compiled.counts, counted)


@given(st.integers(1, 4), st.integers(0, 99))
def test_projected_onto_weights(rows: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(rows, 5, 3))
    found = project_onto_simplex(points)
    assert np.all(found >= 0)
    assert found.sum(axis=0) == pytest.approx(np.ones((5, 3)))
    other = rng.dirichlet(np.ones(rows), (5, 3)).transpose(2, 0, 1)
    # the projection sees the whole simplex at an obtuse angle
    assert np.all(((points - found) * (other - found)).sum(axis=0) <= 1e-12)
    assert project_onto_simplex(found) == pytest.approx(found, abs=1e-12)


def test_more_rounds_are_no_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other luck, and multipliers that learnt: the best one counts, one that is good enough ends it."""
    monkeypatch.setattr(pricing, "maximize_dual", partial(maximize_dual, iterations=100))
    monkeypatch.setattr(pricing, "MOST_COLUMNS", 0)
    monkeypatch.setattr(pricing, "candidates", lambda *_: iter(()))
    monkeypatch.setattr(best_response, "SWEEPS", 1)
    instance = Cell(hbm=25, link=64).instance(Scale("small", 64, 32, 0.0)).with_rules(accounting="physical")
    times = []
    for rounds, gap in ((1, 0.0), (3, 0.0), (3, 0.5)):
        monkeypatch.setattr(pricing, "ROUNDS", rounds)
        found = kv.solve(instance, "pricing", time_limit=600, gap=gap).time_s
        assert found is not None
        times.append(found)
    assert times[1] < times[0]
    assert times[2] == times[0]


def test_pricing_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pricing, "maximize_dual", partial(maximize_dual, iterations=300))
    monkeypatch.setattr(pricing, "MOST_COLUMNS", 0)
    monkeypatch.setattr(pricing, "ROUNDS", 1)
    case = Cell("actual-like").instance(Scale("small", 32, 16, 0.0))
    instance = case.with_rules(accounting="physical")
    result = kv.solve(instance, "pricing", time_limit=600)
    assert result.time_s is not None
    assert result.time_s < 0.998 * min(cost(instance, play) for play in balanced.schedules(instance, silent))
