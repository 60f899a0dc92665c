"""The traffic of a schedule under dense reads is that of the bits."""

import dataclasses

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kvbound.cost.traffic import ScheduleTraffic, schedule_traffic
from tests.dense_cases import dense_instance, with_bits
from tests.strategies import random_schedule


@given(st.integers(0, 2**32 - 1))
def test_it_is_that_of_the_bits(seed: int) -> None:
    rng = np.random.default_rng(seed)
    instance = dense_instance(rng)
    if instance.memory.tiers[-1].capacity is not None:
        return
    schedule = random_schedule(rng, instance)
    dense, plain = (schedule_traffic(each, schedule) for each in (instance, with_bits(instance)))
    for field in dataclasses.fields(ScheduleTraffic):
        assert np.array_equal(getattr(dense, field.name), getattr(plain, field.name))
