"""Look ahead over a window, promote the best share: the published SA-guided rule (arXiv 2508.13231)."""

from __future__ import annotations

import math

import numpy as np

from kvbound.errors import UsageError
from kvbound.policies.base import MoveRequest, Scores
from kvbound.policies.fills import first_use
from kvbound.policies.lookahead import place_births
from kvbound.policies.view import InstanceView, Slot
from kvbound.units import show


class SaGuided:
    """Promote reads that the next `window` steps read again, the `topk` share with the nearest uses.

    Parameters
    ----------
    window
        Steps to look ahead, at least 1.
    topk
        Share of the candidates to promote, in (0, 1].
    """

    name = "sa-guided"
    oracle = True

    def __init__(self, window: int = 5, topk: float = 0.5) -> None:
        share = isinstance(topk, int | float) and 0 < topk <= 1
        if not isinstance(window, int) or window < 1 or not share:
            raise UsageError(
                f"sa-guided needs a whole window >= 1 and 0 < topk <= 1, not {show(window)} and {show(topk)}"
            )
        self.window, self.topk = window, float(topk)

    def start(self, instance: InstanceView, rng: np.random.Generator) -> Scores:
        """Fill by scanning the decode trace, as the study does."""
        return first_use(instance)

    def step(self, slot: Slot) -> MoveRequest:
        """Promote by the sum of 1 / offset over the window's reads."""
        ahead = min(self.window, slot.instance.decode_steps - 1 - slot.step)
        score = np.zeros(slot.future.timeline.past[slot.step + 1 + ahead])
        for offset in range(1, ahead + 1):
            score[slot.future.reads(offset)] += 1 / offset
        score = score[: slot.tokens]
        candidates = np.sort(slot.misses[score[slot.misses] > 0])
        order = np.argsort(-score[candidates], kind="stable")
        promote = candidates[order][: math.ceil(self.topk * len(candidates))]
        evict = np.flatnonzero(slot.resident & slot.staying & (score == 0))
        return MoveRequest(promote=promote, evict=evict, birth=place_births(slot, slot.future.reads()))
