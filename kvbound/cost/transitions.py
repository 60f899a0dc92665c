"""The moves between tiers that the rules allow, and the traffic of moves and births, as tables."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from kvbound.instance import Instance
from kvbound.rules import Copies, Migration, Rules

Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Transitions:
    """The transitions of an item among K tiers within a slot.

    Attributes
    ----------
    legal
        Whether an item may move, shape (2, K, K): not read (0) or read (1) by the slot, source, target.
    charged
        Whether a move writes the item to its target and, unless the slot reads the item anyway, reads it at
        its source, shape (K, K). With inclusive copies moves to the last tier are free, as it has a copy.
    birth_writes
        Items written to each tier (second axis) for a token born into a tier (first axis), shape (K, K).
        With inclusive copies every birth is written through to the last tier.
    limited
        The tiers whose occupancy depends on the placement: with inclusive copies the last one always holds
        everything.
    """

    legal: Bools
    charged: Bools
    birth_writes: NDArray[np.int64]
    limited: range

    @classmethod
    def of(cls, instance: Instance) -> Transitions:
        """Return the transitions of an instance."""
        return cls.under(instance.rules, instance.tiers)

    @classmethod
    @cache
    def under(cls, rules: Rules, tiers: int) -> Transitions:
        """Return the transitions among a number of tiers under given rules."""
        order, inclusive = np.arange(tiers), rules.copies is Copies.INCLUSIVE
        down, up = order[:, None] < order, order[:, None] > order
        read = np.array([False, True])[:, None, None]
        moves = {
            Migration.NONE: np.False_,
            Migration.ON_READ: down | up & read,
            Migration.PREFETCH: down | up,
        }
        legal = np.broadcast_to(moves[rules.migration], (2, tiers, tiers)).copy()
        charged, writes = down | up, np.eye(tiers, dtype=np.int64)
        if inclusive:
            charged[:, -1] = False
            writes[:-1, -1] = 1
        for table in (legal, charged, writes):
            table.setflags(write=False)
        return cls(legal, charged, writes, range(tiers - inclusive))

    def moves(self, read: bool) -> list[tuple[int, int]]:
        """Return the legal moves of an item as (source, target), sorted."""
        return [(int(a), int(b)) for a, b in np.argwhere(self.legal[int(read)])]
