"""Keep the last read set."""

from __future__ import annotations

import numpy as np

from kvbound.policies.base import Scores
from kvbound.policies.view import InstanceView, Slot


class KeepLast:
    """Keep what was just read, and the tokens just born; the rest may leave."""

    name = "keep-last"
    oracle = False

    def start(self, instance: InstanceView, rng: np.random.Generator) -> None:
        """Keep no state."""

    def step(self, slot: Slot) -> Scores:
        """Return 1 for what this slot used, else 0."""
        scores = slot.read_now.astype(np.float64)
        scores[slot.tokens :] = 1
        return scores
