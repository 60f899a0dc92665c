"""Keep what the next step reads: the published "lookahead-one" rule (arXiv 2508.13231)."""

from __future__ import annotations

import numpy as np

from kvbound.memory import Memory
from kvbound.policies.base import Birth, MoveRequest, Scores
from kvbound.policies.fills import first_use
from kvbound.policies.view import Ids, InstanceView, Slot, mask


def balanced_share(memory: Memory) -> float:
    """Return the share of bytes in tier 0 at which both tiers finish together, alpha* of the study."""
    fast, slow = (min(memory.resources[name] for name in memory.tiers[k].reads) for k in (0, -1))
    return fast / (fast + slow)


def place_births(slot: Slot, soon: Ids) -> list[Birth]:
    """Return the published admission of new tokens: into tier 0 only those that the next step reads."""
    read = {*soon[np.searchsorted(soon, slot.tokens) :].tolist()}
    new = range(slot.tokens, slot.tokens + slot.births)
    return [Birth.MAKE_ROOM if token in read else Birth.SLOW for token in new]


class LookaheadOne:
    """Swap what is read now and not next for what is read now and next, up to balance."""

    name = "lookahead-one"
    oracle = True

    def start(self, instance: InstanceView, rng: np.random.Generator) -> Scores:
        """Fill by scanning the decode trace, as the study does."""
        self.share = balanced_share(instance.memory)
        return first_use(instance)

    def step(self, slot: Slot) -> MoveRequest:
        """Promote what both steps read."""
        soon = slot.future.reads()
        if not len(soon):
            return MoveRequest(birth=Birth.SLOW)
        next_up = mask(soon[soon < slot.tokens], slot.tokens)
        resident = slot.resident & slot.staying
        hits = int(np.count_nonzero(resident & next_up))
        weights, size = slot.instance.llm.weight_reads[slot.layer], int(slot.instance.item_bytes[slot.layer])
        wanted = int(self.share * (weights + len(soon) * size) - weights) // max(size, 1) - hits
        listed = slot.listed[resident[slot.listed]]
        leave = listed[~next_up[listed]]
        most = max(0, min(wanted, hits, slot.room + len(leave)))
        promote = slot.misses[next_up[slot.misses]][:most]
        # new tokens displace the oldest residents that the next step does not read
        idle, leave = resident & ~next_up, leave[: max(0, len(promote) - slot.room)]
        idle[leave] = False
        evict = np.concatenate([leave, np.flatnonzero(idle)])
        return MoveRequest(promote=promote, evict=evict, birth=place_births(slot, soon))
