"""Reads without structure: random tokens replace random tokens."""

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
class RandomSwap(OneSequence):
    """The previous step's set, grown and then partly swapped, all of it uniformly at random.

    Parameters
    ----------
    variation
        Largest share of the set that is replaced in a step.
    count_rule
        Rule for the number of reads per step.
    """

    kind: ClassVar[str] = "random-swap"

    variation: float = 0.2
    count_rule: CountRule = CountRule.CEIL_PAST

    @classmethod
    def parse(cls, fields: Fields) -> dict[str, Any]:
        """Read and check every field."""
        return super().parse(fields) | {
            "variation": fields.share("variation"),
            "count_rule": fields.choice("count_rule", CountRule),
        }

    def step_counts(self) -> NDArray[np.int64]:
        """Reads of each step, (steps,)."""
        return self.count_rule.counts(self.share, self.past)

    def layer_rows(self, layer: int, rng: np.random.Generator) -> Iterator[NDArray[np.uint8]]:
        """Packed rows of one layer in blocks (rows, bytes)."""
        counts, lowest = self.step_counts().tolist(), [0] * self.decode_steps
        return swapping_rows(self.prefill_tokens, counts, lowest, self.variation, rng, oldest_out=False)
