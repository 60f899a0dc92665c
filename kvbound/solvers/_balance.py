"""Next-use eviction that knows when a hit is worth nothing: schedules at any size.

In a slot the slow tier can serve some reads while the fast one is busy with the rest: up to that many
misses are free, and every further one costs the same wherever it falls. So a slot has a target of hits.
An item is kept for its next read only if that slot's target is not met by items that have a read or
their birth before it, as these need the room for a shorter time; of those wanted, what is read last
leaves first. With unit gains and a common room that is the optimal rule for intervals (Carlisle and
Lloyd, 1995), but for the writes into the fast tier, which move the targets and are fed back.
Where items may be prefetched, a slot rather saves some of its free misses for that: what the slow tier has
time for beside the misses brings in what later slots still want.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvbound.cost import Loads
from kvbound.instance import Initial, Instance, Migration
from kvbound.progress import Progress
from kvbound.schedule import LayerEvents, Schedule
from kvbound.simulation import fill
from kvbound.slotcost import SlotCost
from kvbound.solvers import _balance_kernels as kernels

Ints = NDArray[np.int64]
_SHARES = {Migration.ON_READ: (1.0, 1.0), Migration.PREFETCH: (1.0, 0.5, 0.25)}
"""Shares of the free misses that targets leave to them, pass by pass."""


def applies(instance: Instance) -> bool:
    """Whether the instance's rules are those of this rule."""
    two = instance.inclusive and instance.tiers == 2 and instance.granularity == 1
    return two and instance.rules.migration is not Migration.NONE


@dataclass(frozen=True, eq=False)
class Play:
    """A schedule by its counts.

    Attributes
    ----------
    counts
        See `_balance_kernels`, (steps, layers, 5).
    start
        Items of each layer in tier 0 before the first slot, (layers,).
    quotas, targets, free
        What made it: room of each layer, (layers,); hits wanted of each slot and misses that cost it
        nothing, (steps, layers).
    """

    counts: Ints
    start: Ints
    quotas: Ints
    targets: Ints
    free: Ints

    def loads(self, instance: Instance) -> Loads:
        """Return what every slot moves, in bytes."""
        size, counts = instance.item_bytes, self.counts
        reads = instance.trace.past_counts()
        up = counts[..., kernels.UP] - counts[..., kernels.BORN]
        q = np.zeros((*reads.shape, 6))
        q[..., 0] = counts[..., kernels.HITS]
        q[..., 1] = reads - counts[..., kernels.HITS]
        q[..., 3] = counts[..., kernels.UNREAD]
        q[..., 4] = counts[..., kernels.UP]
        q[..., 5] = 1
        q *= size
        q[..., 2] = instance.llm.weight_reads
        held = np.concatenate([self.start[None], counts[..., kernels.HELD]])
        blocks = np.stack([np.diff(held, axis=0), np.ones_like(reads)], axis=-1)
        first = np.array([self.start.sum(), instance.layers * instance.prefill_tokens])
        return Loads(q, up * size, np.zeros_like(up), blocks, first)


def plays(instance: Instance, quotas: Ints, threads: int, progress: Progress) -> Iterator[Play]:
    """Play the instance again and again, each time knowing the last time's writes better."""
    shares, reads = _SHARES[instance.rules.migration], instance.trace.past_counts()
    writes = np.zeros(reads.shape)
    for number, share in enumerate(shares):
        free = free_misses(instance, np.floor(writes))
        targets = reads - np.floor(share * free).astype(np.int64)
        found = _play(instance, quotas, targets, free, threads, _part(progress, number, len(shares)))
        yield found
        weight = 1.0 if number == 0 else 0.5
        writes = writes + weight * (found.counts[..., kernels.UP] - writes)


def _part(progress: Progress, number: int, of: int) -> Progress:
    def report(done: float, total: float, note: str = "") -> None:
        progress(number + done / total, of, note)

    return report


def free_misses(instance: Instance, writes: NDArray[np.float64]) -> Ints:
    """How many reads of each slot tier 1 can serve without the slot taking longer, (steps, layers).

    Parameters
    ----------
    writes
        Items written into tier 0 in each slot, (steps, layers).
    """
    cost, size = SlotCost.of(instance), instance.item_bytes
    reads = instance.trace.past_counts()
    q = np.zeros((*reads.shape, 6))
    q[..., 2], q[..., 4], q[..., 5] = instance.llm.weight_reads, writes * size, size

    def times(misses: Ints) -> NDArray[np.float64]:
        q[..., 0], q[..., 1] = (reads - misses) * size, misses * size
        return cost.times(q)

    low, high = np.zeros_like(reads), reads.copy()
    least = times(low) * (1 + 1e-12)
    while np.any(low < high):
        middle = (low + high + 1) // 2
        free = times(middle) <= least
        low, high = np.where(free, middle, low), np.where(free, high, middle - 1)
    return low


def even_quotas(instance: Instance) -> Ints:
    """Give every layer the same room, or, where the fill is forced, what that takes."""
    room = instance.room[0]
    assert room is not None  # only the last tier may be unlimited
    layers, prompt = instance.layers, instance.layers * instance.prefill_tokens
    if instance.rules.initial is Initial.PREFILL_FIRST and room < prompt:
        return _forced(instance).sum(axis=1)
    return room // layers + (np.arange(layers) < room % layers).astype(np.int64)


def quotas_like(instance: Instance, held: NDArray[np.float64]) -> Ints:
    """Share the room out like the mean number of items that each layer holds elsewhere, (layers,)."""
    even = even_quotas(instance)
    if instance.rules.initial is Initial.PREFILL_FIRST or not held.sum():
        return even
    return np.floor(held / held.sum() * even.sum()).astype(np.int64)


def _forced(instance: Instance) -> NDArray[np.bool_]:
    nothing = np.zeros((instance.layers, instance.prefill_tokens))
    return fill(instance, nothing) == 0


def _play(
    instance: Instance, quotas: Ints, targets: Ints, free: Ints, threads: int, progress: Progress
) -> Play:
    play = Play(np.zeros((*targets.shape, 5), np.int64), np.zeros_like(quotas), quotas, targets, free)
    nothing = np.zeros((0, 0), np.uint8)
    with ThreadPoolExecutor(threads) as pool:
        played = pool.map(lambda layer: _layer(instance, play, layer, nothing), range(instance.layers))
        for layer, (inside, counts) in enumerate(played):
            play.start[layer] = np.count_nonzero(inside)
            play.counts[:, layer] = counts
            progress(layer + 1, instance.layers, "balanced schedule")
    return play


def _layer(
    instance: Instance, play: Play, layer: int, after: NDArray[np.uint8]
) -> tuple[NDArray[np.bool_], Ints]:
    """Play one layer; return who starts in tier 0 and the counts, (steps, 5)."""
    rows, prefill = instance.trace.words(layer), instance.prefill_tokens
    reads, target = instance.trace.past_counts()[:, layer], play.targets[:, layer].copy()
    quota, turned = int(play.quotas[layer]), kernels.turn(rows, prefill)
    first = kernels.first_reads(turned, prefill, len(rows))
    if instance.rules.initial is Initial.PREFILL_FIRST:
        inside = _forced(instance)[layer]
    else:
        inside = _best_start(first, reads, target, quota)
    spare = np.full(len(rows), -1)
    if instance.rules.migration is Migration.PREFETCH:
        spare = play.free[:, layer].copy()
    counts = np.zeros((len(rows), 5), np.int64)
    state = kernels.begin(turned, target, reads, first, inside, quota)
    kernels.play(state, rows, prefill, spare, counts, after)
    return inside, counts


def _best_start(first: Ints, reads: Ints, target: Ints, quota: int) -> NDArray[np.bool_]:
    """Who should start in tier 0: what is read first, as far as its step can make use of it."""
    steps = len(target)
    sorted_by_step = np.argsort(first, kind="stable")
    at = first[sorted_by_step]
    rank = np.arange(len(at)) - np.searchsorted(at, at)
    later = np.append(reads, 0) - np.bincount(first, minlength=steps + 1)
    wanted = (at < steps) & (rank < (np.append(target, 0) - later)[at])
    inside = np.zeros(len(first), np.bool_)
    inside[sorted_by_step[wanted][:quota]] = True
    return inside


def schedule(instance: Instance, play: Play) -> Schedule:
    """Play once more and keep who is where."""
    initial = np.ones((instance.layers, instance.prefill_tokens), np.uint8)
    events = []
    for layer in range(instance.layers):
        rows = instance.trace.words(layer)
        after = np.zeros((len(rows), rows.shape[1] * 8), np.uint8)
        inside, _ = _layer(instance, play, layer, after)
        initial[layer, inside] = 0
        events.append(_events(after, inside, instance.prefill_tokens))
    return Schedule(initial, tuple(events))


def _events(after: NDArray[np.uint8], inside: NDArray[np.bool_], prefill: int) -> LayerEvents:
    """Changes from row to row, and the births; moves before the birth."""
    before = np.zeros(after.shape[1], np.uint8)
    start = np.packbits(inside, bitorder="little")
    before[: len(start)] = start
    steps, tokens, tiers = [], [], []
    for step, row in enumerate(after):
        token = np.flatnonzero(np.unpackbits(row ^ before, bitorder="little"))
        token = np.append(token[token < prefill + step], prefill + step)
        steps.append(np.full(len(token), step))
        tokens.append(token)
        tiers.append(1 - (row[token >> 3] >> (token & 7) & 1))
        before = row
    return LayerEvents.of(np.concatenate(steps), np.concatenate(tokens), np.concatenate(tiers))
