"""The state of the tiers during a simulation: where every block is, and which moves the rules allow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvbound.cost.transitions import Transitions
from kvbound.initial import Tiers, fill
from kvbound.instance import Instance, Migration
from kvbound.policies.base import NO_TOKENS, Birth, MoveRequest, Scores
from kvbound.policies.view import Ids, Slot, mask


@dataclass(eq=False)
class Hierarchy:
    """Where every block is, and how many more fit into each tier, which all layers share.

    Attributes
    ----------
    tier
        Tier of each block, shape (layers, blocks); the last one for blocks that have not begun.
    room
        Free blocks of each tier, shape (K,).
    """

    instance: Instance
    tier: Tiers
    room: NDArray[np.int64]

    def __post_init__(self) -> None:
        self._legal = Transitions.of(self.instance).legal

    @classmethod
    def filled(cls, instance: Instance, scores: Scores) -> Hierarchy:
        """Fill the tiers with the prompt, in descending order of scores (layers, prefill)."""
        unlimited = instance.layers * instance.blocks
        room = np.array([unlimited if r is None else r for r in instance.capacity_blocks], np.int64)
        tier = np.full((instance.layers, instance.blocks), instance.tiers - 1, np.uint8)
        prompt = fill(instance, scores)
        tier[:, : prompt.shape[1]] = prompt
        room -= np.bincount(prompt.ravel(), minlength=instance.tiers)
        return cls(instance, tier, room)

    def tiers(self, tokens: int, layer: int | slice = slice(None)) -> Tiers:
        """Return a copy of the tier of each of the first tokens, shape (..., tokens)."""
        of_layer = self.tier[layer]
        if self.instance.granularity == 1:
            return of_layer[..., :tokens].copy()
        return of_layer[..., np.arange(tokens) // self.instance.granularity]

    def carry_out(self, answer: Scores | MoveRequest, slot: Slot) -> Ids:
        """Make the moves of a slot that the rules allow, place the new token; return the blocks that moved.

        Scores are turned into one request for each tier but the last.
        """
        size = self.instance.granularity
        state = self.tier[slot.layer, : -(-slot.tokens // size)]
        before = state.copy()
        if isinstance(answer, MoveRequest):
            request = answer
            evictable = self.move(request, slot)
        else:
            scores = block_scores(answer, size)
            request = self.request(scores, slot, 0)
            evictable = self.move(request, slot)
            for tier in range(1, self.instance.tiers - 1):
                self.move(self.request(scores, slot, tier), slot, tier)
        if slot.tokens % size == 0:
            self.admit(request.birth, evictable, slot)
        return np.flatnonzero(state != before)

    def request(self, scores: Scores, slot: Slot, tier: int) -> MoveRequest:
        """Turn block scores into a request for one tier: the read blocks that outrank its lowest residents.

        A new block competes with the misses for tier 0: no block is promoted only to be evicted for it.
        """
        size = self.instance.granularity
        opens = slot.tokens % size == 0
        begun = len(scores) - 1 if opens else len(scores)
        state = self.tier[slot.layer, :begun]
        read = np.unique(slot.reads // size) if size > 1 else slot.reads
        candidates = read[state[read] > tier]
        if opens and tier == 0:
            candidates = np.append(candidates, begun)
        candidates = candidates[np.lexsort((-candidates, -scores[candidates]))]
        room = int(self.room[tier])
        residents = lowest_scored(np.flatnonzero(state == tier), scores, max(0, len(candidates) - room))
        better = scores[candidates[room : room + len(residents)]] > scores[residents]
        chosen = candidates[: room + int(np.argmin(np.append(better, False)))]
        birth = Birth.MAKE_ROOM if begun in chosen else Birth.IF_ROOM
        return MoveRequest(chosen[chosen < begun] * size, residents * size, birth=birth)

    def move(self, request: MoveRequest, slot: Slot, tier: int = 0) -> Ids:
        """Promote blocks into a tier, evict others as far as needed; return those that may still leave."""
        if self.instance.rules.migration is Migration.NONE:
            return NO_TOKENS
        state = self.tier[slot.layer]
        promoted = self._promotable(request.promote, slot, tier)
        evictable = self._blocks(request.evict, slot)
        evictable = evictable[state[evictable] == tier]
        needed = max(0, len(promoted) - int(self.room[tier]))
        leaving = len(evictable) if request.together and needed else min(needed, len(evictable))
        promoted = promoted[: int(self.room[tier]) + leaving]
        np.add.at(self.room, state[promoted], 1)
        state[promoted] = tier
        self.room[tier] -= len(promoted)
        evicted = self.demote(evictable[:leaving], slot.layer)
        return evictable[evicted:]

    def demote(self, blocks: Ids, layer: int) -> int:
        """Demote blocks of one tier to the next slower tiers with room; return how many were moved."""
        if not len(blocks):
            return 0
        state = self.tier[layer]
        tier = int(state[blocks[0]])
        gone = 0
        for slower in range(tier + 1, self.instance.tiers):
            fit = blocks[gone : gone + max(0, int(self.room[slower]))]
            state[fit] = slower
            self.room[slower] -= len(fit)
            gone += len(fit)
        self.room[tier] += gone
        return gone

    def admit(self, birth: Birth, evictable: Ids, slot: Slot) -> None:
        """Place the block that the new token opens, at the cost of the first evictable one if need be."""
        if birth is Birth.MAKE_ROOM and self.room[0] <= 0:
            self.demote(evictable[:1], slot.layer)
        tiers = np.flatnonzero(self.room > 0)
        slower = tiers[tiers > 0]
        tier = slower[0] if birth is Birth.SLOW and len(slower) else tiers[0]
        self.tier[slot.layer, slot.tokens // self.instance.granularity] = tier
        self.room[tier] -= 1

    def _promotable(self, tokens: Ids, slot: Slot, tier: int) -> Ids:
        """Return the tokens' blocks that may rise to a tier."""
        state, blocks = self.tier[slot.layer], self._blocks(tokens, slot)
        blocks = blocks[state[blocks] > tier]
        read = mask(slot.reads // self.instance.granularity, len(state))[blocks]
        return blocks[self._legal[read.view(np.uint8), state[blocks], tier]]

    def _blocks(self, tokens: Ids, slot: Slot) -> Ids:
        """Return the blocks of past tokens, each once, in order of first mention."""
        ids = tokens // self.instance.granularity
        if np.count_nonzero(mask(ids, slot.tokens)) == len(ids):
            return ids
        blocks, first = np.unique(ids, return_index=True)
        return blocks[np.argsort(first)]


def block_scores(scores: Scores, granularity: int) -> Scores:
    """Return the score of each block, that of its best token."""
    if granularity == 1:
        return scores
    return np.maximum.reduceat(scores, np.arange(0, len(scores), granularity))


def lowest_scored(ids: Ids, scores: Scores, count: int) -> Ids:
    """Return the `count` ids of lowest score, the lowest first; of equal ones the lower id first."""
    if count < len(ids):
        values = scores[ids]
        threshold = np.partition(values, count - 1)[count - 1] if count else -np.inf
        below = values < threshold
        equal = np.flatnonzero(values == threshold)[: count - np.count_nonzero(below)]
        ids = np.concatenate([ids[below], ids[equal]])
    return ids[np.lexsort((ids, scores[ids]))]
