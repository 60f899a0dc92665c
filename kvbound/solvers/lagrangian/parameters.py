"""Adam, the rule by which the ascent changes its parameters."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_BETAS = (0.9, 0.95)
"""Decay rates of the two moments."""


@dataclass(eq=False)
class Adam:
    """Parameters with Adam's moments of their gradients (Kingma and Ba, 2015)."""

    value: Floats
    rate: float
    initial_share: tuple[float, float] = (1.0, 1.0)
    """Share of the initial zeros in the two moving averages: the powers of both decay rates."""
    mean: Floats = field(init=False)
    square: Floats = field(init=False)

    def __post_init__(self) -> None:
        self.mean, self.square = np.zeros_like(self.value), np.zeros_like(self.value)

    def ascend(self, gradient: Floats, share: float) -> None:
        """Step along the gradient, at a share of the full learning rate."""
        first, second = _BETAS
        self.initial_share = self.initial_share[0] * first, self.initial_share[1] * second
        self.mean += (1 - first) * (gradient - self.mean)
        self.square += (1 - second) * (gradient**2 - self.square)
        deviation = np.sqrt(self.square / (1 - self.initial_share[1])) + 1e-12
        self.value += (share * self.rate / (1 - self.initial_share[0])) * self.mean / deviation
