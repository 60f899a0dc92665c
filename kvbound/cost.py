"""THE cost model: what a schedule of an instance costs under physical accounting.

Layer by layer the reads, moves and births of every slot are counted in bytes; `SlotCost` turns the
counts into seconds. Nothing else in the package computes times, and the checker does it on its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvbound.arithmetic import combine
from kvbound.errors import InputError, KvboundError, UsageError
from kvbound.instance import Instance
from kvbound.progress import Progress, silent
from kvbound.result import InstanceId, Measures
from kvbound.schedule import Schedule
from kvbound.slotcost import SlotCost

Counts = NDArray[np.int64]
MOST_SPREAD = 1e8
"""Spread up to which the tolerances of linear programs and the whole ticks of annealing mean something."""
_ROWS = 128


@dataclass(frozen=True, eq=False)
class Loads:
    """What every slot moves.

    Attributes
    ----------
    q
        Bytes read by holding tier, read without a choice, and written; shape (steps, layers, 3K), see
        `kvbound.slotcost`. Weights included.
    up, down
        Tokens moved to faster and slower tiers, shape (steps, layers).
    blocks
        Change of each tier's blocks after each slot, shape (steps, layers, K).
    start
        Blocks in each tier before the first slot, shape (K,).
    """

    q: NDArray[np.float64]
    up: Counts
    down: Counts
    blocks: Counts
    start: Counts


def loads(instance: Instance, schedule: Schedule, progress: Progress = silent) -> Loads:
    """Count what a schedule moves; the schedule's rules are the checker's business.

    Raises
    ------
    KvboundError
        The schedule is not one of this instance: it names what is not there, or births are missing.
    UsageError
        The instance has another accounting.
    """
    _need_physical(instance)
    steps, layers, tiers = instance.decode_steps, instance.layers, instance.tiers
    _check_names(instance, schedule)
    q = np.zeros((steps, layers, 3 * tiers))
    q[:, :, tiers] = instance.llm.weight_reads
    up, down = np.zeros((2, steps, layers), np.int64)
    blocks = np.zeros((steps, layers, tiers), np.int64)
    first = schedule.initial[:, :: instance.granularity]
    start = np.bincount(first.ravel(), minlength=tiers).astype(np.int64)
    for layer in range(layers):
        progress(layer, layers, "cost")
        counts = _Layer(instance, schedule, layer)
        q[:, layer, :tiers] += counts.hits() * float(instance.item_bytes)
        counts.charge(q[:, layer], up[:, layer], down[:, layer])
        counts.occupy(blocks[:, layer])
    if instance.inclusive:
        blocks[:, :, -1] = blocks.sum(axis=2)
        start[-1] = first.size
    return Loads(q, up, down, blocks, start)


def _need_physical(instance: Instance) -> None:
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
        bad |= (events.token < 0) | (events.token > instance.prefill_tokens + events.step)
        if bad.any():
            raise KvboundError(f"layer {layer}: the schedule names a step, token or tier that is not there")


class _Layer:
    """The events of one layer, sorted out."""

    def __init__(self, instance: Instance, schedule: Schedule, layer: int) -> None:
        self.instance, self.layer = instance, layer
        events, birth = schedule.events[layer], schedule.births(layer)
        if not np.array_equal(events.step[birth], np.arange(instance.decode_steps)):
            raise KvboundError(f"layer {layer}: a schedule has exactly one birth per step")
        self.birth_tier = events.tier[birth]
        self.tier_at_birth = np.concatenate([schedule.initial[layer], self.birth_tier])
        self._set_moves(events.step[~birth], events.token[~birth], events.tier[~birth])

    def _set_moves(self, step: NDArray[np.int32], token: NDArray[np.int32], tier: NDArray[np.uint8]) -> None:
        """Moves of single tokens: blocks spelled out, each with the tier it came from."""
        size, prefill = self.instance.granularity, self.instance.prefill_tokens
        self.block_step, self.block_tier = step, tier
        self.block_from = self._previous(step, token, tier)
        if size > 1:
            each = np.minimum(size, prefill + step - token)  # those born by then
            within = np.arange(each.sum()) - np.repeat(np.cumsum(each) - each, each)
            self.step, self.token = np.repeat(step, each), np.repeat(token, each) + within
            self.tier, self.source = np.repeat(tier, each), np.repeat(self.block_from, each)
        else:
            self.step, self.token, self.tier, self.source = step, token, tier, self.block_from

    def _previous(
        self, step: NDArray[np.int32], token: NDArray[np.int32], tier: NDArray[np.uint8]
    ) -> NDArray[np.uint8]:
        """Tier each move starts from."""
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
        words = instance.trace.words(self.layer)
        own = instance.trace.own_reads()[:, self.layer]
        hits = np.zeros((len(words), instance.tiers), np.int64)
        for start, stop, tier in self._residencies():
            held = [np.packbits(tier == k, bitorder="little") for k in range(instance.tiers - 1)]
            for k, mask in enumerate(held):
                packed = np.zeros(words.shape[1] * 8, np.uint8)
                packed[: len(mask)] = mask
                hits[start:stop, k] = np.bitwise_count(words[start:stop] & packed.view(np.uint64)).sum(axis=1)
        # a token's mask holds its birth tier from the start, since nothing reads it earlier; but
        # the read of the step's own token is none
        np.subtract.at(hits, (np.flatnonzero(own), self.birth_tier[own]), 1)
        hits[:, -1] = instance.trace.past_counts()[:, self.layer] - hits[:, :-1].sum(axis=1)
        return hits

    def _residencies(self) -> Iterator[tuple[int, int, NDArray[np.uint8]]]:
        """Runs of steps in which the layer's residency does not change, at most _ROWS long."""
        steps = self.instance.decode_steps
        tier = self.tier_at_birth.copy()
        edges = np.unique(np.concatenate([self.step + 1, np.arange(0, steps, _ROWS), [steps]]))
        edges = edges[edges <= steps]
        at = np.searchsorted(self.step, edges)
        for n in range(len(edges) - 1):
            moves = slice(at[n - 1] if n else 0, at[n])
            tier[self.token[moves]] = self.tier[moves]
            yield int(edges[n]), int(edges[n + 1]), tier

    def charge(self, q: NDArray[np.float64], up: Counts, down: Counts) -> None:
        """Add births and moves to the layer's q (steps, 3K), up and down (steps,)."""
        instance, tiers, size = self.instance, self.instance.tiers, self.instance.item_bytes
        forced, written = q[:, tiers : 2 * tiers], q[:, 2 * tiers :]
        written[np.arange(len(q)), self.birth_tier] += size
        if instance.inclusive:
            written[self.birth_tier != tiers - 1, -1] += size
        free = instance.inclusive & (self.tier == tiers - 1)
        words = instance.trace.words(self.layer)
        read = words[self.step, self.token >> 6] >> (self.token & 63).astype(np.uint64) & np.uint64(1) > 0
        moved = ~free & (self.tier != self.source)
        unread = moved & ~read
        np.add.at(forced, (self.step[unread], self.source[unread]), size)
        np.add.at(written, (self.step[moved], self.tier[moved]), size)
        rises = moved & (self.tier < self.source)
        np.add.at(up, self.step[rises], 1)
        falls = moved & (self.tier > self.source)
        np.add.at(down, self.step[falls], 1)

    def occupy(self, blocks: Counts) -> None:
        """Set the layer's changes of occupancy, shape (steps, K)."""
        instance = self.instance
        born = np.arange(instance.prefill_tokens, instance.tokens)
        opens = born % instance.granularity == 0
        np.add.at(blocks, (np.flatnonzero(opens), self.birth_tier[opens]), 1)
        np.add.at(blocks, (self.block_step, self.block_tier), 1)
        np.add.at(blocks, (self.block_step, self.block_from), -1)


def slot_times(instance: Instance, schedule: Schedule) -> NDArray[np.float64]:
    """Seconds per slot, shape (steps, layers)."""
    return SlotCost.of(instance).times(loads(instance, schedule).q)


def evaluate(instance: Instance, schedule: Schedule, progress: Progress = silent) -> Measures:
    """Cost a schedule.

    Raises
    ------
    KvboundError
        The schedule does not fit into the tiers.
    """
    return evaluate_loads(instance, loads(instance, schedule, progress))


def evaluate_loads(instance: Instance, counted: Loads) -> Measures:
    """Cost what a schedule moves.

    Raises
    ------
    KvboundError
        It does not fit into the tiers.
    """
    occupied = np.vstack([np.zeros_like(counted.start), counted.blocks.reshape(-1, instance.tiers)])
    peak = (counted.start + occupied.cumsum(axis=0)).max(axis=0)
    for room, used, tier in zip(instance.room, peak, instance.memory.tiers, strict=True):
        if room is not None and used > room:
            raise KvboundError(f"the schedule puts {used:,} blocks into {tier.name}, which holds {room:,}")
    return measures(instance, SlotCost.of(instance).times(counted.q), counted, peak)


def measures(instance: Instance, times: NDArray[np.float64], counted: Loads, peak: Counts) -> Measures:
    """Sum up slot times, shape (steps, layers), and loads."""
    tiers = instance.memory.tiers
    hit_bytes = counted.q[:, :, : len(tiers)].sum(axis=(0, 1))
    weights = float(instance.llm.weight_reads.sum() * instance.decode_steps)
    total = hit_bytes.sum()
    peak_bytes = [instance.block_bytes * blocks for blocks in peak.tolist()]
    peak_bytes[0] += int(instance.llm.weight_bytes)
    return Measures(
        time_s=float(times.sum()),
        tpot_s=tpot(times.sum(axis=1)),
        hit_rate={t.name: float(h / total) if total else 0.0 for t, h in zip(tiers, hit_bytes, strict=True)},
        hit_rate_with_weights=float((hit_bytes[0] + weights) / (total + weights)) if total + weights else 0.0,
        moved_bytes={
            "up": int(counted.up.sum()) * instance.item_bytes,
            "down": int(counted.down.sum()) * instance.item_bytes,
        },
        peak_bytes={tier.name: used for tier, used in zip(tiers, peak_bytes, strict=True)},
        utilisation=utilisation(instance, counted, float(times.sum())),
    )


def utilisation(instance: Instance, counted: Loads, time_s: float) -> dict[str, float]:
    """Return the share of a decode time that each resource is busy."""
    busy = SlotCost.of(instance).busy(counted.q).sum(axis=(0, 1))
    share = np.minimum(busy / time_s, 1.0) if time_s else np.zeros_like(busy)
    return dict(zip(instance.memory.resources, share.tolist(), strict=True))


def tpot(step_times: NDArray[np.float64]) -> dict[str, float]:
    """Return time per output token over steps, in seconds."""
    p50, p95, p99 = np.percentile(step_times, [50, 95, 99])
    return {
        "mean": float(step_times.mean()),
        "p50": float(p50),
        "p95": float(p95),
        "p99": float(p99),
        "max": float(step_times.max()),
    }


def spread(instance: Instance) -> float:
    """Return the longest of the tiers' latencies and times to read or write an item, over the shortest."""
    cost, size = SlotCost.of(instance), instance.item_bytes
    item = size * np.concatenate([cost.read_costs.max(axis=1), cost.write_costs.max(axis=1)])
    times = np.concatenate([item, cost.latency[cost.latency > 0]])
    return float(times.max() / times.min())


def refuse_spread(instance: Instance, what: str) -> None:
    """Refuse an instance whose times differ too much for a method.

    Raises
    ------
    InputError
        The spread is above `MOST_SPREAD`.
    """
    if (found := spread(instance)) > MOST_SPREAD:
        raise InputError(
            instance.name, "memory",
            f"for {what} latencies and times per item that differ at most by a factor of {MOST_SPREAD:.0e}, "
            f"not of {found:.1e}; policies, the methods pricing and dual, and the bound take any",
        )  # fmt: skip


def ideal_slot_times(instance: Instance) -> NDArray[np.float64]:
    """Seconds per slot if placement were no constraint, shape (steps, layers).

    Every read and every birth is split over the tiers as suits the slot: a time lower bound for any
    schedule under any capacity. With inclusive copies and two tiers this is everything in tier 0, but
    for the births, which are only written through.

    Raises
    ------
    UsageError
        The instance has another accounting.
    """
    _need_physical(instance)
    transfer = combine(SlotCost.of(instance).ideal_facets, np.moveaxis(ideal_bytes(instance), -1, 0))
    return np.asarray(transfer.max(axis=0) + ideal_latency(instance))


def ideal_bytes(instance: Instance) -> NDArray[np.float64]:
    """Bytes per slot as `SlotCost.ideal_rows` takes them, shape (steps, layers, 3K)."""
    tiers, size = instance.tiers, instance.item_bytes
    q = np.zeros((instance.decode_steps, instance.layers, 3 * tiers))
    q[:, :, 0] = instance.read_counts() * float(size)
    q[:, :, tiers] = instance.llm.weight_reads
    q[:, :, -1 if instance.inclusive else 2 * tiers] = size
    return q


def last_tier_bytes(instance: Instance) -> NDArray[np.float64]:
    """Bytes per slot with all KV in the last tier, never moved, shape (steps, layers, 3K)."""
    tiers, size = instance.tiers, float(instance.item_bytes)
    q = np.zeros((instance.decode_steps, instance.layers, 3 * tiers))
    q[:, :, tiers - 1] = instance.read_counts() * size
    q[:, :, tiers] = instance.llm.weight_reads
    q[:, :, -1] = size
    return q


def ideal_latency(instance: Instance) -> NDArray[np.float64]:
    """Seconds of latency that a slot of each layer has under any placement, shape (layers,)."""
    latency = SlotCost.of(instance).latency
    touched = np.zeros((instance.layers, instance.tiers))
    touched[:, 0], touched[:, -1] = instance.llm.weight_reads > 0, instance.inclusive
    # every slot touches some tier, as it bears a token
    return np.maximum(combine(latency[None], touched.T)[0], latency.min())


def ideal(instance: Instance) -> float:
    """Return the ideal decode time in seconds, a time lower bound."""
    return float(ideal_slot_times(instance).sum())


def identify(instance: Instance, *, with_trace: bool = True) -> InstanceId:
    """Name the instance in a result; its hash needs the trace."""
    return InstanceId(
        name=instance.name,
        sha256=instance.sha256 if with_trace else None,
        layers=instance.layers,
        prefill_tokens=instance.prefill_tokens,
        decode_steps=instance.decode_steps,
        reads=int(instance.read_counts().sum()),
    )
