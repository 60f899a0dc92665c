"""Annealing moves: the counts that moves update are those of the cost model, and both kernels agree."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

import kvbound as kv
from kvbound.checker import check
from kvbound.cost.evaluate import evaluate
from kvbound.instance import Instance
from kvbound.kernels import Kernel
from kvbound.solvers.annealing.chains import Chains
from kvbound.solvers.annealing.layout import DRAWS, schedule_of, search_data, tiers_of
from kvbound.solvers.annealing.tempering import try_moves
from tests.strategies import random_schedule, rule_combinations, tiny_instance

KERNELS: list[Kernel] = ["numpy", "numba"] if importlib.util.find_spec("numba") else ["numpy"]
ARRAYS = ("tier", "counts", "occupancy", "ticks", "marginal")


def moved_chains(instance: Instance, kernel: Kernel, moves: int = 40, heat: float = 0.5) -> Chains:
    """Chains after some moves at a high temperature from one schedule."""
    data, count = search_data(instance), 4
    start = kv.simulate(instance, "lru").schedule
    assert start is not None
    chains = Chains.of(instance, data, [start] * count)
    draws = np.random.default_rng(1).random((moves, count, DRAWS + 1))
    limits = np.floor(-heat * chains.ticks.mean() * np.log(draws[:, :, -1])).astype(np.int64)
    assert try_moves(data, chains, draws, limits, kernel).shape == (count,)
    return chains


def assert_consistent(instance: Instance, chains: Chains) -> None:
    """The checker accepts the schedule of every chain, and the arrays are those of that schedule."""
    data = search_data(instance)
    for n in range(chains.count):
        schedule = schedule_of(instance, chains.tier[n])
        time_s = evaluate(instance, schedule).time_s
        assert chains.totals[n] * data.tick_s == pytest.approx(time_s, rel=1e-7)
        arrays = schedule.arrays(instance_sha256=instance.sha256, tokens=instance.tokens)
        report = check(instance.expanded(), instance.trace.rows, arrays, claimed_s=time_s)
        assert report.ok, report.problems
        computed = Chains.of(instance, data, [schedule])
        for name in ARRAYS:
            assert np.array_equal(getattr(chains, name)[n], getattr(computed, name)[0]), name


@pytest.mark.parametrize("rules", rule_combinations(), ids=lambda rules: "-".join(map(str, rules.values())))
def test_moves_keep_rules_and_counts(rules: dict[str, object]) -> None:
    rng = np.random.default_rng(list("-".join(map(str, rules.values())).encode()))
    instance = tiny_instance(rng, **rules)  # type: ignore[arg-type]
    made = [moved_chains(instance, kernel) for kernel in KERNELS]
    assert_consistent(instance, made[0])
    for name in ARRAYS:
        for other in made[1:]:
            assert np.array_equal(getattr(made[0], name), getattr(other, name)), name


@pytest.mark.parametrize("name", ["swap-2x48-c30-b64", "three-1x24-exclusive"])
def test_many_moves_on_a_small_instance(name: str) -> None:
    instance = kv.read_instance(name)
    first = moved_chains(instance, KERNELS[-1], moves=400, heat=0.05)
    assert_consistent(instance, first)
    assert not np.array_equal(first.tier[0], first.tier[1])
    other = moved_chains(instance, KERNELS[0], moves=400, heat=0.05)
    for array in ARRAYS:
        assert np.array_equal(getattr(first, array), getattr(other, array)), array


def test_threads_change_nothing() -> None:
    instance = kv.read_instance("swap-2x48-c30-b64-prefetch")
    data = search_data(instance)
    start = kv.simulate(instance, "belady").schedule
    assert start is not None
    made = []
    for threads in (1, 2):
        chains = Chains.of(instance, data, [start] * 3)
        draws = np.random.default_rng(1).random((100, 3, DRAWS))
        try_moves(data, chains, draws, np.full((100, 3), 1000), KERNELS[-1], threads)
        made.append(chains.tier)
    assert np.array_equal(made[0], made[1])


def test_arrays_of_tiers_convert_back_to_the_schedule() -> None:
    rng = np.random.default_rng(3)
    for _ in range(40):
        instance = tiny_instance(rng)
        if instance.memory.tiers[-1].capacity is not None:
            continue
        schedule = random_schedule(rng, instance)
        tier = tiers_of(instance, schedule)
        again = schedule_of(instance, tier)
        assert np.array_equal(again.initial, schedule.initial)
        assert np.array_equal(tiers_of(instance, again), tier)
        assert evaluate(instance, again) == evaluate(instance, schedule)
