"""Bring in every miss, clear the layer when full: the published "reactive" rule (arXiv 2508.13231)."""

from __future__ import annotations

import numpy as np

from kvbound.policies.base import MoveRequest, Scores
from kvbound.policies.fills import first_use
from kvbound.policies.view import InstanceView, Slot


class Reactive:
    """Promote each miss; once the tier is full, the layer's residents leave together."""

    name = "reactive"
    oracle = True

    def start(self, instance: InstanceView, rng: np.random.Generator) -> Scores:
        """Fill by scanning the decode trace, as the study does."""
        return first_use(instance)

    def step(self, slot: Slot) -> MoveRequest:
        """Promote all misses."""
        staying = slot.misses[slot.staying[slot.misses]]
        return MoveRequest(promote=staying, evict=np.flatnonzero(slot.resident), together=True)
