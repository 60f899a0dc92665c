"""Synthetic reads with the statistics of recorded attention, at any size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from kvbound.fields import Fields
from kvbound.trace import bits
from kvbound.workloads.synthetic import CountRule, OneSequence

_AGES: Final = 2.0 ** np.arange(-10, 1)
_PROFILE: Final = np.array([4.79, 4.24, 3.85, 3.47, 3.03, 2.51, 2.13, 1.91, 1.06, -0.56, -0.99])
_DRIFT: Final = 1.001
"""Growth of n after which the profile is recomputed."""


@dataclass(frozen=True)
class RecordedLike(OneSequence):
    """Each slot reads the tokens with the highest scores: age profile + token effect + noise.

    The profile is the mean effect of a token's age, as a share of n, on the log of its head-averaged
    attention, over 6 sequences and 5 layers recorded from stories260K, in units of the residual standard
    deviation after removing the effects of age and token. The defaults reproduce the overlap of those
    recordings 1 to 32 steps apart, and their age profile, to about 0.05 (at worst 0.07) at shares of 0.40,
    0.15 and 0.10.

    Parameters
    ----------
    token_spread
        Standard deviation of the token effect, which is constant over steps.
    noise
        Standard deviation of the noise, which changes from step to step.
    persistence
        Correlation of the noise between consecutive steps.
    sink_tokens
        Number of first tokens that every slot reads: large models put much of their attention on the first
        token, which the recorded model does not.
    count_rule
        Rule for the number of reads per step.
    """

    kind: ClassVar[str] = "recorded-like"

    token_spread: float = 0.55
    noise: float = 0.7
    persistence: float = 0.45
    sink_tokens: int = 0
    count_rule: CountRule = CountRule.CEIL_PAST

    @classmethod
    def parse(cls, fields: Fields) -> dict[str, Any]:
        """Read and check every field."""
        values = super().parse(fields)
        return values | {
            "token_spread": fields.number("token_spread", 0, 100),
            "noise": fields.number("noise", 0, 100),
            "persistence": fields.share("persistence"),
            "sink_tokens": fields.integer("sink_tokens", 0, values["prefill_tokens"]),
            "count_rule": fields.choice("count_rule", CountRule),
        }

    def step_counts(self) -> NDArray[np.int64]:
        """Reads of each step, (steps,)."""
        return self.count_rule.counts(self.share, self.past)

    def layer_rows(self, layer: int, rng: np.random.Generator) -> Iterator[NDArray[np.uint8]]:
        """Packed rows of one layer in blocks (rows, bytes)."""
        counts, width = self.step_counts(), bits.row_bytes(self.tokens)
        lasting = rng.standard_normal(self.tokens, np.float32) * np.float32(self.token_spread)
        lasting[: self.sink_tokens] = np.inf
        noise = rng.standard_normal(self.tokens, np.float32) * np.float32(self.noise)
        fresh = np.float32(self.noise * (1 - self.persistence**2) ** 0.5)
        profile, current = _profile(1), 1
        for block in bits.blocks(self.decode_steps):
            rows = np.zeros((block.stop - block.start, 8 * width), np.bool_)
            for step in range(block.start, block.stop):
                past = self.prefill_tokens + step
                if past >= len(profile) or past > _DRIFT * current:
                    profile, current = _profile(past), past
                noise[:past] *= np.float32(self.persistence)
                noise[:past] += fresh * rng.standard_normal(past, np.float32)
                score = profile[past:0:-1] + lasting[:past] + noise[:past]
                _mark_top(score, int(counts[step]), rows[step - block.start])
            yield bits.pack(rows)


def _profile(past: int) -> NDArray[np.float32]:
    """Return the effect of every age (index), from 0 to a little more than `past`, for n = `past`."""
    ages = np.arange(int(_DRIFT * past) + 2)
    return np.interp(ages / past, _AGES, _PROFILE).astype(np.float32)


def _mark_top(score: NDArray[np.float32], most: int, mask: NDArray[np.bool_]) -> None:
    """Set `mask` at the `most` highest scores; ties go to the lower ids."""
    if not most:
        return
    edge = np.partition(score, len(score) - most)[len(score) - most]
    above = score > edge
    mask[: len(score)] = above
    mask[np.flatnonzero(score == edge)[: most - int(np.count_nonzero(above))]] = True
