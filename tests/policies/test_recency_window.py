"""Keep the most recent tokens, against its literal twin."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.policies.cases import KINDS, medium_instance
from tests.policies.twin import History, age, assert_same


def rank(seen: History, token: int) -> float:
    """Rank by age, the youngest first; only tokens of the same sequence count."""
    return -age(seen.instance, token, int(seen.instance.timeline.past[seen.now + 1]))


@pytest.mark.parametrize(("batch", "differ"), KINDS)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_twin(batch: bool, differ: bool, seed: int) -> None:
    instance = medium_instance(np.random.default_rng(seed), batch=batch, differ=differ)
    assert_same(instance, "recency-window", rank)
