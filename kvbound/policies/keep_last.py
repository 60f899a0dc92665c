"""Keep the last read set."""

from __future__ import annotations

import numpy as np

from kvbound.instance import Instance
from kvbound.policies.base import Scores, Slot


class KeepLast:
    """Keep what was just read, and the token just born; the rest may leave."""

    name = "keep-last"
    oracle = False

    def start(self, instance: Instance, rng: np.random.Generator) -> None:
        """Remember nothing."""

    def step(self, slot: Slot) -> Scores:
        """Return 1 for what this slot used, else 0."""
        scores = slot.read_now.astype(np.float64)
        scores[-1] = 1
        return scores
