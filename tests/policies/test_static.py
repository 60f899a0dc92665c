"""Place once, never move."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kvbound.instance import Initial
from kvbound.policies import make_policy
from kvbound.simulation import run
from tests.policies.cases import medium_instance

seeds = st.integers(0, 2**32 - 1)


@given(seeds)
@settings(max_examples=25, deadline=None)
def test_nothing_moves_and_births_take_the_fastest_tier_with_room(seed: int) -> None:
    instance = medium_instance(np.random.default_rng(seed))
    rng = np.random.default_rng(0)
    schedule = run(instance, make_policy("static"), rng)
    room = [np.inf if most is None else most for most in instance.capacity_blocks]
    for filled in schedule.initial[:, :: instance.granularity].ravel():
        room[filled] -= 1
    for step in range(instance.decode_steps):
        for layer, events in enumerate(schedule.events):
            assert schedule.births(layer).all()
            token = instance.prefill_tokens + step
            if token % instance.granularity == 0:
                tier = int(events.tier[step])
                assert tier == next(k for k, left in enumerate(room) if left > 0)
                room[tier] -= 1


@given(seeds)
@settings(max_examples=25, deadline=None)
def test_its_own_fill_is_the_forced_one(seed: int) -> None:
    instance = medium_instance(np.random.default_rng(seed), initial=Initial.FREE)
    forced = instance.with_rules(initial=Initial.PREFILL_FIRST)
    one, other = (run(each, make_policy("static"), np.random.default_rng(0)) for each in (instance, forced))
    assert np.array_equal(one.initial, other.initial)
    for mine, theirs in zip(one.events, other.events, strict=True):
        assert np.array_equal(mine.tier, theirs.tier)
