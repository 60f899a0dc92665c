"""Mechanisms of annealing: each test fails without the one it names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import kvbound as kv
from kvbound.instance import Instance
from kvbound.kernels import Kernel
from kvbound.result import Result
from kvbound.schedule import LayerEvents, Schedule
from kvbound.solvers.annealing import tempering
from kvbound.solvers.annealing.chains import Chains
from kvbound.solvers.annealing.layout import SearchData, search_data
from kvbound.solvers.annealing.solve import solve_annealing
from kvbound.solvers.annealing.tempering import (
    BATCHES,
    INITIAL_ACCEPTANCE,
    REHEAT,
    REHEATS,
    Annealer,
    typical_change,
)

Floats = NDArray[np.float64]
Effect = Callable[[Chains, int], None]


def time_of(result: Result) -> float:
    assert result.time_s is not None
    return result.time_s


# Moves


def test_targeted_moves_find_gains_and_cheap_victims() -> None:
    """Within ten moves per interval, on average over two instances and four seeds each."""
    cases = {"swap-2x48-c30-b64": (4, 4.352e-5), "swap-2x48-c30-b64-prefetch": (1, 4.3008e-5)}
    ratios = []
    for name, (chains, optimum) in cases.items():
        instance = kv.read_instance(name)
        for seed in range(4):
            result = solve_annealing(instance, work=10, chains=chains, gap=0.0, seed=seed)
            ratios.append(time_of(result) / optimum)
    assert 1 - 1e-6 < np.mean(ratios) < 1.018


def test_an_item_is_promoted_within_an_interval() -> None:
    """With prefetch, between two reads: for the whole interval there is no capacity."""
    instance = kv.read_instance("tiny-prefetch")
    best = time_of(kv.solve(instance, "brute"))
    results = [solve_annealing(instance, work=60, gap=0.0, seed=seed) for seed in range(4)]
    assert [time_of(result) for result in results] == pytest.approx([best] * 4)


def costly_promotion() -> tuple[Instance, Schedule]:
    """An instance in which a token is read in every step and its promotion pays after four hits, and a
    schedule without it.
    """
    memory = {
        "name": "costly",
        "resources": {"fast": 100, "fast_in": 1 / 3.5, "slow": 1, "slow_in": 100},
        "tiers": [
            {"name": "near", "capacity": 1, "reads": ["fast"], "writes": ["fast_in"]},
            {"name": "far", "capacity": None, "reads": ["slow"], "writes": ["slow_in"]},
        ],
    }  # fmt: skip
    llm = {
        "name": "toy", "layers": 1, "kv_bytes_per_token_layer": 1, "weight_bytes": 0,
        "weight_read_bytes_per_layer": 0,
    }  # fmt: skip
    reads: list[list[list[int]]] = [[[]], *([[1]] for _ in range(4))]
    instance = kv.make_instance(
        "costly", memory=memory, llm=llm, trace={"prefill_tokens": 1, "reads": reads}, capacity=1
    )
    steps = np.arange(5)
    births = LayerEvents.of(steps, 1 + steps, np.ones(5, np.uint8))
    return instance, Schedule(np.ones((1, 1), np.uint8), (births,))


def test_several_consecutive_intervals_move_at_once() -> None:
    """One interval at a time would first make it slower, by more than any temperature allows."""
    instance, outside = costly_promotion()
    best = time_of(kv.solve(instance, "brute"))
    assert best < kv.evaluate(instance, outside).time_s - 0.3
    result = solve_annealing(instance, work=60, gap=0.0, start=outside)
    assert time_of(result) == pytest.approx(best)


# Start and end


def test_annealing_continues_from_its_start() -> None:
    instance = kv.read_instance("swap-2x48-c30-b450")
    best = kv.solve(instance, "exact", gap=1e-3, work=1)
    given, alone = (solve_annealing(instance, work=1, gap=0.0, start=s) for s in (best.schedule, None))
    assert time_of(given) <= time_of(best) * (1 + 1e-9)
    assert time_of(alone) > 1.01 * time_of(best)


def test_every_cycle_is_twice_as_long_and_the_last_uses_the_work_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cycles: list[tuple[int, int]] = []
    plain = Annealer.cycle

    def cycle(self: Annealer, number: int, moves: int, proceed: Callable[[], bool]) -> bool:
        cycles.append((number, moves))
        return plain(self, number, moves, proceed)

    monkeypatch.setattr(Annealer, "cycle", cycle)
    instance = kv.read_instance("tiny-exclusive-prefetch")
    intervals = len(search_data(instance).intervals)
    solve_annealing(instance, work=40, moves=2 * intervals, gap=0.0)
    assert cycles == [(0, 2 * intervals), (1, 4 * intervals), (2, 8 * intervals), (3, 26 * intervals)]


def test_it_ends_after_several_cycles_without_improvement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Annealer, "cycle", lambda *_: True)
    instance = kv.read_instance("tiny-exclusive-prefetch")
    result = solve_annealing(instance, moves=1, gap=0.0, time_limit=1e9)
    assert result.termination.reason == "done"


# Temperatures


class _Even:
    """A generator whose draws are all one half."""

    def random(self, shape: tuple[int, ...] | int) -> Floats:
        return np.full(shape, 0.5)


@pytest.fixture
def temperatures(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Floats]]:
    """A function that runs cycles, with an effect in place of moves, and returns the temperatures."""

    def run(annealer: Annealer, cycles: range = range(1), effect: Effect | None = None) -> list[Floats]:
        found: list[Floats] = []

        def batch(
            _: SearchData, chains: Chains, draws: Floats, limits: Any, kernel: Kernel, threads: int = 1
        ) -> None:
            found.append(limits.mean(axis=0) / np.log(2))
            if effect is not None:
                effect(chains, len(found))

        monkeypatch.setattr(tempering, "try_moves", batch)
        for number in cycles:
            assert annealer.cycle(number, BATCHES, lambda: True)
        return found

    return run


def annealer(chains: int) -> Annealer:
    instance = kv.read_instance("swap-2x48-c30-b64")
    data = search_data(instance)
    start = kv.simulate(instance, "belady").schedule
    assert start is not None
    made = Chains.of(instance, data, [start] * chains)
    return Annealer(data, made, _Even(), "numpy")  # type: ignore[arg-type]


def test_a_cycle_cools_and_accepts_nothing_worse_in_the_end(
    temperatures: Callable[..., list[Floats]],
) -> None:
    one = annealer(1)
    found = np.concatenate(temperatures(one))
    assert len(found) == BATCHES
    frozen = np.flatnonzero(found == 0)
    assert frozen.tolist() == [BATCHES - 2, BATCHES - 1]
    assert np.all(np.diff(found[: frozen[0]]) < 0)
    assert 100 < found[0] / found[frozen[0] - 1] < 200
    # the first temperature accepts a typical miss with this probability
    typical = typical_change(one.data, one.chains)
    assert np.exp(-typical / found[0]) == pytest.approx(INITIAL_ACCEPTANCE, rel=1e-3)


def test_later_cycles_begin_less_hot_until_one_is_hot_again(
    temperatures: Callable[..., list[Floats]],
) -> None:
    begins = np.concatenate(temperatures(annealer(1), range(2 * REHEATS + 1))[::BATCHES])
    expected = [REHEAT**n for n in range(REHEATS)]
    assert begins / begins[0] == pytest.approx([*expected, *expected, 1.0], rel=1e-6)
    assert expected[-1] < 0.2


def better(chain: int, at: int) -> Effect:
    """Make one chain by far the best from a batch on."""

    def effect(chains: Chains, batch: int) -> None:
        if batch == at:
            chains.ticks[chain] //= 2

    return effect


def test_the_best_chain_gets_the_lowest_temperature(temperatures: Callable[..., list[Floats]]) -> None:
    """By replica exchange, from chain to chain."""
    for best in range(3):
        found = temperatures(annealer(3), effect=better(best, 1))
        assert np.all(np.diff(found[0]) < 0)
        assert found[0][2] / found[0][0] == pytest.approx(tempering.LADDER, rel=1e-6)
        for after in found[3:10]:
            assert after.argmin() == best
            assert after.min() / after.max() == pytest.approx(tempering.LADDER, rel=1e-6)


def test_slower_chains_continue_from_the_best_in_the_next_cycle(
    temperatures: Callable[..., list[Floats]],
) -> None:
    some = annealer(4)
    marks = np.array([3, 1, 4, 2])  # the second chain is best, the fourth next
    some.chains.ticks[:] *= marks[:, None]
    some.chains.occupancy[:] = marks[:, None, None]
    temperatures(some)
    assert some.chains.occupancy[:, 0, 0].tolist() == [1, 1, 1, 2]
    assert (some.chains.totals / some.chains.totals[1]).tolist() == [1, 1, 1, 2]


def test_the_best_schedule_of_any_chain_is_kept(temperatures: Callable[..., list[Floats]]) -> None:
    some = annealer(3)
    first = some.ticks

    def effect(chains: Chains, batch: int) -> None:
        if batch == 5:
            chains.ticks[2] //= 2
            chains.tier[2, 0] = 77
        if batch == 6:
            chains.ticks[2] *= 4
            chains.tier[2, 0] = 88

    temperatures(some, effect=effect)
    assert some.ticks == pytest.approx(first / 2, rel=1e-3)
    assert np.all(some.best[0] == 77)
