"""Perplexities with intervals, from the log-likelihoods of a text's tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Doubles: TypeAlias = NDArray[np.float64]

LEVEL = 0.95
"""Probability that an interval is to cover."""
BLOCK = 64
"""Neighbouring predictions that are drawn together, as their errors are not independent."""
RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A value and its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """Blocks of neighbouring predictions, drawn with replacement.

    Parameters
    ----------
    draws
        Number of each block in each draw, shape (draws, blocks).
    starts
        First prediction of each block.
    sizes
        Predictions of each block.
    """

    draws: NDArray[np.int64]
    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]

    @classmethod
    def of(cls, count: int, generator: np.random.Generator, resamples: int = RESAMPLES) -> Bootstrap:
        """Return the draws for `count` predictions, with shorter blocks where there would be fewer than 8."""
        starts = np.arange(0, count, max(1, min(BLOCK, count // 8)))
        blocks = len(starts)
        draws = generator.multinomial(blocks, np.full(blocks, 1 / blocks), size=resamples)
        return cls(draws, starts, np.diff(starts, append=count))

    def perplexity(self, losses: Doubles) -> Estimate:
        """Return the perplexity of a text.

        Parameters
        ----------
        losses
            Negative log-likelihood of each token in nats, shape (predictions,).
        """
        return self._exponential(losses, 0.0)

    def change(self, losses: Doubles, reference: Doubles) -> Estimate:
        """Return the relative change of perplexity; tokens are paired, so that their own spread cancels."""
        return self._exponential(losses - reference, 1.0)

    def _exponential(self, values: Doubles, less: float) -> Estimate:
        sums = np.add.reduceat(values, self.starts)
        means = (self.draws @ sums) / (self.draws @ self.sizes)
        low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return Estimate(*(float(np.exp(each) - less) for each in (values.mean(), low, high)))
