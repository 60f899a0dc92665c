"""How long slots wait for the tiers that serve their reads, by facet of the slot cost."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvbound.cost.ideal import Slots
from kvbound.cost.slot import SlotCost, set_number
from kvbound.instance import Instance
from kvbound.solvers.lagrangian.slots.bounds import beyond_room, reading_tiers

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Waits:
    """How long the facets of slots wait for the tiers that serve reads.

    Parameters
    ----------
    serving
        Whether each tier serves reads of a slot, (K, steps, layers or 1), where that is settled.

    Attributes
    ----------
    sure
        Seconds that slots wait whichever tiers serve their reads, as far as these have room, by facet,
        (V, steps, layers).
    """

    def __init__(
        self, cost: SlotCost, instance: Instance, slots: Slots, serving: Bools | None = None
    ) -> None:
        weights, waits = instance.timed(instance.weight_reads) > 0, cost.facet_waits
        self.tiers, self.inclusive, tier = cost.tiers, cost.inclusive, 1 << np.arange(cost.tiers)
        alone = np.where(weights, waits[:, tier | 1, None], waits[:, tier, None])  # (V, K, layers)
        self._alone = np.minimum(alone, alone[:, -1:]) if cost.inclusive else alone
        self.sure = np.zeros((len(waits), *slots.reads.shape))
        if not cost.latency.any():
            return
        if serving is not None:
            settled = set_number(np.moveaxis(serving, 0, -1))
            self.sure[:] = np.where(weights, waits[:, settled | 1], waits[:, settled])
            self._alone = np.zeros_like(self._alone)
            return
        self.sure[:] = np.inf
        for number in range(1 << len(instance.memory.late_tiers)):
            reading = reading_tiers(instance, number)
            some = int(set_number(reading))
            wait = np.where(weights, waits[:, some | 1, None], waits[:, some, None])[:, None]
            possible = beyond_room(instance, slots.reads, self.tiers - 1, reading)[1]
            self.sure = np.where(possible, np.minimum(self.sure, wait), self.sure)
        nothing = slots.reads * slots.sizes == 0
        self.sure = np.where(nothing, np.where(weights, waits[:, 1, None], 0.0)[:, None], self.sure)

    def more(self, tier: int, waited: Floats | None = None) -> Floats:
        """Return the seconds that a read held in a tier adds, at least, (V, steps, layers).

        Parameters
        ----------
        waited
            The seconds that it adds to, by default those that are sure.
        """
        return np.maximum(self._alone[:, tier, None] - (self.sure if waited is None else waited), 0.0)

    def least(self, charged: Floats) -> Floats:
        """Return the seconds that a read adds at any tier whose reads the facet charges, (V, steps, layers).

        Parameters
        ----------
        charged
            What each facet charges for a read at each tier, (V, K).
        """
        least = np.full_like(self.sure, np.inf)
        for k, charges in enumerate(charged.T > 0):
            least[charges] = np.minimum(least[charges], self.more(k)[charges])
        return np.where(np.isinf(least), 0.0, least)

    def touching(self, slots: Slots) -> tuple[int, ...]:
        """Return the tiers whose reads may add to the wait of a slot."""
        if not slots.reads.any():
            return ()
        return tuple(k for k in range(self.tiers) if self.more(k).any())
