"""Bring in whole pages for the next step."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvbound.errors import UsageError
from kvbound.policies import make_policy
from kvbound.policies.base import Birth
from tests.policies.cases import medium_instance
from tests.policies.spy import resident, watch


@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_pages_evict_only_older_pages(seed: int, size: int) -> None:
    instance = medium_instance(np.random.default_rng(seed), granularity=1)
    for slot, wish, soon in watch(instance, "page", size=size):
        pages = {token // size for token in soon if token < slot.tokens}
        staying = resident(slot)
        coming = [t for t in range(slot.tokens) if t // size in pages and t not in staying]
        room, promote, evict = slot.room, [], []
        for token in coming:
            if room > 0:
                room -= 1
            elif staying and staying[0] // size < token // size:
                evict.append(staying.pop(0))
            else:
                break
            promote.append(token)
        assert wish.promote.tolist() == promote
        assert wish.evict.tolist() == evict
        first = slot.tokens - slot.tokens % size
        opens_or_joins = first == slot.tokens or slot.tier[first] == 0
        assert wish.birth is (Birth.IF_ROOM if opens_or_joins else Birth.SLOW)


@pytest.mark.parametrize("size", [0, -1, 1.5, "16"])
def test_invalid_sizes(size: object) -> None:
    with pytest.raises(UsageError, match="page needs a whole size >= 1"):
        make_policy("page", size=size)
