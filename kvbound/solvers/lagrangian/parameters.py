"""The parameters of the ascent: numbers that Adam moves, and weights that are a softmax of such numbers."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kvbound.arithmetic import exp

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

LOGIT_RANGE = 12.0
"""Logits this far below the highest have next to no weight and can still recover."""
_LOGIT_RATE = 0.2
"""Adam's learning rate of logits."""
_BETAS = (0.9, 0.95)
"""Adam's decay rates of the two moments."""
_TINY = 1e-300


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


class SoftmaxWeights:
    """Weights that add up to 1 along some axes, as a softmax of logits.

    Parameters
    ----------
    logits
        The logits to start from; changed in place.
    axes
        Axes along which the weights add up to 1.
    may
        Which entries have a weight, (...); all by default. Where none has, all weights are 0.
    """

    def __init__(self, logits: Floats, axes: tuple[int, ...] = (0,), may: Bools | None = None) -> None:
        self._logits, self._axes, self._may = Adam(logits, _LOGIT_RATE), axes, may

    def weights(self) -> Floats:
        """Return the weights, shaped like the logits."""
        return softmax(self._logits.value, self._axes, self._may)

    def ascend(self, weights: Floats, values: Floats, share: float) -> None:
        """Step from these weights towards the entries of the highest value."""
        mean = (weights * values).sum(axis=self._axes, keepdims=True)
        self._logits.ascend(weights * (values - mean), share)
        logits = self._logits.value
        np.clip(logits - _highest(logits, self._axes, self._may), -LOGIT_RANGE, 0, out=logits)


def softmax(logits: Floats, axes: tuple[int, ...] = (0,), may: Bools | None = None) -> Floats:
    """Return weights that add up to 1 along some axes; see `SoftmaxWeights`."""
    below = logits - _highest(logits, axes, may)
    weights = exp(below) if may is None else exp(np.minimum(below, 0)) * may
    weights /= np.maximum(weights.sum(axis=axes, keepdims=True), _TINY)
    return weights


def _highest(logits: Floats, axes: tuple[int, ...], may: Bools | None) -> Floats:
    """Return the highest logit along some axes of the entries that have a weight, 0 where none has."""
    if may is None:
        return np.asarray(logits.max(axis=axes, keepdims=True))
    highest = logits.max(axis=axes, keepdims=True, where=may, initial=-np.inf)
    return np.where(np.isfinite(highest), highest, 0.0)
