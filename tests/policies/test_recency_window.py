"""Keep the most recent tokens, against its literal twin."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.policies.cases import medium_instance
from tests.policies.twin import History, age, assert_same


def rank(seen: History, token: int) -> float:
    """Rank by age, the youngest first; only tokens of the same sequence count."""
    return -age(seen.instance, token, int(seen.instance.timeline.past[seen.now + 1]))


@pytest.mark.parametrize("batch", [False, True])
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_twin(batch: bool, seed: int) -> None:
    assert_same(medium_instance(np.random.default_rng(seed), batch=batch), "recency-window", rank)
