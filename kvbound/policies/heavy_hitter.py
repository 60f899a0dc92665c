"""Keep the tokens with the most accumulated attention, after H2O (Zhang et al., NeurIPS 2023)."""

from __future__ import annotations

import numpy as np

from kvbound.policies.base import Scores
from kvbound.policies.view import InstanceView, Slot


class HeavyHitter:
    """Keep the largest accumulated attention mass; read counts where the trace has no mass."""

    name = "heavy-hitter"
    oracle = False

    def start(self, instance: InstanceView, rng: np.random.Generator) -> None:
        """Clear the masses."""
        self.mass = np.zeros((instance.layers, instance.tokens))

    def step(self, slot: Slot) -> Scores:
        """Return each token's mass so far."""
        mass = self.mass[slot.layer]
        mass[slot.listed] += 1.0 if slot.mass is None else slot.mass
        return mass[: slot.tokens + slot.births]
