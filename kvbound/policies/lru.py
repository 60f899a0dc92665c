"""Evict the least recently used first."""

from __future__ import annotations

import numpy as np

from kvbound.policies.base import Scores
from kvbound.policies.view import InstanceView, Slot


class Lru:
    """Keep what was read (or born) most recently."""

    name = "lru"
    oracle = False

    def start(self, instance: InstanceView, rng: np.random.Generator) -> None:
        """Mark every token as never used."""
        self.used = np.full((instance.layers, instance.tokens), -1.0)

    def step(self, slot: Slot) -> Scores:
        """Return the step of each token's last use."""
        used = self.used[slot.layer]
        used[slot.reads] = slot.step
        used[slot.tokens : slot.tokens + slot.births] = slot.step
        return used[: slot.tokens + slot.births]
