"""Keep the most recent tokens, against its literal twin."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.policies.cases import medium_instance
from tests.policies.twin import History, assert_same


def rank(seen: History, token: int) -> float:
    """Rank by age, the youngest first."""
    return token


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_twin(seed: int) -> None:
    assert_same(medium_instance(np.random.default_rng(seed)), "recency-window", rank)
