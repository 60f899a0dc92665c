"""Schedules between two tiers by their counts and their bits, small or too large for events."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvbound.bitsets.counts import BORN, HELD, HITS, UNREAD, UP
from kvbound.bitsets.lanes import Lanes, count_bits, count_units
from kvbound.cost.traffic import Columns, ScheduleTraffic, fixed_traffic
from kvbound.instance import Instance
from kvbound.residency import Residency
from kvbound.schedule import Schedule

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Words = NDArray[np.uint64]

AT_ONCE = 2
"""Layers counted side by side: at full size each takes 0.2 GB."""
_PART = 256
"""Steps counted at a time: what that takes stays in a cache."""


@dataclass(frozen=True, eq=False)
class TwoTierSchedule:
    """A schedule by its counts.

    Attributes
    ----------
    counts
        See `balanced_numba`, (steps, layers, 5).
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
        """Count a schedule by its bits, and keep them.

        Parameters
        ----------
        inside
            Who is in tier 0 at the start, (layers, lanes).
        after
            Returns a layer's bits of who is there after every slot, (steps, words).
        """
        counts, residency = np.zeros((instance.decode_steps, instance.layers, 5), np.int64), Residency()
        residency.initial = (~inside[:, : instance.prefill_tokens]).astype(np.uint8)
        everyone = np.zeros(instance.layers, np.int64)

        def settle(layer: int) -> None:
            lanes, rows = Lanes.of(instance, slice(layer, layer + 1), everyone), after(layer)
            add_counts(lanes, inside[layer, None], rows[:, None], counts[:, layer, None])
            residency.put(layer, np.ascontiguousarray(rows).view(np.uint8))

        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(settle, range(instance.layers)))
        return cls(counts, inside.sum(axis=1), residency)

    @classmethod
    def replayed(cls, instance: Instance, schedule: Schedule | Residency) -> TwoTierSchedule:
        """Take a schedule by its events or bits."""
        words = count_units(instance)
        inside = np.zeros((instance.layers, 64 * words), np.bool_)
        inside[:, : instance.prefill_tokens] = schedule.initial == 0
        if isinstance(schedule, Residency):
            return cls.of(instance, inside, lambda layer: schedule.after(layer).view(np.uint64))

        def after(layer: int) -> Words:
            events, now = schedule.events[layer], inside[layer].copy()
            ends = np.searchsorted(events.step, np.arange(instance.decode_steps + 1))
            rows = np.zeros((instance.decode_steps, words), np.uint64)
            for step, row in enumerate(rows):
                mine = slice(ends[step], ends[step + 1])
                now[events.token[mine]] = events.tier[mine] == 0
                row[:] = np.packbits(now, bitorder="little").view(np.uint64)
            return rows

        return cls.of(instance, inside, after)

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
        held = np.concatenate([self.start[None], counts[..., HELD]])
        blocks = np.stack([np.diff(held, axis=0), np.ones_like(reads)], axis=-1)
        first = np.array([self.start.sum(), instance.layers * instance.prefill_tokens])
        return ScheduleTraffic(traffic, up, np.zeros_like(up), blocks, first)


def add_counts(lanes: Lanes, inside: Bools, after: Words, counts: Ints, sign: int = 1) -> None:
    """Add to counts, or take away, what lanes do, by their bits; see `balanced_numba`."""
    before = np.packbits(inside, axis=1, bitorder="little").view(np.uint64)[None]
    for first in range(0, len(after), _PART):
        part = slice(first, first + _PART)
        now, read, mine = after[part], lanes.rows[part], counts[part]
        before = np.concatenate([before[-1:], now[:-1]])
        entering = now & ~before
        mine[..., HITS] += sign * count_bits(read & before)
        mine[..., UP] += sign * count_bits(entering)
        mine[..., UNREAD] += sign * count_bits(entering & ~read)
        mine[..., HELD] += sign * count_bits(now)
        before = now
    add_birth_counts(lanes, lambda layer, step, word: after[step, layer, word], counts, sign)


def add_birth_counts(
    lanes: Lanes, after: Callable[[Ints, Ints, Ints], Words], counts: Ints, sign: int
) -> None:
    """Add to counts, or take away, births into tier 0, which are no moves of unread items.

    Parameters
    ----------
    after
        Finds the words of some layers, steps and columns.
    """
    layer, lane = np.nonzero(lanes.born >= 0)
    step = lanes.born[layer, lane].astype(np.int64)
    chose = after(layer, step, lane >> 6) >> (lane & 63).astype(np.uint64) & np.uint64(1) != 0
    for column, change in ((BORN, sign), (UNREAD, -sign)):
        np.add.at(counts, (step[chose], layer[chose], column), change)
