"""Place once, never move: the published baseline (arXiv 2508.13231)."""

from __future__ import annotations

import numpy as np

from kvbound.policies.base import MoveRequest, Scores
from kvbound.policies.fills import prompt_first
from kvbound.policies.view import InstanceView, Slot


class Static:
    """Fill with the prompt in order, then with new tokens while there is room."""

    name = "static"
    oracle = False

    def start(self, instance: InstanceView, rng: np.random.Generator) -> Scores:
        """Fill token by token, all layers of one before the next."""
        return prompt_first(instance)

    def step(self, slot: Slot) -> MoveRequest:
        """Move nothing."""
        return MoveRequest()
