"""Repair between two tiers: within the capacity, faster for every step, the same without numba."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kvbound.instance import Instance
from kvbound.solvers.lagrangian.bound import maximize_dual
from kvbound.solvers.pricing import repair
from kvbound.solvers.pricing.best_response import best_responses
from kvbound.studies import Scale
from kvbound.studies.fang2025 import Cell
from tests.plain import without_numba
from tests.solvers.lagrangian.cases import swaps
from tests.solvers.pricing.cases import cost, differing, simple

PARTS = ("give_up_hits", "extend_stays")


@given(simple() | differing(), st.integers(0, 99))
@settings(max_examples=90, deadline=None)
def test_repaired_within_the_capacity(instance: Instance, seed: int) -> None:
    """Where every item is in tier 0 in every slot, the excess leaves, and stays outside until it is read."""
    rng, (steps, layers) = np.random.default_rng(seed), (instance.decode_steps, instance.layers)
    capacity = instance.capacity_units[0]
    assert capacity is not None
    timeline, row, units = instance.timeline, np.arange(steps)[:, None], instance.units
    words = np.zeros((layers, steps, 64), np.uint8)
    for bits, own in zip(words, instance.timelines, strict=True):
        bits[:, : instance.tokens] = (own.born <= row) & (row < own.ends)
    after = np.packbits(words, axis=2, bitorder="little").view(np.uint64)
    inside = np.zeros((layers, 64), np.bool_)
    inside[:, : instance.prefill_tokens] = rng.random((layers, instance.prefill_tokens)) < 0.7
    inside[:, : instance.prefill_tokens] &= instance.grouping.initial
    start = inside.copy()
    repair.repair(instance, inside, after, rng.integers(0, 2, (steps, layers)))
    bits = np.unpackbits(after.view(np.uint8), axis=2, bitorder="little")
    assert not np.any(bits > words)
    held = bits.sum(axis=2, dtype=np.int64).T
    assert not np.any(inside & ~start)
    now, size = inside.sum(axis=1), inside.sum(axis=1) @ units
    assert size <= capacity
    before = inside.astype(np.uint8)
    for step in range(steps):
        for layer in range(layers):
            size += (held[step, layer] - now[layer]) * units[layer]
            now[layer] = held[step, layer]
            assert size <= capacity
            read = np.zeros(64, np.bool_)
            read[instance.trace.reads(step, layer)] = True
            entering = (bits[layer, step] > before[layer]) & ~read
            if step or instance.prefill_tokens == 0 or start[layer, : instance.prefill_tokens].all():
                assert not entering[: timeline.past[step]].any()
            before[layer] = bits[layer, step]


@pytest.mark.parametrize("seed", range(6))
def test_the_room_left_is_that_of_the_bits(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is given up or extended changes the room from the slots on that it changes the bits."""
    rng = np.random.default_rng(seed)
    instance = swaps(40, 12, migration="prefetch", initial="free")
    steps, layers, changed = instance.decode_steps, instance.layers, dict.fromkeys(PARTS, 0)

    def checked(name: str) -> Callable[..., None]:
        function = getattr(repair, name)

        def call(*given: Any) -> None:
            _, _, inside, after, spare, room, units, layer, *_ = given
            before, room_before, spare_before = held(inside, after), room.copy(), spare.copy()
            function(*given)
            freed = before - held(inside, after)
            slots_done = (np.arange(len(room)) + layers - 1 - layer) // layers  # of the layer, by moment
            assert np.array_equal(room - room_before, units[layer] * freed[slots_done])
            assert room.min() >= 0
            assert (spare < spare_before).any() == (name == "give_up_hits" and freed.any())
            changed[name] += int(freed.any())

        return call

    inside, after = random_bits(rng, instance)
    for name in PARTS:
        monkeypatch.setattr(repair, name, checked(name))
    repair.repair(instance, inside, after, rng.integers(-3, 4, (steps, layers)))
    assert all(changed.values())


@pytest.mark.parametrize("seed", range(6))
def test_spare_misses_are_kept_count_of(seed: int) -> None:
    """A hit that is lost takes one of the slot's spare misses, one that is won gives one back."""
    rng = np.random.default_rng(seed)
    instance = swaps(40, 12, migration="prefetch", initial="free")
    rows = np.stack([instance.trace.words(layer) for layer in range(instance.layers)])
    inside, after = random_bits(rng, instance)

    def hits() -> NDArray[np.int64]:
        start = np.packbits(inside, axis=1, bitorder="little").view(np.uint64)[:, None]
        before = np.concatenate([start, after[:, :-1]], axis=1)
        return np.bitwise_count(rows & before).sum(axis=2, dtype=np.int64).T

    first, spare = hits(), rng.integers(-3, 4, (instance.decode_steps, instance.layers))
    left = spare.copy()
    repair.repair(instance, inside, after, left)
    assert np.array_equal(left - spare, hits() - first)
    assert (hits() < first).any()
    assert (hits() > first).any()


def random_bits(
    rng: np.random.Generator, instance: Instance, share: float = 0.4
) -> tuple[NDArray[np.bool_], NDArray[np.uint64]]:
    """Random tokens of the prompt in tier 0 at the start, and of those born after every slot."""
    tokens = rng.random((instance.layers, instance.decode_steps, 64)) < share
    tokens &= np.arange(64) < instance.prefill_tokens + 1 + np.arange(instance.decode_steps)[:, None]
    inside = (rng.random((instance.layers, 64)) < share) & (np.arange(64) < instance.prefill_tokens)
    return inside, np.packbits(tokens, axis=2, bitorder="little").view(np.uint64)


def held(inside: NDArray[np.bool_], after: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Items of a layer in tier 0 at the start and after each of its slots."""
    return np.concatenate([[inside.sum()], np.bitwise_count(after).sum(axis=1, dtype=np.int64)])


@pytest.mark.parametrize("migration", ["on-read", "prefetch"])
def test_giving_up_and_extending_stays_both_pay(migration: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Giving up useless hits and filling free room is faster than evicting the excess alone."""
    case = Cell("actual-like", migration=migration).instance(Scale("small", 32, 16, 0.0))
    instance = case.with_rules(accounting="physical")
    tuned = maximize_dual(instance, time_limit=math.inf, iterations=300)
    assert tuned.multipliers is not None
    # more sweeps leave nothing to give up here
    times = {"repair": cost(instance, best_responses(instance, tuned.multipliers, sweeps=3).schedule())}
    for name in reversed(PARTS):
        monkeypatch.setattr(repair, name, lambda *_: None)
        times[name] = cost(instance, best_responses(instance, tuned.multipliers, sweeps=3).schedule())
    assert times["repair"] < times["extend_stays"] < times["give_up_hits"]


@pytest.fixture(scope="module")
def plain() -> ModuleType:
    return without_numba(repair)


@given(simple() | differing(), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_the_same_repair_without_numba(plain: ModuleType, instance: Instance, seed: int) -> None:
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
