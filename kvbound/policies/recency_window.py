"""Keep the most recent tokens."""

from __future__ import annotations

import numpy as np

from kvbound.instance import Instance
from kvbound.policies.base import Scores, Slot


class RecencyWindow:
    """Keep the youngest tokens, whatever is read: a sliding window as wide as tier 0 allows."""

    name = "recency-window"
    oracle = False

    def start(self, instance: Instance, rng: np.random.Generator) -> None:
        """Remember nothing."""

    def step(self, slot: Slot) -> Scores:
        """Return each token's position."""
        return np.arange(slot.tokens + 1, dtype=np.float64)
