"""Keep what gathered most attention, against its literal twin."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.policies.cases import KINDS, medium_instance
from tests.policies.twin import History, assert_same


def rank(seen: History, token: int) -> float:
    """Accumulated mass, or number of reads where the trace has no mass; own reads do not count."""
    return sum(mass.get(token, 0.0) for step, mass in enumerate(seen.mass) if step != seen.born(token))


@pytest.mark.parametrize(("batch", "differ"), KINDS)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_twin(batch: bool, differ: bool, seed: int) -> None:
    instance = medium_instance(np.random.default_rng(seed), batch=batch, differ=differ)
    assert_same(instance, "heavy-hitter", rank)
