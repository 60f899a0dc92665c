"""First fit: items in order, each into the first tier with room for it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def first_fit(units: Ints, room: Ints) -> Ints:
    """Return for items in order the first tier with room for each, or the number of tiers if there is none.

    Parameters
    ----------
    units
        Size of each item, shape (items,).
    room
        Room of each tier, shape (K,).
    """
    tier, left = np.full(len(units), len(room)), np.arange(len(units))
    for k, free in enumerate(room.tolist()):
        waiting, passed = left, [left[:0]]
        while len(waiting):  # at most once for each size
            total = np.cumsum(units[waiting])
            count = int(np.searchsorted(total, free, side="right"))
            tier[waiting[:count]] = k
            free -= int(total[count - 1]) if count else 0
            fits = units[waiting[count:]] <= free
            passed.append(waiting[count:][~fits])
            waiting = waiting[count:][fits]
        left = np.sort(np.concatenate(passed))
    return tier
