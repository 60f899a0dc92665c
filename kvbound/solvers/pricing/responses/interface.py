"""The paths that items have taken so far, as prices and best responses use them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kvbound.bitsets.lanes import Lanes
from kvbound.bitsets.two_tier import TwoTierSchedule
from kvbound.progress import Progress, silent
from kvbound.schedule import Schedule

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

Adopt: TypeAlias = Callable[[tuple[int, ...]], Bools]
"""Draws which lanes of a (layers, lanes) array adopt their best response; the others keep their paths."""


class Loads(Protocol):
    """The traffic and occupancy of the items that have a path so far."""

    @property
    def reads(self) -> Ints:
        """Reads of these items, (steps, layers)."""

    @property
    def share(self) -> float:
        """Share of the items that have a path."""

    def used(self, steps: slice) -> Floats:
        """Return the counts of some steps' slots; see `Demand`, (3K, steps, layers)."""

    def held(self) -> Floats:
        """Return the blocks in each limited tier at the start and after every slot, (tiers, 1 + slots)."""


class Responses(Loads, Protocol):
    """Paths of items, as bits or as tiers."""

    def update(self, lanes: Lanes, prices: Floats, capacity: Floats, adopt: Adopt | None) -> None:
        """Give lanes their best paths.

        Parameters
        ----------
        prices, capacity
            Of every count (3K, steps, layers), and of a block's place (K, 1 + slots).
        adopt
            Draws which lanes adopt them; None for lanes without a path, which all do.
        """

    def repaired(self, progress: Progress = silent) -> TwoTierSchedule | Schedule:
        """Return them as a schedule within the capacities; changes them in place."""
