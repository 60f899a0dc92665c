"""Keep the most recent tokens."""

from __future__ import annotations

import numpy as np

from kvbound.policies.base import Scores
from kvbound.policies.fills import recency
from kvbound.policies.view import InstanceView, Slot


class RecencyWindow:
    """Keep the youngest tokens of each sequence, whatever is read: windows as wide as tier 0 allows."""

    name = "recency-window"
    oracle = False

    def start(self, instance: InstanceView, rng: np.random.Generator) -> None:
        """Keep no state."""

    def step(self, slot: Slot) -> Scores:
        """Return how recent each token is in its sequence."""
        return recency(slot.sequence)
