"""Bring in whole pages for the next step: the published "page" rule (arXiv 2508.13231)."""

from __future__ import annotations

import numpy as np

from kvbound.blocks import Blocks
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
        Tokens per page, all of one sequence.
    """

    name = "page"
    oracle = True

    def __init__(self, size: int = 16) -> None:
        if not isinstance(size, int) or size < 1:
            raise UsageError(f"page needs a whole size >= 1, not {size}")
        self.size = size

    def start(self, instance: InstanceView, rng: np.random.Generator) -> Scores:
        """Fill with the prompt in order."""
        self.pages = Blocks.make(instance.future(0).timeline, self.size)
        return prompt_first(instance)

    def step(self, slot: Slot) -> MoveRequest:
        """Promote what is missing of the next step's pages, oldest pages leaving first."""
        soon = slot.future.reads()
        page, new = self.pages.of[: slot.tokens], self.pages.of[slot.tokens : slot.tokens + slot.births]
        chosen = mask(page[soon[soon < slot.tokens]], self.pages.count)[page]
        promote = np.flatnonzero(chosen & slot.staying & ~slot.resident)
        evict = np.flatnonzero(slot.resident & slot.staying)
        promote, evict = (ids[np.argsort(page[ids], kind="stable")] for ids in (promote, evict))
        # a page makes room only for a younger one
        pairs = min(max(len(promote) - slot.room, 0), len(evict))
        older = np.argmin(np.append(page[evict[:pairs]] < page[promote[slot.room :][:pairs]], False))
        # a new token goes to tier 0 with room if the first token of its page that still exists is there
        staying, first = np.flatnonzero(slot.staying)[::-1], np.full(self.pages.count, -1)
        first[page[staying]] = staying
        joins = np.append(slot.resident, True)[first[new]]
        return MoveRequest(
            promote=promote[: slot.room + older],
            evict=evict[:older],
            birth=[Birth.IF_ROOM if here else Birth.SLOW for here in joins.tolist()],
        )
