"""Bring in whole pages for the next step: the published "page" rule (arXiv 2508.13231)."""

from __future__ import annotations

import numpy as np

from kvbound.errors import UsageError
from kvbound.policies.base import Birth, MoveRequest, Scores
from kvbound.policies.fills import prompt_first
from kvbound.policies.view import InstanceView, Slot, mask


class Page:
    """Promote the pages that the next step reads, in place of the oldest resident pages.

    The study moves a page in all layers at once; here every layer moves its own part in its own
    slot, since nothing else can be done there.

    Parameters
    ----------
    size
        Tokens per page.
    """

    name = "page"
    oracle = True

    def __init__(self, size: int = 16) -> None:
        if not isinstance(size, int) or size < 1:
            raise UsageError(f"page needs a whole size >= 1, not {size}")
        self.size = size

    def start(self, instance: InstanceView, rng: np.random.Generator) -> Scores:
        """Fill with the prompt in order."""
        return prompt_first(instance)

    def step(self, slot: Slot) -> MoveRequest:
        """Promote what is missing of the next step's pages, oldest pages leaving first."""
        soon = slot.future.reads()
        wanted = np.unique(soon[soon < slot.tokens] // self.size)
        page = np.arange(slot.tokens) // self.size
        chosen = mask(wanted, len(page) // self.size + 1)[page]
        promote = np.flatnonzero(chosen & ~slot.resident)
        # a page makes room only for a younger one
        evict = np.flatnonzero(slot.resident)
        pairs = min(max(len(promote) - slot.room, 0), len(evict))
        older = np.argmin(np.append(page[evict[:pairs]] < page[promote[slot.room :][:pairs]], False))
        opens = slot.tokens % self.size == 0
        first_here = not opens and slot.resident[slot.tokens - slot.tokens % self.size]
        return MoveRequest(
            promote=promote[: slot.room + older],
            evict=evict[:older],
            birth=Birth.IF_ROOM if opens or first_here else Birth.SLOW,
        )
