"""Two-tier schedules as bits and counts, for instances of any size."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvbound.bitsets.counts import BORN, HELD, HITS, UNREAD, UP
from kvbound.bitsets.lanes import Lanes, count_bits, count_spans
from kvbound.cost.traffic import Columns, ScheduleTraffic, fixed_traffic
from kvbound.instance import Instance
from kvbound.placement import PhysicalPlacement
from kvbound.residency import Residency

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Words = NDArray[np.uint64]

LAYERS_AT_ONCE = 2
"""Layers counted in parallel: at the largest sizes each takes 0.2 GB."""
_CHUNK = 256
"""Steps counted at a time: their arrays fit into a cache."""


def supports_two_tier_bits(instance: Instance) -> bool:
    """Whether one bit per token is enough to say where it is: two inclusive tiers, single tokens."""
    single = instance.granularity == 1 and not instance.chunks.ids
    return instance.inclusive and instance.tiers == 2 and single


@dataclass(frozen=True, eq=False)
class TwoTierSchedule:
    """A schedule between two inclusive tiers, with its counts.

    In the bits, tokens are in tier 0 in no row from their last step on: they leave at no charge, before the
    slot's capacity is checked. A token that ends in the step of its birth is therefore never in tier 0, and
    counts as born into tier 1, whatever its birth event says: nothing else can be cheaper.

    Attributes
    ----------
    counts
        Counts of each slot, columns as in `kvbound.bitsets.counts`, (steps, layers, 5).
    start
        Items of each layer in tier 0 before the first slot, (layers,).
    residency
        The schedule itself.
    """

    counts: Ints
    start: Ints
    residency: Residency

    @classmethod
    def of(cls, instance: Instance, inside: Bools, after: Callable[[int], Words]) -> TwoTierSchedule:
        """Count a schedule given by its bits, and keep them as a residency.

        Parameters
        ----------
        inside
            Whether each lane is in tier 0 at the start, (layers, lanes); False where the prompt has no token.
        after
            Returns a layer's bits of the lanes in tier 0 after every slot, (steps, words). They are kept as
            they are: the caller sees to it that a token's bits are 0 before its birth and from its last step
            on.
        """
        counts = np.zeros((instance.decode_steps, instance.layers, 5), np.int64)
        residency = Residency(instance.timelines)
        residency.initial = (~inside[:, : instance.prefill_tokens]).astype(np.uint8)

        def put_layer(layer: int) -> None:
            lanes, rows = Lanes.all_of(instance, slice(layer, layer + 1)), after(layer)
            add_counts(lanes, inside[layer, None], rows[:, None], counts[:, layer, None])
            residency.put(layer, np.ascontiguousarray(rows).view(np.uint8))

        with ThreadPoolExecutor(LAYERS_AT_ONCE) as pool:
            list(pool.map(put_layer, range(instance.layers)))
        return cls(counts, inside.sum(axis=1), residency)

    @classmethod
    def replayed(cls, instance: Instance, placement: PhysicalPlacement) -> TwoTierSchedule:
        """Count a placement that is kept as events or as bits, whose rows are as `of` expects them."""
        timelines = instance.timelines
        inside = np.zeros((instance.layers, 64 * count_spans(instance)), np.bool_)
        inside[:, : instance.prefill_tokens] = (placement.initial == 0) & instance.grouping.initial
        return cls.of(
            instance, inside, lambda layer: placement.tier0_rows(layer, timelines[layer]).view(np.uint64)
        )

    def traffic(self, instance: Instance) -> ScheduleTraffic:
        """Return what every slot moves."""
        size, counts = instance.item_bytes, self.counts
        reads = instance.trace.past_counts()
        up = counts[..., UP] - counts[..., BORN]
        traffic = fixed_traffic(instance)
        columns = Columns.of(traffic)
        columns.reads[..., 0] = counts[..., HITS] * size
        columns.reads[..., 1] = (reads - counts[..., HITS]) * size
        columns.extra_reads[..., 1] = counts[..., UNREAD] * size
        columns.writes[..., 0] = counts[..., UP] * size
        held, live = np.concatenate([self.start[None], counts[..., HELD]]), instance.grouping.held_counts
        units = np.stack([held, live], axis=-1) * instance.units[:, None]
        births = np.stack([counts[..., BORN], instance.timeline.births[:, None] - counts[..., BORN]], axis=-1)
        start = units[0].sum(axis=0)
        return ScheduleTraffic(traffic, up * size, np.zeros_like(up), np.diff(units, axis=0), start, births)


def add_counts(lanes: Lanes, inside: Bools, after: Words, counts: Ints, sign: int = 1) -> None:
    """Add what lanes do, given by their bits, to counts (steps, layers, 5), or with sign -1 subtract it.

    The bits are as `TwoTierSchedule.of` expects them.

    Parameters
    ----------
    inside
        Whether each lane is in tier 0 at the start, (layers, lanes).
    after
        Bits of the lanes in tier 0 after every slot, (steps, layers, words).
    """
    before = np.packbits(inside, axis=1, bitorder="little").view(np.uint64)[None]
    for first in range(0, len(after), _CHUNK):
        steps = slice(first, first + _CHUNK)
        now, read, part = after[steps], lanes.rows[steps], counts[steps]
        before = np.concatenate([before[-1:], now[:-1]])
        entering = now & ~before
        part[..., HITS] += sign * count_bits(read & before)
        part[..., UP] += sign * count_bits(entering)
        part[..., UNREAD] += sign * count_bits(entering & ~read)
        part[..., HELD] += sign * count_bits(now)
        before = now
    add_birth_counts(lanes, lambda layer, step, word: after[step, layer, word], counts, sign)


def add_birth_counts(
    lanes: Lanes, after: Callable[[Ints, Ints, Ints], Words], counts: Ints, sign: int
) -> None:
    """Add births into tier 0 to counts, or subtract them; they do not count as promotions of unread items.

    Parameters
    ----------
    after
        Returns the words after slots, given their layers, steps and columns.
    """
    layer, lane = np.nonzero(lanes.born >= 0)
    step = lanes.born[layer, lane].astype(np.int64)
    inside = after(layer, step, lane >> 6) >> (lane & 63).astype(np.uint64) & np.uint64(1) != 0
    for column, change in ((BORN, sign), (UNREAD, -sign)):
        np.add.at(counts, (step[inside], layer[inside], column), change)
