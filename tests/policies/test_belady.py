"""Next use, against its literal twin."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvbound.instance import Instance
from tests.policies.cases import KINDS, medium_instance
from tests.policies.twin import History, assert_same


def next_use(seen: History, token: int, after: int) -> int:
    """The first step after the given one that reads the token, the number of steps if none does."""
    later = range(after + 1, seen.instance.decode_steps)
    return next((step for step in later if token in seen.recorded(step)), seen.instance.decode_steps)


def rank(seen: History, token: int) -> float:
    """Rank by the next use, the nearest first."""
    return -next_use(seen, token, seen.now)


def fill(instance: Instance, layer: int, token: int) -> tuple[float, ...]:
    """Rank by the first use; what is never read is not wanted."""
    first = next_use(History(instance, layer), token, -1)
    return (-np.inf,) if first == instance.decode_steps else (-first, -layer)


@pytest.mark.parametrize(("batch", "differ"), KINDS)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_twin(batch: bool, differ: bool, seed: int) -> None:
    instance = medium_instance(np.random.default_rng(seed), batch=batch, differ=differ)
    assert_same(instance, "belady", rank, fill)
