"""Slots and fills as policies see them; only oracles see the reads to come."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvbound.initial import fill
from kvbound.policies.base import Scores
from kvbound.policies.fills import first_use, prompt_first, recent_first
from kvbound.policies.view import InstanceView, Slot, mask
from kvbound.rules import Initial
from kvbound.simulation import simulate
from tests.policies.cases import medium_instance

seeds = st.integers(0, 2**32 - 1)


class Spy:
    """Keeps the most recent tokens, and records every slot."""

    name = "spy"

    def __init__(self, oracle: bool) -> None:
        self.oracle = oracle
        self.seen: list[Slot] = []

    def start(self, instance: InstanceView, rng: np.random.Generator) -> None:
        self.seen.clear()

    def step(self, slot: Slot) -> Scores:
        self.seen.append(slot)
        if self.oracle:
            assert slot.future.now == slot.step
        return np.arange(slot.tokens + 1.0)


@given(seeds)
@settings(max_examples=25, deadline=None)
def test_slots_come_in_order_with_the_recorded_reads(seed: int) -> None:
    instance = medium_instance(np.random.default_rng(seed))
    spy, trace = Spy(oracle=False), instance.trace
    simulate(instance, spy)
    assert [(s.step, s.layer) for s in spy.seen] == list(np.ndindex(instance.decode_steps, instance.layers))
    for slot in spy.seen:
        assert slot.tokens == instance.prefill_tokens + slot.step
        recorded = trace.listed(slot.step, slot.layer)
        past = recorded < slot.tokens
        assert slot.listed.tolist() == recorded[past].tolist()
        assert slot.reads.tolist() == sorted(slot.listed)
        mass = trace.listed_mass(slot.step, slot.layer)
        assert (slot.mass is None) == (mass is None)
        if mass is not None and slot.mass is not None:
            assert slot.mass.tolist() == mass[past].tolist()
        assert slot.tier.shape == (slot.tokens,)
        assert np.flatnonzero(slot.read_now).tolist() == slot.reads.tolist()
        assert slot.read_now.shape == (slot.tokens + 1,)
        assert slot.misses.tolist() == [t for t in slot.listed if slot.tier[t] > 0]
        assert slot.resident.tolist() == (slot.tier == 0).tolist()
        assert slot.room >= 0


@pytest.mark.parametrize("oracle", [False, True])
def test_only_oracles_see_the_future(oracle: bool) -> None:
    spy = Spy(oracle)
    simulate(medium_instance(np.random.default_rng(0)), spy)
    if oracle:
        assert spy.seen[0].future.reads(0) is not None
    else:
        with pytest.raises(AttributeError, match="cannot see the future"):
            _ = spy.seen[0].future


def test_slots_are_read_only() -> None:
    spy = Spy(oracle=False)
    simulate(medium_instance(np.random.default_rng(0)), spy)
    slot: Any = spy.seen[-1]
    with pytest.raises(ValueError, match="read-only"):
        slot.tier[0] = 1
    with pytest.raises(AttributeError):
        slot.room = 10**9


@given(seeds)
@settings(max_examples=25, deadline=None)
def test_room_is_what_tier_0_has_left(seed: int) -> None:
    """Of all layers together, in tokens, also with reads of whole blocks."""
    instance = medium_instance(np.random.default_rng(seed))
    spy = Spy(oracle=False)
    simulate(instance, spy)
    room, size = instance.capacity_units[0], instance.granularity
    assert room is not None
    held = [0] * instance.layers
    for layer in range(instance.layers):
        first = next(s for s in spy.seen if s.layer == layer)
        held[layer] = int(np.count_nonzero(first.tier[::size] == 0))
    assert spy.seen[0].room == (room - sum(held)) * size


def test_mask() -> None:
    assert mask(np.array([0, 3]), 5).tolist() == [True, False, False, True, False]
    assert mask(np.array([], np.int64), 2).tolist() == [False, False]


@given(seeds)
@settings(max_examples=25, deadline=None)
def test_fills_rank_the_prompt(seed: int) -> None:
    instance = medium_instance(np.random.default_rng(seed), initial=Initial.FREE, granularity=1)
    prompt, layers = instance.prefill_tokens, instance.layers
    places = [(layer, token) for token in range(prompt) for layer in range(layers)]

    def first_read(place: tuple[int, int]) -> float:
        layer, token = place
        steps = range(instance.decode_steps)
        return next((s for s in steps if token in instance.trace.reads(s, layer)), np.inf)

    view = InstanceView.of(instance, oracle=True)
    scores = prompt_first(view)
    assert scores.shape == (layers, prompt)
    assert sorted(places, key=lambda p: -scores[p]) == places
    scores = recent_first(view)
    assert all(scores[layer].tolist() == list(range(prompt)) for layer in range(layers))
    scores = first_use(view)
    slots = {place: (first_read(place), place[0]) for place in places}
    read = [place for place in places if slots[place][0] < np.inf]
    assert all(scores[place] == -np.inf for place in places if place not in read)
    distinct = sorted({slots[place] for place in read})
    assert len({(slots[place], scores[place]) for place in read}) == len(distinct)
    worth = [next(scores[place] for place in read if slots[place] == slot) for slot in distinct]
    assert np.all(np.diff(worth) < 0)


@given(seeds)
@settings(max_examples=40, deadline=None)
def test_the_fill_respects_room_and_rank(seed: int) -> None:
    rng = np.random.default_rng(seed)
    instance = medium_instance(rng, initial=Initial.FREE)
    scores = rng.integers(0, 5, (instance.layers, instance.prefill_tokens)).astype(np.float64)
    scores[rng.random(scores.shape) < 0.3] = -np.inf
    tiers, size = fill(instance, scores), instance.granularity
    starts = range(0, instance.prefill_tokens, size)
    worth = np.array([scores[:, s : s + size].max(axis=1) for s in starts])
    worth = worth.reshape(len(starts), instance.layers).T
    held = np.bincount(tiers.ravel(), minlength=instance.tiers)
    for count, room in zip(held, instance.capacity_units, strict=True):
        assert room is None or count <= room
    wanted = worth > -np.inf
    for tier in range(instance.tiers):
        # no block is in a slower tier while one of lower score is here, or while there is room
        slower = worth[wanted & (tiers > tier)]
        if slower.size:
            assert held[tier] == instance.capacity_units[tier]
            assert not wanted[tiers == tier].any() or worth[(tiers == tier) & wanted].min() >= slower.max()
        # and no unwanted block is here while a slower tier has room
        if np.any(~wanted & (tiers == tier)):
            assert all(held[k] == instance.capacity_units[k] for k in range(tier + 1, instance.tiers))


@given(seeds)
@settings(max_examples=25, deadline=None)
def test_prefill_first_ignores_scores(seed: int) -> None:
    rng = np.random.default_rng(seed)
    instance = medium_instance(rng, initial=Initial.PREFILL_FIRST)
    some = fill(instance, rng.random((instance.layers, instance.prefill_tokens)))
    ranked = fill(instance.with_rules(initial="free"), prompt_first(InstanceView.of(instance, oracle=False)))
    assert np.array_equal(some, ranked)
    order = some.T.ravel()
    assert np.all(np.diff(order.astype(int)) >= 0)
