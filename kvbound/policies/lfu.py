"""Evict the least frequently used first."""

from __future__ import annotations

import numpy as np

from kvbound.policies.base import Scores
from kvbound.policies.view import InstanceView, Slot


class Lfu:
    """Keep what was read most often; being born counts as one use."""

    name = "lfu"
    oracle = False

    def start(self, instance: InstanceView, rng: np.random.Generator) -> None:
        """Clear the counts."""
        self.uses = np.zeros((instance.layers, instance.tokens))

    def step(self, slot: Slot) -> Scores:
        """Return each token's number of uses."""
        uses = self.uses[slot.layer]
        uses[slot.reads] += 1
        uses[slot.tokens : slot.tokens + slot.births] += 1
        return uses[: slot.tokens + slot.births]
