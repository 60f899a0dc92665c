"""First fit against placing one item at a time."""

import numpy as np
import pytest

from kvbound.first_fit import first_fit


@pytest.mark.parametrize("seed", range(200))
def test_every_item_is_in_the_first_tier_with_room(seed: int) -> None:
    rng = np.random.default_rng(seed)
    units = rng.integers(0 if seed % 3 == 0 else 1, 6, rng.integers(0, 12))
    room = rng.integers(0, 15, rng.integers(1, 4))
    left, expected = room.tolist(), []
    for size in units.tolist():
        tier = next((k for k, free in enumerate(left) if free >= size), len(left))
        expected.append(tier)
        if tier < len(left):
            left[tier] -= size
    assert first_fit(units, room).tolist() == expected
