"""Keep what was just read, against its literal twin."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.policies.cases import KINDS, medium_instance
from tests.policies.twin import History, assert_same


def rank(seen: History, token: int) -> float:
    """Whether this slot reads the token, or it is the new one."""
    return token in seen.reads[-1] or seen.born(token) == seen.now


@pytest.mark.parametrize(("batch", "differ"), KINDS)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_twin(batch: bool, differ: bool, seed: int) -> None:
    assert_same(medium_instance(np.random.default_rng(seed), batch=batch, differ=differ), "keep-last", rank)
