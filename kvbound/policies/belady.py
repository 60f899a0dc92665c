"""The token with the farthest next use is evicted first (Belady, IBM Systems Journal 1966)."""

from __future__ import annotations

import numpy as np

from kvbound.policies.base import Scores
from kvbound.policies.fills import first_use
from kvbound.policies.view import InstanceView, Slot


class Belady:
    """Keep what is read again soonest. Best for hit counts of one cache, not for times of many slots."""

    name = "belady"
    oracle = True

    def start(self, instance: InstanceView, rng: np.random.Generator) -> Scores:
        """Fill with what is read first."""
        return first_use(instance)

    def step(self, slot: Slot) -> Scores:
        """Return how soon each token is read again."""
        return -slot.future.next_use()[: slot.tokens + slot.births].astype(np.float64)
