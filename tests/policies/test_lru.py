"""Least recently used, against its literal twin."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.policies.cases import KINDS, medium_instance
from tests.policies.twin import History, assert_same


def rank(seen: History, token: int) -> float:
    """Step of the token's last read, or of its birth."""
    used = [step for step, reads in enumerate(seen.reads) if token in reads or step == seen.born(token)]
    return max(used, default=-1)


@pytest.mark.parametrize(("batch", "differ"), KINDS)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_twin(batch: bool, differ: bool, seed: int) -> None:
    assert_same(medium_instance(np.random.default_rng(seed), batch=batch, differ=differ), "lru", rank)
