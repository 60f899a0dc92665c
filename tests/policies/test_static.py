"""Place once, never move."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvbound.policies import make_policy
from kvbound.rules import Initial
from kvbound.simulation import run
from tests.policies.cases import medium_instance

seeds = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("batch", [False, True])
@given(seed=seeds)
@settings(max_examples=25, deadline=None)
def test_nothing_moves_and_births_take_the_fastest_tier_with_room(batch: bool, seed: int) -> None:
    instance = medium_instance(np.random.default_rng(seed), batch=batch)
    rng = np.random.default_rng(0)
    schedule = run(instance, make_policy("static"), rng)
    room = [np.inf if most is None else most for most in instance.capacity_units]
    blocks, timeline, prompt = instance.grouping, instance.timeline, instance.prefill_tokens
    where: list[dict[int, int]] = [{} for _ in schedule.events]
    for tiers, initial in zip(where, schedule.initial, strict=True):
        for block in range(blocks.prompt):
            tiers[block] = int(initial[blocks.head[block]])
            room[tiers[block]] -= 1
    for step in range(instance.decode_steps):
        for layer, events in enumerate(schedule.events):
            assert schedule.births(layer).all()
            for block, tier in where[layer].items():
                room[tier] += blocks.last[layer, block] == step
            for block in np.flatnonzero((blocks.born == step) & (blocks.last[layer] > step)).tolist():
                tier = where[layer][block] = int(events.tier[blocks.head[block] - prompt])
                assert tier == next(k for k, left in enumerate(room) if left > 0)
                room[tier] -= 1
            passing = np.flatnonzero((blocks.born == step) & (blocks.last[layer] == step))
            free = next((k for k, left in enumerate(room) if left > 0), instance.tiers - 1)
            expected = instance.tiers - 1 if instance.inclusive else free
            of = blocks.of[timeline.prefill_tokens :]
            assert np.all(events.tier[np.isin(of, passing)] == expected)


@given(seeds)
@settings(max_examples=25, deadline=None)
def test_its_own_fill_is_the_forced_one(seed: int) -> None:
    instance = medium_instance(np.random.default_rng(seed), initial=Initial.FREE)
    forced = instance.with_rules(initial=Initial.PREFILL_FIRST)
    one, other = (run(each, make_policy("static"), np.random.default_rng(0)) for each in (instance, forced))
    assert np.array_equal(one.initial, other.initial)
    for mine, theirs in zip(one.events, other.events, strict=True):
        assert np.array_equal(mine.tier, theirs.tier)
