"""Bring in every miss, clear the layer when full."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvbound.rules import Copies, Migration
from tests.policies.cases import medium_instance
from tests.policies.spy import resident, watch


@pytest.mark.parametrize("batch", [False, True])
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_all_misses_come_in_or_all_residents_leave(batch: bool, seed: int) -> None:
    """All misses come in if they fit; else all of the layer's residents leave at once."""
    rng = np.random.default_rng(seed)
    instance = medium_instance(
        rng, tiers=2, granularity=1, batch=batch, copies=Copies.INCLUSIVE, migration=Migration.ON_READ
    )
    seen = watch(instance, "reactive")
    for (slot, wish, _), (later, _, _) in zip(seen, seen[instance.layers :], strict=False):
        before, misses = resident(slot), [token for token in slot.misses.tolist() if slot.staying[token]]
        assert wish.promote.tolist() == misses
        after = [token for token in np.flatnonzero(later.tier == 0).tolist() if token < slot.tokens]
        if len(misses) <= slot.room:
            assert after == sorted([*before, *misses])
        else:
            assert after == sorted(misses[: slot.room + len(before)])
