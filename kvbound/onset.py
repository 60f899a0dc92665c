"""Whether all KV in one tier is as good as any placement, and from which size on it may not be."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from kvbound.cost.ideal import Floats, Slots, ideal_bytes, ideal_latency, one_tier_bytes
from kvbound.cost.slot import SlotCost
from kvbound.cost.traffic import Columns
from kvbound.fields import MAX_BYTES
from kvbound.instance import Instance
from kvbound.rules import Initial
from kvbound.trace.build import MAX_ITEMS
from kvbound.trace.timeline import MAX_TOKENS

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
        The least number of such sequences, decoded together, for which no single tier is as good; None if
        one is for all numbers tried, up to what the memory holds.
    tokens
        The least number of tokens of the one sequence, read in the same shares, for which none is.
    """

    tier: str
    ratio: float
    batch: int | None
    tokens: int | None


def onset(instance: Instance) -> Onset | None:
    """Return from where on no tier is as good.

    None if no tier is as good already, if there are too many slots, or if the trace is not that of one
    sequence with one birth in every step and no ends: it cannot be scaled to other sizes.
    """
    timeline = instance.timeline
    if not (timeline.one_each and timeline.all_stay) or timeline.sequence.any():
        return None
    sizes = _Sizes(instance)
    if sizes.work > _MOST_WORK:
        return None
    tier, ratio = sizes.simplest(1, instance.tokens)
    if ratio > AS_GOOD:
        return None
    return Onset(
        instance.memory.tiers[tier].name,
        ratio,
        sizes.least(1, _MOST_BATCH, lambda batch: (batch, instance.tokens)),
        sizes.least(
            instance.tokens, min(MAX_TOKENS, MAX_ITEMS // instance.layers), lambda tokens: (1, tokens)
        ),
    )


class _Sizes:
    """Runs like an instance's with other batches and lengths."""

    def __init__(self, instance: Instance) -> None:
        self.instance, self.cost = instance, SlotCost.of(instance)
        slots, self.counts = Slots.kinds(instance)
        self.ideal = ideal_bytes(instance, slots)
        self.by_tier = [one_tier_bytes(instance, slots, tier) for tier in range(instance.tiers)]
        self.latency = ideal_latency(instance, slots)

    @property
    def work(self) -> int:
        """Size of one evaluation."""
        splits = 1 << np.count_nonzero(self.cost.latency[:-1]) * self.instance.inclusive
        return len(self.counts) * len(self.cost.facets) * self.instance.tiers * int(splits)

    def simplest(self, batch: int, tokens: int) -> tuple[int, float]:
        """Return the best of the tiers that can hold all KV, and its time over the ideal.

        Parameters
        ----------
        batch
            Sequences like this one that are decoded together; the weights are read once for all.
        tokens
            Tokens of a longer sequence at its end; a slot reads the same share of them.
        """
        seconds = [math.inf] * self.instance.tiers
        for tier, traffic in enumerate(self.by_tier):
            if self.holds(tier, self.blocks(batch, tokens)):
                seconds[tier] = float(self.counts @ self.cost.times(self._scaled(traffic, batch, tokens)))
        transfer = (self.cost.ideal_facets @ self._scaled(self.ideal, batch, tokens).T).max(axis=0)
        best, ideal_s = min(seconds), float(self.counts @ (transfer + self.latency))
        return seconds.index(best), 1.0 if best == ideal_s else best / ideal_s if ideal_s else math.inf

    def least(self, start: int, most: int, size: Callable[[int], tuple[int, int]]) -> int | None:
        """Return the least number above `start`, and at most `most`, at which no single tier is as good.

        It is looked for at the next numbers, at those at which tiers become full, and at twice each number.
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

        most = last(lambda number: self.feasible(self.blocks(*size(number))))
        full = [
            last(lambda number, tier=tier: self.holds(tier, self.blocks(*size(number))))  # type: ignore[misc]
            for tier in range(self.instance.tiers)
        ]
        return first_failure(start, candidates(start, most, full), fails)

    def blocks(self, batch: int, tokens: int) -> int:
        """Return the units of all KV at the end."""
        return batch * int(self.instance.units.sum()) * -(-tokens // self.instance.granularity)

    def holds(self, tier: int, blocks: int) -> bool:
        """Return whether so many blocks may all be in a tier.

        The prompt is forced into the fastest tier with room where the rules say prefill-first.
        """
        forced = self.instance.rules.initial is Initial.PREFILL_FIRST and tier > 0
        room = self.instance.capacity_units[tier]
        return not forced and (room is None or blocks <= room) and self.feasible(blocks)

    def feasible(self, blocks: int) -> bool:
        """Return whether the memory can hold so many blocks."""
        most, unit = self.instance.most_units, self.instance.granularity * self.instance.unit_sizes[0]
        return (most is None or blocks <= most) and blocks * unit <= MAX_BYTES

    def _scaled(self, traffic: Floats, batch: int, tokens: int) -> Floats:
        scaled = traffic.copy()
        columns = Columns.of(scaled)
        columns.reads[:] *= batch * tokens / self.instance.tokens
        columns.writes[:] *= batch
        return scaled


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
