"""The traffic of a schedule: for every slot a vector of 3K byte counts, the `Columns`, for K tiers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvbound.cost.transitions import Transitions
from kvbound.errors import KvboundError, UsageError
from kvbound.instance import Instance
from kvbound.progress import Progress, silent
from kvbound.schedule import Schedule
from kvbound.trace import bits

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]
_ROWS = 128
"""Steps whose reads are counted at once."""


class Columns(NamedTuple):
    """The parts of a traffic array, each a view of shape (..., K).

    Every item counts with its bytes in tier 0, whatever the format of the tier that holds it; see
    `kvbound.cost.slot`.

    Attributes
    ----------
    reads
        Bytes read of items, by the tier that holds them; with inclusive copies the last tier may serve them.
    extra_reads
        Bytes read without that choice: weights at tier 0, and items that move without being read.
    writes
        Bytes written by moves and births.
    """

    reads: Floats
    extra_reads: Floats
    writes: Floats

    @classmethod
    def of(cls, traffic: Floats) -> Columns:
        """Name the parts of an array of shape (..., 3K)."""
        tiers = traffic.shape[-1] // 3
        return cls(traffic[..., :tiers], traffic[..., tiers : 2 * tiers], traffic[..., 2 * tiers :])


def fixed_traffic(
    instance: Instance,
    weights: Floats | None = None,
    births: Counts | None = None,
    sizes: Counts | None = None,
) -> Floats:
    """Return the traffic that every placement has, in bytes, shape (steps, layers, 3K).

    It consists of the weights and, with inclusive copies, of the write-through of new tokens.

    Parameters
    ----------
    weights, births, sizes
        Bytes of weights that slots read, tokens born in them, and bytes of a token's KV, arrays of one shape,
        in place of those of the instance's slots.
    """
    shape = instance.decode_steps, instance.layers
    if weights is None or births is None:
        weights = np.broadcast_to(instance.weight_reads, shape)
        births = np.broadcast_to(instance.timeline.births[:, None], shape)
    traffic = np.zeros((*weights.shape, 3 * instance.tiers))
    columns = Columns.of(traffic)
    columns.extra_reads[..., 0] = weights
    if instance.inclusive:
        columns.writes[..., -1] = births * (instance.item_bytes if sizes is None else sizes)
    return traffic


@dataclass(frozen=True, eq=False)
class ScheduleTraffic:
    """The traffic and the changes of occupancy of a schedule.

    Attributes
    ----------
    traffic
        Bytes, see `Columns`, weights included; shape (steps, layers, 3K).
    up, down
        Bytes that moves write to faster and slower tiers, shape (steps, layers).
    units
        Change of each tier's units after each slot, shape (steps, layers, K); see `Instance.capacity_units`.
    start
        Units in each tier before the first slot, shape (K,).
    births
        Tokens born into each tier in each slot, shape (steps, layers, K).
    weight_reads
        Bytes among the reads of `traffic` that are of placed weights, by the tier that holds them, shape
        (steps, layers, K); None if all weights are resident.
    """

    traffic: Floats
    up: Counts
    down: Counts
    units: Counts
    start: Counts
    births: Counts
    weight_reads: Counts | None = None


def schedule_traffic(instance: Instance, schedule: Schedule, progress: Progress = silent) -> ScheduleTraffic:
    """Count the traffic of a schedule. Whether it obeys the rules is left to the checker.

    Raises
    ------
    KvboundError
        The schedule does not belong to the instance: it names layers, steps, tokens or tiers that do not
        exist, births are missing, or blocks move in or before the step in which they begin, or in or after
        the one in which they end.
    UsageError
        The instance has another accounting.
    """
    require_physical(instance)
    steps, layers, tiers = instance.decode_steps, instance.layers, instance.tiers
    _check_names(instance, schedule)
    traffic = fixed_traffic(instance)
    columns = Columns.of(traffic)
    transitions = Transitions.of(instance)
    up, down = np.zeros((2, steps, layers), np.int64)
    blocks = np.zeros((steps, layers, tiers), np.int64)
    births, grouping = np.zeros((steps, layers, tiers), np.int64), instance.grouping
    weight_reads = np.zeros((steps, layers, tiers), np.int64) if instance.chunks.ids else None
    first, start = schedule.initial[:, grouping.head[: grouping.prompt]], np.zeros(tiers, np.int64)
    for layer in range(layers):
        progress(layer, layers, "cost")
        counts = _Layer(instance, schedule, layer)
        exists = grouping.initial[layer]
        np.add.at(start, first[layer, exists], instance.block_units[layer, : grouping.prompt][exists])
        columns.reads[:, layer] += counts.hits() * instance.item_bytes[layer]
        if weight_reads is not None:
            weight_reads[:, layer] = counts.chunk_hits() * instance.item_bytes[layer]
        counts.charge(transitions, Columns.of(traffic[:, layer]), up[:, layer], down[:, layer])
        counts.occupy(blocks[:, layer])
        np.add.at(births, (counts.birth_step, layer, counts.birth_tier), 1)
    if instance.inclusive:
        held = grouping.held_counts
        blocks[:, :, -1] = np.diff(held, axis=0) * instance.units
        start[-1] = instance.block_units[:, : grouping.prompt][grouping.initial].sum()
    return ScheduleTraffic(traffic, up, down, blocks, start, births, weight_reads)


def require_physical(instance: Instance) -> None:
    """Raise a UsageError for an instance of another accounting than `physical`."""
    if not instance.physical:
        raise UsageError(f"{instance.name}: schedules are costed and bounded under accounting physical only")


def _check_names(instance: Instance, schedule: Schedule) -> None:
    """Refuse layers, steps, tokens and tiers that the instance does not have."""
    shape, tiers = (instance.layers, instance.prefill_tokens), instance.tiers
    fits = schedule.initial.shape == shape and len(schedule.events) == instance.layers
    if not fits or np.any(schedule.initial >= tiers):
        raise KvboundError(f"a schedule of this instance starts with {shape} tokens in {tiers} tiers")
    for layer, events in enumerate(schedule.events):
        bad = (events.step < 0) | (events.step >= instance.decode_steps) | (events.tier >= tiers)
        if not bad.any():
            bad = (events.token < 0) | (events.token >= instance.timeline.past[events.step + 1])
        if bad.any():
            raise KvboundError(f"layer {layer}: the schedule names a step, token or tier that is not there")


class _Layer:
    """The events of one layer, separated into births and moves."""

    def __init__(self, instance: Instance, schedule: Schedule, layer: int) -> None:
        self.instance, self.layer = instance, layer
        events, timeline = schedule.events[layer], instance.timeline
        birth = timeline.born[events.token] == events.step
        self.born = np.arange(timeline.prefill_tokens, timeline.tokens)
        if not np.array_equal(events.token[birth], self.born):
            raise KvboundError(f"layer {layer}: a schedule has one birth of every token, in order")
        self.birth_step, self.birth_tier = events.step[birth], events.tier[birth]
        self.tier_at_birth = np.concatenate([schedule.initial[layer], self.birth_tier])
        self._set_moves(events.step[~birth], events.token[~birth], events.tier[~birth])

    def _set_moves(self, step: NDArray[np.int32], token: NDArray[np.int32], tier: NDArray[np.uint8]) -> None:
        """Set the moves as moves of blocks and of single tokens, each with its source tier."""
        blocks, timeline = self.instance.grouping, self.instance.timeline
        block = self.block = blocks.of[token]
        if not np.all((blocks.born[block] < step) & (step < blocks.last[self.layer, block])):
            raise KvboundError(f"layer {self.layer}: a token moves in a step in which it is born or ends")
        self.block_step, self.block_tier = step, tier
        self.block_from = self._previous(step, token, tier)
        if blocks.size > 1:
            members = blocks.members[block]
            move, at = np.nonzero((members >= 0) & (timeline.born[members] < step[:, None]))
            self.step, self.token = step[move], members[move, at]
            self.tier, self.source = tier[move], self.block_from[move]
        else:
            self.step, self.token, self.tier, self.source = (
                step,
                token.astype(np.int64),
                tier,
                self.block_from,
            )

    def _previous(
        self, step: NDArray[np.int32], token: NDArray[np.int32], tier: NDArray[np.uint8]
    ) -> NDArray[np.uint8]:
        """Return the tier that each move starts from."""
        order = np.lexsort((step, token))
        before = np.empty_like(tier)
        before[order[1:]] = tier[order[:-1]]
        first = np.ones(len(order), bool)
        first[1:] = token[order[1:]] != token[order[:-1]]
        before[order[first]] = self.tier_at_birth[token[order[first]]]
        return before

    def hits(self) -> Counts:
        """Reads of past tokens by the tier that holds them, shape (steps, K)."""
        instance = self.instance
        if instance.workload.dense:
            return self._held_tokens()
        past, hits = instance.timeline.past, np.zeros((instance.decode_steps, instance.tiers), np.int64)
        rows = bits.words(bits.without(instance.trace.rows[self.layer], past[:-1], past[1:]))
        chunks = np.flatnonzero(instance.id_counts[self.layer, : instance.chunks.ids])
        read = bits.unpack(instance.trace.rows[self.layer], instance.chunks.ids)[:, chunks]
        more = read * (instance.id_counts[self.layer, chunks] - 1)  # a chunk is read, but not as one item
        for start, stop, tier in self._residencies():
            # the masks hold each token in its birth tier from the start: nothing else reads it earlier
            held = [np.packbits(tier == k, bitorder="little") for k in range(instance.tiers - 1)]
            for k, mask in enumerate(held):
                packed = np.zeros(rows.shape[1] * 8, np.uint8)
                packed[: len(mask)] = mask
                hits[start:stop, k] = np.bitwise_count(rows[start:stop] & packed.view(np.uint64)).sum(axis=1)
            if len(chunks):
                np.add.at(hits[start:stop].T, tier[chunks], more[start:stop].T)
        hits[:, -1] = instance.read_counts()[:, self.layer] - hits[:, :-1].sum(axis=1)
        return hits

    def chunk_hits(self) -> Counts:
        """Reads of chunks of weights, counted as items, by the tier that holds them, shape (steps, K)."""
        instance, hits = self.instance, np.zeros((self.instance.decode_steps, self.instance.tiers), np.int64)
        ids, number = np.flatnonzero(instance.chunks.exist[self.layer]), instance.id_counts[self.layer]
        read = instance.chunks.reads(instance.workload.experts, self.layer, instance.decode_steps)[:, ids]
        moves = self.token < instance.chunks.ids
        step, token, tier = self.step[moves], self.token[moves], self.tier[moves]
        edges = np.unique(np.concatenate([[0], step + 1]))
        edges, held = edges[edges < len(hits)], self.tier_at_birth[: instance.chunks.ids].copy()
        for start, stop in zip(edges, [*edges[1:], len(hits)], strict=True):
            moved = step + 1 == start
            held[token[moved]] = tier[moved]
            for k in range(instance.tiers):
                hits[start:stop, k] = read[start:stop] @ np.where(held[ids] == k, number[ids], 0)
        return hits

    def _held_tokens(self) -> Counts:
        """Tokens that exist in each tier when each slot begins: dense reads read them all, (steps, K)."""
        instance, timeline = self.instance, self.instance.timelines[self.layer]
        born, ends, number = timeline.born, timeline.ends, instance.id_counts[self.layer]
        change = np.zeros((instance.decode_steps + 2, instance.tiers), np.int64)
        exist, tier = ends >= 0, self.tier_at_birth.copy()
        np.add.at(change, (born[exist] + 1, tier[exist]), number[exist])
        carried = ends[self.token] > self.step
        step, token = self.step[carried] + 1, self.token[carried]
        np.add.at(change, (step, self.tier[carried]), number[token])
        np.subtract.at(change, (step, self.source[carried]), number[token])
        tier[token] = self.tier[carried]  # the last move of each token stands
        np.subtract.at(change, (ends[exist] + 1, tier[exist]), number[exist])
        return np.cumsum(change, axis=0)[: instance.decode_steps]

    def _residencies(self) -> Iterator[tuple[int, int, NDArray[np.uint8]]]:
        """Yield runs of at most _ROWS steps without moves: first step, end, and each token's tier."""
        steps = self.instance.decode_steps
        tier = self.tier_at_birth.copy()
        edges = np.unique(np.concatenate([self.step + 1, np.arange(0, steps, _ROWS), [steps]]))
        edges = edges[edges <= steps]
        at = np.searchsorted(self.step, edges)
        for n in range(len(edges) - 1):
            moves = slice(at[n - 1] if n else 0, at[n])
            tier[self.token[moves]] = self.tier[moves]
            yield int(edges[n]), int(edges[n + 1]), tier

    def charge(self, transitions: Transitions, columns: Columns, up: Counts, down: Counts) -> None:
        """Add births and moves to the layer's traffic, columns (steps, K), and to up and down, (steps,)."""
        instance, size = self.instance, self.instance.item_bytes[self.layer]
        columns.writes[:] = 0
        np.add.at(columns.writes, self.birth_step, transitions.birth_writes[self.birth_tier] * size)
        carried = instance.timelines[self.layer].ends[self.token] > self.step
        read = carried if instance.workload.dense else self._read()
        moved = transitions.charged[self.source, self.tier] & carried
        unread = moved & ~read
        counts = instance.id_counts[self.layer, self.token]
        sizes = counts * size
        np.add.at(columns.extra_reads, (self.step[unread], self.source[unread]), sizes[unread])
        np.add.at(columns.writes, (self.step[moved], self.tier[moved]), sizes[moved])
        written = np.array(instance.unit_sizes)[self.tier] * (counts * instance.units[self.layer])
        for bytes_moved, some in ((up, self.tier < self.source), (down, self.tier > self.source)):
            np.add.at(bytes_moved, self.step[moved & some], written[moved & some])

    def _read(self) -> NDArray[np.bool_]:
        """Whether the slot of each move reads the token, shape (moves,)."""
        words = self.instance.trace.words(self.layer)
        return words[self.step, self.token >> 6] >> (self.token & 63).astype(np.uint64) & np.uint64(1) > 0

    def occupy(self, blocks: Counts) -> None:
        """Set the layer's changes of occupancy in units, shape (steps, K)."""
        grouping, last = self.instance.grouping, self.instance.grouping.last[self.layer]
        units = self.instance.block_units[self.layer]
        tier = self.tier_at_birth[grouping.head]
        lasting = last > grouping.born
        begin = lasting & (grouping.born >= 0)
        np.add.at(blocks, (grouping.born[begin], tier[begin]), units[begin])
        np.add.at(blocks, (self.block_step, self.block_tier), units[self.block])
        np.add.at(blocks, (self.block_step, self.block_from), -units[self.block])
        tier[self.block] = self.block_tier  # the last move of each block stands
        end = lasting & (last < self.instance.decode_steps)
        np.add.at(blocks, (last[end], tier[end]), -units[end])
