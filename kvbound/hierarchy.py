"""The state of the tiers during a simulation: where every block is, and which moves the rules allow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvbound.cost.transitions import Transitions
from kvbound.errors import InfeasibleError
from kvbound.initial import Tiers, best_scores, fill
from kvbound.instance import Instance
from kvbound.policies.base import NO_TOKENS, Birth, MoveRequest, Scores
from kvbound.policies.view import Ids, Slot, mask
from kvbound.rules import Migration
from kvbound.trace.timeline import Timeline

_ADMISSIONS: Final = Birth.MAKE_ROOM, Birth.IF_ROOM, Birth.SLOW
"""In the order in which blocks are placed."""


class Choice(NamedTuple):
    """The moves and admissions that scores imply for one tier.

    Attributes
    ----------
    request
        The moves.
    outranking, others
        New blocks that find room in the tier or have higher scores than its lowest residents, and the other
        new blocks; each in descending order of scores.
    """

    request: MoveRequest
    outranking: Ids
    others: Ids


@dataclass(eq=False)
class Hierarchy:
    """Where every block is, and how many more fit into each tier, which all layers share.

    In a slot, room is counted in blocks of its layer.

    Attributes
    ----------
    tier
        Tier of each block, shape (layers, blocks); the last one for blocks that have not begun. Blocks that
        have ended keep the tier that they were in.
    free
        Free units of each tier before the slot, shape (K,).
    """

    instance: Instance
    tier: Tiers
    free: NDArray[np.int64]

    def __post_init__(self) -> None:
        self._legal = Transitions.of(self.instance).legal
        self._blocks, self._uniform = self.instance.grouping, self.instance.uniform
        self._slot: tuple[int, Timeline | None] = -1, None

    @classmethod
    def filled(cls, instance: Instance, scores: Scores) -> Hierarchy:
        """Fill the tiers with the prompt, in descending order of scores (layers, prefill)."""
        free = instance.room_units.copy()
        tier = np.full((instance.layers, instance.blocks), instance.tiers - 1, np.uint8)
        prompt = fill(instance, scores)
        tier[:, : prompt.shape[1]] = prompt
        for units, tiers, exists in zip(instance.units, prompt, instance.grouping.initial, strict=True):
            free -= units * np.bincount(tiers[exists], minlength=instance.tiers)
        return cls(instance, tier, free)

    def tiers(self, tokens: int, layer: int | slice = slice(None)) -> Tiers:
        """Return a copy of the tier of each of the first tokens' blocks, shape (..., tokens)."""
        of_layer = self.tier[layer]
        if self._blocks.size == 1:
            return of_layer[..., :tokens].copy()
        return of_layer[..., self._blocks.of[:tokens]]

    def begin(self, step: int, layer: int) -> None:
        """Begin a slot: free the room of the blocks that leave in it, and count room in its blocks."""
        if (step, self.instance.timelines[layer]) != self._slot:  # the last slot is of a layer that is alike
            self._slot = step, self.instance.timelines[layer]
            begun, end = self._blocks.begun(step), self._blocks.begun(step + 1)
            past, new = np.split(self._blocks.last[layer, :end], [begun])
            self._leaving, self._staying = np.flatnonzero(past == step), past > step
            self._new, self._passing = (
                begun + np.flatnonzero(chosen) for chosen in (new > step, new == step)
            )
        self.room = self.free
        if not self._uniform:
            units = int(self.instance.units[layer])
            self._fit = self.free // units if units else np.full_like(self.free, self.instance.blocks)
            self.room = self._fit.copy()
        if len(self._leaving):
            np.add.at(self.room, self.tier[layer, self._leaving], 1)

    def carry_out(self, answer: Scores | MoveRequest, slot: Slot) -> Ids:
        """Make the moves of a slot that the rules allow, place new blocks; return the blocks that moved.

        Scores are turned into one request for each tier but the last.
        """
        state = self.tier[slot.layer, : len(self._staying)]
        before = state.copy()
        if isinstance(answer, MoveRequest):
            evictable = self.move(answer, slot)
            admissions = self._admissions(answer.birth, slot)
        else:
            scores = self._block_scores(answer, slot)
            choice = self.choose(scores, slot, 0)
            evictable = self.move(choice.request, slot)
            for tier in range(1, self.instance.tiers - 1):
                self.move(self.choose(scores, slot, tier).request, slot, tier)
            admissions = [(Birth.MAKE_ROOM, choice.outranking), (Birth.IF_ROOM, choice.others)]
        for birth, blocks in admissions:
            self.admit(birth, blocks, evictable, slot)
        self._pass_through(slot.layer)
        if not self._uniform:
            self.free += int(self.instance.units[slot.layer]) * (self.room - self._fit)
        return np.flatnonzero(state != before)

    def choose(self, scores: Scores, slot: Slot, tier: int) -> Choice:
        """Choose for one tier, from scores of blocks, the read blocks that outrank its lowest residents.

        New blocks compete with the misses for tier 0: no block is promoted only to be evicted for them.
        """
        begun = len(self._staying)
        state = self.tier[slot.layer, :begun]
        read = self._blocks.of[slot.reads]
        if self._blocks.size > 1:
            read = np.unique(read)
        candidates = read[(state[read] > tier) & self._staying[read]]
        if tier == 0:
            candidates = np.append(candidates, self._new)
        candidates = candidates[np.lexsort((-candidates, -scores[candidates]))]
        room = int(self.room[tier])
        residents = np.flatnonzero((state == tier) & self._staying)
        residents = lowest_scored(residents, scores, max(0, len(candidates) - room))
        better = scores[candidates[room : room + len(residents)]] > scores[residents]
        count = room + int(np.argmin(np.append(better, False)))
        chosen, others, head = candidates[:count], candidates[count:], self._blocks.head
        request = MoveRequest(head[chosen[chosen < begun]], head[residents])
        return Choice(request, chosen[chosen >= begun], others[others >= begun])

    def move(self, request: MoveRequest, slot: Slot, tier: int = 0) -> Ids:
        """Promote blocks into a tier, evict others as far as needed; return those that may still leave."""
        if self.instance.rules.migration is Migration.NONE:
            return NO_TOKENS
        state = self.tier[slot.layer]
        promoted = self._promotable(request.promote, slot, tier)
        evictable = self._movable(request.evict)
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

    def admit(self, birth: Birth, blocks: Ids, evictable: Ids, slot: Slot) -> None:
        """Place new blocks in order; with `MAKE_ROOM` evict as many evictable blocks as necessary."""
        if not len(blocks):
            return
        if birth is Birth.MAKE_ROOM:
            needed = max(0, len(blocks) - int(self.room[0]))
            self.demote(evictable[:needed], slot.layer)
        order = np.arange(self.instance.tiers)
        if birth is Birth.SLOW:
            order = np.append(order[1:], 0)
        tiers = np.repeat(order, np.minimum(self.room[order], len(blocks)))[: len(blocks)]
        if len(tiers) < len(blocks):
            where = f"step {slot.step}, layer {slot.layer}"
            raise InfeasibleError(f"{self.instance.name}: no tier has room for a new block in {where}")
        self.tier[slot.layer, blocks] = tiers
        self.room -= np.bincount(tiers, minlength=self.instance.tiers)

    def _pass_through(self, layer: int) -> None:
        """Choose the tier of the blocks that end in the step of their birth: they are never held."""
        if not len(self._passing):
            return
        free = np.flatnonzero(self.room > 0)
        into_last = self.instance.inclusive or not len(free)  # inclusive: it gets a copy anyway
        self.tier[layer, self._passing] = self.instance.tiers - 1 if into_last else free[0]

    def _admissions(self, birth: Birth | Sequence[Birth], slot: Slot) -> list[tuple[Birth, Ids]]:
        """Divide new blocks by the requested admission, that of the fastest of their new tokens."""
        if isinstance(birth, Birth):
            return [(birth, self._new)]
        rank = np.array([_ADMISSIONS.index(each) for each in birth], np.int64)
        best = np.full(self._blocks.count, len(_ADMISSIONS))
        np.minimum.at(best, self._blocks.of[slot.tokens : slot.tokens + slot.births], rank)
        return [(each, self._new[best[self._new] == n]) for n, each in enumerate(_ADMISSIONS)]

    def _block_scores(self, scores: Scores, slot: Slot) -> Scores:
        """Return the score of each block, that of the best token that exists after the slot."""
        if self._blocks.size > 1:
            gone = self.instance.timelines[slot.layer].ends[: len(scores)] <= slot.step
            scores = np.where(gone, -np.inf, scores) if gone.any() else scores
        return best_scores(self._blocks, scores)

    def _promotable(self, tokens: Ids, slot: Slot, tier: int) -> Ids:
        """Return the tokens' blocks that may rise to a tier."""
        state, blocks = self.tier[slot.layer], self._movable(tokens)
        blocks = blocks[state[blocks] > tier]
        read = mask(self._blocks.of[slot.reads], len(state))[blocks]
        return blocks[self._legal[read.view(np.uint8), state[blocks], tier]]

    def _movable(self, tokens: Ids) -> Ids:
        """Return the blocks of past tokens that do not leave, each once, in order of first mention."""
        blocks = self._blocks.of[tokens]
        blocks = blocks[self._staying[blocks]]
        if np.count_nonzero(mask(blocks, len(self._staying))) == len(blocks):
            return blocks
        blocks, first = np.unique(blocks, return_index=True)
        return blocks[np.argsort(first)]


def lowest_scored(ids: Ids, scores: Scores, count: int) -> Ids:
    """Return the `count` ids of lowest score, the lowest first; of equal ones the lower id first."""
    if count < len(ids):
        values = scores[ids]
        threshold = np.partition(values, count - 1)[count - 1] if count else -np.inf
        below = values < threshold
        equal = np.flatnonzero(values == threshold)[: count - np.count_nonzero(below)]
        ids = np.concatenate([ids[below], ids[equal]])
    return ids[np.lexsort((ids, scores[ids]))]
