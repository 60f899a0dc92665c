"""Bring in whole pages for the next step."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvbound.errors import UsageError
from kvbound.policies import make_policy
from kvbound.policies.base import Birth
from tests.policies.cases import medium_instance
from tests.policies.spy import births, resident, watch
from tests.policies.twin import members_of


@pytest.mark.parametrize("batch", [False, True])
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_pages_evict_only_older_pages(batch: bool, seed: int, size: int) -> None:
    """A page consists of tokens of one sequence, and is as old as its first token."""
    instance = medium_instance(np.random.default_rng(seed), granularity=1, batch=batch)
    page = [0] * instance.tokens
    for tokens in members_of(instance, size).values():
        for token in tokens:
            page[token] = tokens[0]
    for slot, wish, soon in watch(instance, "page", size=size):
        pages = {page[token] for token in soon if token < slot.tokens}
        staying = sorted(resident(slot), key=lambda t: (page[t], t))
        there = np.flatnonzero(slot.staying).tolist()
        coming = [t for t in there if page[t] in pages and t not in staying]
        coming.sort(key=lambda t: (page[t], t))
        room, promote, evict = slot.room, [], []
        for token in coming:
            if room > 0:
                room -= 1
            elif staying and page[staying[0]] < page[token]:
                evict.append(staying.pop(0))
            else:
                break
            promote.append(token)
        assert wish.promote.tolist() == promote
        assert wish.evict.tolist() == evict
        for new, birth in enumerate(births(slot, wish), slot.tokens):
            first = next((t for t in there if page[t] == page[new]), None)
            assert birth is (Birth.IF_ROOM if first is None or slot.tier[first] == 0 else Birth.SLOW)


@pytest.mark.parametrize("size", [0, -1, 1.5, "16"])
def test_invalid_sizes(size: object) -> None:
    with pytest.raises(UsageError, match="page needs a whole size >= 1"):
        make_policy("page", size=size)
