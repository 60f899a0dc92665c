"""The synthetic traces of arXiv 2508.13231 (IEEE Computer Architecture Letters, 2025)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from kvbound.fields import Fields
from kvbound.workloads.draw import swapping_rows
from kvbound.workloads.synthetic import CountRule, OneSequence


@dataclass(frozen=True)
class Fang2025(OneSequence):
    """Reads that drift towards recent tokens: random ids of a window replace the oldest ones.

    Parameters
    ----------
    variation
        Largest share of the set that is replaced in a step: 0.1 is "low", 0.9 "high" variation.
    count_rule
        Rule for the number of reads per step.
    threshold
        The window begins at floor((1 - t)(n - 1)) with t = share + sparsity * threshold.
    """

    kind: ClassVar[str] = "fang2025"

    variation: float = 0.1
    count_rule: CountRule = CountRule.ROUND_BEFORE
    threshold: float = 0.95

    @classmethod
    def parse(cls, fields: Fields) -> dict[str, Any]:
        """Read and check every field."""
        return super().parse(fields) | {
            "variation": fields.share("variation"),
            "count_rule": fields.choice("count_rule", CountRule),
            "threshold": fields.share("threshold"),
        }

    def window(self) -> NDArray[np.int64]:
        """Return the lowest id that each step may add, (steps,); the highest is n - 1."""
        reach = min(1.0, self.share + self.threshold * (1 - self.share))
        lowest: NDArray[np.int64] = np.floor((1 - reach) * (self.past - 1)).astype(np.int64)
        return lowest

    def step_counts(self) -> NDArray[np.int64]:
        """Reads of each step, (steps,)."""
        counts: NDArray[np.int64] = self.count_rule.counts(self.share, self.past)
        return counts.clip(max=self.past - self.window())

    def layer_rows(self, layer: int, rng: np.random.Generator) -> Iterator[NDArray[np.uint8]]:
        """Packed rows of one layer in blocks (rows, bytes)."""
        counts, lowest = self.step_counts().tolist(), self.window().tolist()
        return swapping_rows(self.prefill_tokens, counts, lowest, self.variation, rng, oldest_out=True)
