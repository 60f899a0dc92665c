"""Whether all KV in one tier is as good as any placement, and from which size on it may not be."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kvbound.blocks import Blocks
from kvbound.cost.ideal import Floats, Slots, best_ideal, ideal_bytes, one_tier_bytes
from kvbound.cost.slot import SlotCost
from kvbound.cost.traffic import Columns
from kvbound.fields import MAX_BYTES
from kvbound.instance import Instance
from kvbound.rules import Initial
from kvbound.trace.build import MAX_ITEMS
from kvbound.trace.timeline import MAX_TOKENS, Timeline

Ints = NDArray[np.int64]

AS_GOOD: Final = 1.01
"""Ratio to the ideal time up to which all KV in one tier is as good as any placement."""
_MOST_BATCH: Final = 2**20
_FOLLOWING: Final = 16
"""Numbers above the start that are all tried."""
_MOST_WORK: Final = 2**20
"""Kinds of slots, times facets, times ways to split reads: up to this number sizes are searched."""


@dataclass(frozen=True)
class Onset:
    """Where all KV in one tier is as good as any placement, but may not be in a larger run.

    Attributes
    ----------
    tier
        The tier that can hold all KV at nearly the ideal time.
    ratio
        That time over the ideal: no placement saves more.
    batch
        The least batch for which no single tier is as good, if the run has as many times more sequences, in
        the same mix; None if one is for all numbers tried, up to what the memory holds.
    tokens
        The least number of tokens of the longest sequence for which none is, if all contexts are as many
        times longer, and read in the same shares.
    batch_now
        The batch of the run: the largest number of tokens decoded in one step.
    tokens_now
        The largest number of tokens of one sequence that exist at a time.
    """

    tier: str
    ratio: float
    batch: int | None
    tokens: int | None
    batch_now: int
    tokens_now: int


def onset(instance: Instance) -> Onset | None:
    """Return from where on no tier is as good.

    None if no tier is as good already, if there are too many slots, if nothing is decoded or kept, or if
    tokens end in windows or weights are placed, too.
    """
    if instance.chunks.ids or set(instance.timelines) != {instance.workload.timeline}:
        return None
    sizes = Sizes(instance)
    batch_now, tokens_now = sizes.batch, sizes.tokens
    if sizes.work > _MOST_WORK or not (batch_now and tokens_now):
        return None
    tier, ratio = sizes.simplest(batch_now, tokens_now)
    if ratio > AS_GOOD:
        return None
    most = min(MAX_TOKENS, MAX_ITEMS // instance.layers) * tokens_now // instance.tokens
    return Onset(
        instance.memory.tiers[tier].name,
        ratio,
        sizes.least(batch_now, _MOST_BATCH, lambda batch: (batch, tokens_now)),
        sizes.least(tokens_now, most, lambda tokens: (batch_now, tokens)),
        batch_now,
        tokens_now,
    )


class Sizes:
    """Runs like an instance's with other batches and contexts.

    A run with another batch is the same one times a factor, which need not be whole: in every slot that many
    times the reads and births, and at any time that many times the KV; the weights are read once for all.
    Twice the batch is thus the run in which every sequence is there twice. In a run with other contexts every
    sequence has a prompt of another length: the reads, the tokens of arriving prompts and the KV that exists
    change by the same factor, while as many tokens are decoded as before.

    Attributes
    ----------
    batch, tokens
        Of the instance itself, as `Onset` defines them.
    """

    def __init__(self, instance: Instance) -> None:
        self.instance, self.cost = instance, SlotCost.of(instance).of_time
        self.slots, self.counts = Slots.kinds(instance)
        self.batch = int(instance.timeline.outputs.max())
        self.tokens = longest(instance.timeline)

    @property
    def work(self) -> int:
        """Size of one evaluation."""
        splits = 1 << np.count_nonzero(self.cost.latency[:-1]) * self.instance.inclusive
        return len(self.counts) * len(self.cost.facets) * self.instance.tiers * int(splits)

    @cached_property
    def _ideal(self) -> Floats:
        """Bytes of the ideal, shape (kinds, 3K)."""
        return ideal_bytes(self.instance, self.slots)

    @cached_property
    def _by_tier(self) -> list[Floats]:
        """Bytes with all KV in each tier, shape (kinds, 3K)."""
        return [one_tier_bytes(self.instance, self.slots, tier) for tier in range(self.instance.tiers)]

    @cached_property
    def _held(self) -> list[Ints]:
        """Tokens held of each sequence when there are the most blocks, and when there are the most tokens."""
        blocks, live = self.instance.grouping, self.instance.timeline.live
        held = blocks.held_counts[:, 0]
        peaks = np.lexsort((live, held))[-1], np.lexsort((held, live))[-1]
        return [held_tokens(blocks, int(step)) for step in peaks]

    def simplest(self, batch: int, tokens: int) -> tuple[int, float]:
        """Return the best of the tiers that can hold all KV, and its time over the ideal."""
        seconds = [math.inf] * self.instance.tiers
        for tier, traffic in enumerate(self._by_tier):
            if self.holds(tier, self.units(batch, tokens)):
                seconds[tier] = float(self.counts @ self.cost.times(self._scaled(traffic, batch, tokens)))
        least = best_ideal(self.cost, self.slots, self._scaled(self._ideal, batch, tokens)).time
        best, ideal_s = min(seconds), float(self.counts @ least)
        return seconds.index(best), 1.0 if best == ideal_s else best / ideal_s if ideal_s else math.inf

    def least(self, start: int, most: int, size: Callable[[int], tuple[int, int]]) -> int | None:
        """Return the least number above `start`, and at most `most`, at which no single tier is as good.

        It is looked for at the next numbers, at those at which tiers become full, and at twice each number.

        Parameters
        ----------
        size
            Batch and tokens for each number.
        """

        def fails(number: int) -> bool:
            return self.simplest(*size(number))[1] > AS_GOOD

        def last(fits: Callable[[int], bool]) -> int:
            """Return the last number that fits, by bisection."""
            low, high = start, most + 1
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if fits(middle) else (low, middle)
            return low

        most = last(lambda number: self.feasible(self.units(*size(number))))
        full = [
            last(lambda number, tier=tier: self.holds(tier, self.units(*size(number))))  # type: ignore[misc]
            for tier in range(self.instance.tiers)
        ]
        return first_failure(start, candidates(start, most, full), fails)

    def units(self, batch: int, tokens: int) -> int:
        """Return the largest number of units of all layers that exist at a time, rounded up."""
        block = self.tokens * self.instance.granularity
        per_layer = max(int(-(-held * tokens // block).sum()) for held in self._held)
        return -(-int(self.instance.units.sum()) * per_layer * batch // self.batch)

    def holds(self, tier: int, units: int) -> bool:
        """Return whether so many units may all be in a tier.

        The prompt is forced into the fastest tier with room where the rules say prefill-first.
        """
        forced = self.instance.rules.initial is Initial.PREFILL_FIRST and tier > 0
        room = self.instance.capacity_units[tier]
        return not forced and (room is None or units <= room) and self.feasible(units)

    def feasible(self, units: int) -> bool:
        """Return whether the memory can hold so many units."""
        most, unit_bytes = self.instance.most_units, self.instance.granularity * self.instance.unit_sizes[0]
        return (most is None or units <= most) and units * unit_bytes <= MAX_BYTES

    def _scaled(self, traffic: Floats, batch: int, tokens: int) -> Floats:
        scaled = traffic.copy()
        columns, longer = Columns.of(scaled), tokens / self.tokens
        columns.reads[:] *= batch * tokens / (self.batch * self.tokens)
        prompts = self.slots.arriving / np.maximum(self.slots.births, 1)
        columns.writes[:] *= (batch / self.batch * (1 + prompts * (longer - 1)))[:, None]
        return scaled


def longest(timeline: Timeline) -> int:
    """Return the largest number of tokens of one sequence that exist at the start or after a step."""
    if not timeline.sequence.any():
        return timeline.most_live
    place = timeline.sequence * (timeline.steps + 2)
    change = np.concatenate([place + timeline.born + 1, place + timeline.ends + 1])
    sign = np.repeat([1, -1], timeline.tokens)
    # ends come before births, so that a sum is too small or right; after all of a sequence's it is 0
    return int(np.cumsum(sign[np.lexsort((sign, change))]).max())


def held_tokens(blocks: Blocks, step: int) -> Ints:
    """Return how many tokens of each sequence exist before a step, shape (sequences,).

    More are counted where these would take fewer blocks than there are: the least that take as many.
    """
    timeline = blocks.timeline
    block = (blocks.born < step) & (step <= blocks.last[0])  # all layers are alike; see `onset`
    token = (timeline.born < step) & (step <= timeline.ends)
    number = np.bincount(timeline.sequence[blocks.head[block]])
    tokens = np.bincount(timeline.sequence[token], minlength=len(number))
    least: Ints = np.maximum(tokens, (number - 1) * blocks.size + 1)
    return least[number > 0]


def candidates(start: int, most: int, full: Iterable[int]) -> list[int]:
    """Return where to look: the next numbers, twice each number, where tiers become full, and the end."""
    following = range(start + 1, start + _FOLLOWING)
    doubled = (start << k for k in range(1, most.bit_length()))
    beside = (number + more for number in full for more in (0, 1))
    return sorted({number for number in (*following, *doubled, *beside, most) if start < number <= most})


def first_failure(start: int, points: Iterable[int], fails: Callable[[int], bool]) -> int | None:
    """Return the first number that fails, between the last point that does not and the first that does."""
    low = start
    for high in points:
        if fails(high):
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (low, middle) if fails(middle) else (middle, high)
            return high
        low = high
    return None
