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
from kvbound.rules import Copies
from kvbound.schedule import LayerEvents, Schedule
from kvbound.solvers.annealing.chains import Chains, schedule_of, tiers_of
from kvbound.solvers.annealing.layout import DRAWS, search_data
from kvbound.solvers.annealing.tempering import Annealer, try_moves
from kvbound.trace import Trace
from tests.replay import problems
from tests.strategies import (
    random_schedule,
    rule_combinations,
    tiny_instance,
    with_layers,
    with_overlap,
)

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
    """The schedule of every chain is legal, and the arrays are those of that schedule."""
    data = search_data(instance)
    for n in range(chains.count):
        schedule = schedule_of(instance, chains.tier[n])
        time_s = evaluate(instance, schedule).time_s
        assert chains.totals[n] * data.tick_s == pytest.approx(time_s, rel=1e-7)
        assert problems(instance, schedule) == []
        computed = Chains.of(instance, data, [schedule])
        stored = np.tile(
            instance.timed(instance.units) > 0, instance.decode_steps
        )  # counts of no bytes do not matter
        assert np.array_equal(chains.counts[n, stored], computed.counts[0, stored])
        for name in ARRAYS:
            if name != "counts":
                assert np.array_equal(getattr(chains, name)[n], getattr(computed, name)[0]), name


def assert_accepted(instance: Instance, chains: Chains) -> None:
    """The checker accepts the schedule of every chain at its time."""
    for tier in chains.tier:
        schedule = schedule_of(instance, tier)
        arrays = schedule.arrays(instance_sha256=instance.sha256, tokens=instance.tokens)
        time_s = evaluate(instance, schedule).time_s
        report = check(instance.expanded(), instance.trace.rows, arrays, claimed_s=time_s)
        assert report.ok, report.problems


@pytest.mark.parametrize("rules", rule_combinations(), ids=lambda rules: "-".join(map(str, rules.values())))
def test_moves_keep_rules_and_counts(rules: dict[str, object]) -> None:
    rng = np.random.default_rng(list("-".join(map(str, rules.values())).encode()))
    instance = tiny_instance(rng, **rules)  # type: ignore[arg-type]
    made = [moved_chains(instance, kernel) for kernel in KERNELS]
    assert_consistent(instance, made[0])
    assert_accepted(instance, made[0])
    for name in ARRAYS:
        for other in made[1:]:
            assert np.array_equal(getattr(made[0], name), getattr(other, name)), name


def test_moves_keep_rules_and_counts_with_births_and_ends() -> None:
    """Any number of births, blocks of several sequences, and tokens that end before their block.

    Every other instance has layers that differ.
    """
    rng = np.random.default_rng(5)
    for n in range(120):
        instance = with_overlap(rng, tiny_instance(rng, batch=True, layers=2 if n % 2 else None))
        instance = with_layers(rng, instance) if n % 2 else instance
        if not len(search_data(instance).intervals):
            continue
        made = [moved_chains(instance, kernel) for kernel in KERNELS]
        assert_consistent(instance, made[0])
        if n % 2 == 0:
            assert_accepted(instance, made[0])
        for name in ARRAYS:
            for other in made[1:]:
                assert np.array_equal(getattr(made[0], name), getattr(other, name)), name


@pytest.mark.parametrize("copies", list(Copies))
def test_a_birth_that_is_never_held_takes_no_room(copies: Copies) -> None:
    """Tier 0 has no room, but it is faster; with inclusive copies the birth is written to tier 1 anyway."""
    memory = {
        "name": "full",
        "resources": {"fast": 4, "slow": 1},
        "tiers": [
            {"name": "near", "capacity": 0, "reads": ["fast"], "writes": ["fast"]},
            {"name": "far", "capacity": None, "reads": ["slow"], "writes": ["slow"]},
        ],
    }
    llm = {
        "name": "toy", "layers": 1, "kv_bytes_per_token_layer": 1, "weight_bytes": 0,
        "weight_read_bytes_per_layer": 0,
    }  # fmt: skip
    reads, births, ends = [[[0]], [[0]]], [4, 1], [None, 0, 0, 0, 0, 1]
    trace = Trace.from_lists(1, reads, births=births, ends=ends)
    instance = kv.make_instance("full", memory=memory, llm=llm, trace=trace, rules={"copies": copies})
    best, time_s = (1, 7.0) if copies is Copies.INCLUSIVE else (0, 2.0)
    events = LayerEvents.of([0, 0, 0, 0, 1], [1, 2, 3, 4, 5], [1 - best] * 5)
    start = Schedule(np.ones((1, 1), np.uint8), (events,))
    data = search_data(instance)
    for kernel in KERNELS:
        chains = Chains.of(instance, data, [start] * 2)
        annealer = Annealer(data, chains, np.random.default_rng(0), kernel)
        annealer.cycle(0, 200, lambda: True)
        found = schedule_of(instance, annealer.best)
        assert found.events[0].tier.tolist() == [best] * 5
        assert evaluate(instance, found).time_s == pytest.approx(time_s)


@pytest.mark.parametrize("name", ["swap-2x48-c30-b64", "three-1x24-exclusive"])
def test_many_moves_on_a_small_instance(name: str) -> None:
    instance = kv.read_instance(name)
    first = moved_chains(instance, KERNELS[-1], moves=400, heat=0.05)
    assert_consistent(instance, first)
    assert_accepted(instance, first)
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


def test_intervals_are_the_states_of_blocks_between_their_events() -> None:
    rng = np.random.default_rng(9)
    for n in range(120):
        instance = tiny_instance(rng, batch=True)
        instance = with_layers(rng, instance) if n % 2 else instance
        data, blocks = search_data(instance), instance.grouping
        moves, fixed = instance.rules.migration != "none", instance.rules.initial == "prefill-first"
        expected = []
        for n in range(instance.layers * blocks.count):
            layer, block = divmod(n, blocks.count)
            born, last = int(blocks.born[block]), int(blocks.last[layer, block])
            read = [bool(each) for each in data.reads[0, n]] if moves else [False] * data.steps
            low = born + 1 + (born < 0 and fixed)
            if born == last:
                expected += [] if instance.inclusive or born < 0 else [(n, low, low, -1)]
            elif not (born < 0 and fixed and not moves):
                ends = [step for step in range(low, last) if read[step]] + [last] * (low <= last)
                lows = [low, *(step + 1 for step in ends)]
                due = [end * data.layers + layer if end < data.steps and read[end] else -1 for end in ends]
                expected += [(n, a, b, d) for a, b, d in zip(lows, ends, due, strict=False)]
        assert data.intervals.tolist() == [list(each) for each in expected]
        number = np.full_like(data.interval_of, -1)
        for n, (block, low, high, _) in enumerate(expected):
            if low <= blocks.last.flat[block]:
                number[block, low : high + 1] = n
        assert np.array_equal(data.interval_of, number)


def test_arrays_of_tiers_convert_back_to_the_schedule() -> None:
    rng = np.random.default_rng(3)
    for n in range(120):
        instance = tiny_instance(rng, batch=n % 2 == 1)
        instance = with_layers(rng, instance) if n >= 80 else instance
        if instance.memory.tiers[-1].capacity is not None:
            continue
        schedule = random_schedule(rng, instance)
        tier = tiers_of(instance, schedule)
        again = schedule_of(instance, tier)
        assert np.array_equal(again.initial, schedule.initial)
        assert np.array_equal(tiers_of(instance, again), tier)
        if instance.inclusive:  # births that are never held are in the last tier
            assert evaluate(instance, again).time_s <= evaluate(instance, schedule).time_s
        else:
            assert evaluate(instance, again) == evaluate(instance, schedule)
