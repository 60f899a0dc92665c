"""The tiers as a schedule unfolds: where every block is, and what a move request may change."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvbound.initial import Tiers, fill
from kvbound.instance import Instance, Migration
from kvbound.policies.base import NO_TOKENS, Birth, Ids, MoveRequest, Scores, Slot, mask


@dataclass(eq=False)
class Hierarchy:
    """Where every block is, and how much room is left in each tier (shared by all layers)."""

    instance: Instance
    tier: Tiers  # (layers, blocks)
    room: NDArray[np.int64]  # (K,)

    @classmethod
    def filled(cls, instance: Instance, scores: Scores) -> Hierarchy:
        """Fill the tiers with the prompt, in falling order of scores (layers, prefill)."""
        unlimited = instance.layers * instance.blocks
        room = np.array([unlimited if r is None else r for r in instance.capacity_blocks], np.int64)
        tier = np.full((instance.layers, instance.blocks), instance.tiers - 1, np.uint8)
        prompt = fill(instance, scores)
        tier[:, : prompt.shape[1]] = prompt
        room -= np.bincount(prompt.ravel(), minlength=instance.tiers)
        return cls(instance, tier, room)

    def tiers(self, tokens: int, layer: int | slice = slice(None)) -> Tiers:
        """Tier of each of the first tokens, shape (..., tokens)."""
        of_layer = self.tier[layer]
        if self.instance.granularity == 1:
            return of_layer[..., :tokens].copy()
        return of_layer[..., np.arange(tokens) // self.instance.granularity]


def block_scores(scores: Scores, instance: Instance) -> Scores:
    """A block is worth its best token."""
    if instance.granularity == 1:
        return scores
    return np.maximum.reduceat(scores, np.arange(0, len(scores), instance.granularity))


def request(scores: Scores, slot: Slot, pool: Hierarchy, tier: int) -> MoveRequest:
    """Turn block scores into a wish, in tokens, for one tier: read blocks that outrank its lowest.

    In tier 0 a new block competes with the misses, lest one is brought in only to make way for it.
    """
    size = slot.instance.granularity
    opens = slot.tokens % size == 0
    born = len(scores) - 1 if opens else len(scores)
    state = pool.tier[slot.layer, :born]
    read = np.unique(slot.reads // size) if size > 1 else slot.reads
    coming = read[state[read] > tier]
    if opens and tier == 0:
        coming = np.append(coming, born)
    coming = coming[np.lexsort((-coming, -scores[coming]))]
    room = int(pool.room[tier])
    residents = lowest_scored(np.flatnonzero(state == tier), scores, max(0, len(coming) - room))
    better = scores[coming[room : room + len(residents)]] > scores[residents]
    chosen = coming[: room + int(np.argmin(np.append(better, False)))]
    birth = Birth.MAKE_ROOM if born in chosen else Birth.IF_ROOM
    return MoveRequest(chosen[chosen < born] * size, residents * size, birth=birth)


def lowest_scored(ids: Ids, scores: Scores, count: int) -> Ids:
    """The `count` ids of lowest score, lowest first; of equal ones the lower id first."""
    if count < len(ids):
        values = scores[ids]
        threshold = np.partition(values, count - 1)[count - 1] if count else -np.inf
        below = values < threshold
        equal = np.flatnonzero(values == threshold)[: count - np.count_nonzero(below)]
        ids = np.concatenate([ids[below], ids[equal]])
    return ids[np.lexsort((ids, scores[ids]))]


def apply(wish: MoveRequest, slot: Slot, pool: Hierarchy, tier: int = 0) -> Ids:
    """Move what the rules allow; return the blocks that could still leave."""
    size, rules = slot.instance.granularity, slot.instance.rules
    state = pool.tier[slot.layer]
    if rules.migration is Migration.NONE:
        return NO_TOKENS
    up = blocks_of(wish.promote, slot)
    if rules.migration is Migration.ON_READ:
        read = np.zeros(len(state), bool)
        read[slot.reads // size] = True
        up = up[read[up]]
    up = up[state[up] > tier]
    out = blocks_of(wish.evict, slot)
    out = out[state[out] == tier]
    short = len(up) - int(pool.room[tier])
    leave = 0 if short <= 0 else len(out) if wish.together else min(short, len(out))
    up = up[: int(pool.room[tier]) + leave]
    np.add.at(pool.room, state[up], 1)
    state[up] = tier
    pool.room[tier] -= len(up)
    gone = demote(out[:leave], slot, pool)
    return out[gone:]


def demote(out: Ids, slot: Slot, pool: Hierarchy) -> int:
    """Send blocks of one tier to the next slower tiers with room; return how many found some."""
    if not len(out):
        return 0
    state = pool.tier[slot.layer]
    tier = int(state[out[0]])
    gone = 0
    for below in range(tier + 1, slot.instance.tiers):
        fit = out[gone : gone + max(0, int(pool.room[below]))]
        state[fit] = below
        pool.room[below] -= len(fit)
        gone += len(fit)
    pool.room[tier] += gone
    return gone


def place_new_block(birth: Birth, out: Ids, slot: Slot, pool: Hierarchy) -> None:
    """Place the new block."""
    if birth is Birth.MAKE_ROOM and pool.room[0] <= 0:
        demote(out[:1], slot, pool)
    open_tiers = np.flatnonzero(pool.room > 0)
    slower = open_tiers[open_tiers > 0]
    tier = slower[0] if birth is Birth.SLOW and len(slower) else open_tiers[0]
    pool.tier[slot.layer, slot.tokens // slot.instance.granularity] = tier
    pool.room[tier] -= 1


def blocks_of(tokens: Ids, slot: Slot) -> Ids:
    """Blocks of past tokens, each once, in order of first mention."""
    ids = tokens // slot.instance.granularity
    if np.count_nonzero(mask(ids, slot.tokens)) == len(ids):
        return ids
    blocks, first = np.unique(ids, return_index=True)
    return blocks[np.argsort(first)]
