"""First fit, against the loop that it is short for."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kvbound.first_fit import first_fit

sizes = st.lists(st.integers(0, 5), max_size=40)


@given(sizes, st.lists(st.integers(0, 30), min_size=1, max_size=4))
def test_every_item_is_in_the_first_tier_with_room(units: list[int], room: list[int]) -> None:
    found, left = first_fit(np.array(units, np.int64), np.array(room, np.int64)), list(room)
    for size, tier in zip(units, found.tolist(), strict=True):
        fits = [k for k, free in enumerate(left) if size <= free]
        assert tier == (fits[0] if fits else len(room))
        if fits:
            left[tier] -= size


def test_a_smaller_item_fits_where_a_larger_one_did_not() -> None:
    assert first_fit(np.array([3, 3, 1, 0]), np.array([4, 9])).tolist() == [0, 1, 0, 0]
    assert first_fit(np.array([], np.int64), np.array([4])).tolist() == []
