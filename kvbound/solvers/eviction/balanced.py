"""Next-use eviction that knows when a hit is worth nothing: schedules at any size.

In a slot the slow tier can serve some reads while the fast one is busy with the rest: up to that many
misses are free, and every further one costs the same wherever it falls. So a slot has a target of hits.
An item is kept for its next read only if that slot's target is not met by items that have a read or
their birth before it, as these need the room for a shorter time; of those wanted, what is read last
leaves first. With unit gains and a common room that is the optimal rule for intervals (Carlisle and
Lloyd, 1995), but for the writes into the fast tier, which move the targets and are fed back.
Where items may be prefetched, slots before others with too many misses save some of their free ones for
that: what the slow tier has time for beside the misses brings in what later slots still want.
All layers share the room. Who has to leave before it is read was never worth bringing in, and is not. What
no slot needs may stay as long as there is room, so that less has to be brought in again.

Equations: "Balanced next-use eviction" in docs/methods.md.
"""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from kvbound.bitsets.counts import HITS, UP
from kvbound.bitsets.next_use import first_reads, transposed_reads
from kvbound.bitsets.two_tier import LAYERS_AT_ONCE, TwoTierSchedule, supports_two_tier_bits
from kvbound.cost.marginal import free_misses
from kvbound.initial import fill
from kvbound.instance import Initial, Instance, Migration
from kvbound.progress import Progress
from kvbound.residency import Residency
from kvbound.solvers.eviction import balanced_numba as kernels

Ints = NDArray[np.int64]
_PASSES = {
    Migration.ON_READ: ((0.0, 0.0), (0.3, 0.0)),
    Migration.PREFETCH: ((0.0, 0.0), (0.3, 0.0), (0.3, 0.7)),
}
"""Pass by pass: how much of what a miss costs at the most one may cost that counts as free, and the share of
the free misses that slots save for prefetching before steps that had too many misses the last time."""
_AHEAD, _TOO_MANY = 4, 0.02
"""How many steps before; and what share of a step's free misses its other ones are then."""

_LOOK = 1024
"""Steps looked at."""


def supports(instance: Instance) -> bool:
    """Whether the instance's rules are those of this rule."""
    return supports_two_tier_bits(instance) and instance.rules.migration is not Migration.NONE


def serves_new_reads(instance: Instance) -> bool:
    """Whether tier 1 can serve what steps read anew while tier 0 is busy with the rest, in the first layer.

    Elsewhere more has to be brought in, and what the rule leaves out, the writes, matters most.
    """
    rows = instance.trace.words(0)[:_LOOK]
    new = np.bitwise_count(rows[1:] & ~rows[:-1]).sum(dtype=np.int64)
    free = free_misses(instance, np.zeros((instance.decode_steps, instance.layers)))
    return bool(new <= free[1 : len(rows), 0].sum())


def schedules(instance: Instance, progress: Progress) -> Generator[TwoTierSchedule, None, None]:
    """Simulate the instance again and again, each time knowing the last time's writes better."""
    passes, reads = _PASSES[instance.rules.migration], instance.trace.past_counts()
    turned, writes = transposed_reads(instance), np.zeros(reads.shape)
    misses = reads
    saved: NDArray[np.floating] = np.zeros(reads.shape)
    for number, (cheap, share) in enumerate(passes):
        free = free_misses(instance, np.floor(writes), cheap)
        if share:
            saved = share * free * _pressed(misses, free)[:, None]
        targets = reads - np.floor(free - saved).astype(np.int64)
        found = _play(instance, turned, targets, free, _part(progress, number, len(passes)))
        yield found
        weight = 1.0 if number == 0 else 0.5
        writes = writes + weight * (found.counts[..., UP] - writes)
        misses = reads - found.counts[..., HITS]


def _pressed(misses: Ints, free: Ints) -> NDArray[np.bool_]:
    """Steps soon before one that has too many misses, (steps,)."""
    too_many = np.maximum(misses - free, 0).sum(axis=1) > _TOO_MANY * free.sum(axis=1)
    later = np.concatenate([too_many[1:], np.zeros(_AHEAD, np.bool_)])
    return np.lib.stride_tricks.sliding_window_view(later, _AHEAD).max(axis=1)


def _part(progress: Progress, number: int, of: int) -> Progress:
    def report(done: float, total: float, note: str = "") -> None:
        progress(number + done / total, of, note)

    return report


def _play(
    instance: Instance,
    turned: kernels.Words,
    targets: Ints,
    free: Ints,
    progress: Progress,
) -> TwoTierSchedule:
    """Simulate all slots."""
    steps, layers, prefill = instance.decode_steps, instance.layers, instance.prefill_tokens
    rows, rules = [instance.trace.words(layer) for layer in range(layers)], instance.rules
    prefetch, forced = rules.migration is Migration.PREFETCH, rules.initial is Initial.PREFILL_FIRST
    inside = _start(instance, turned, targets)
    state = _state(instance, turned, targets, prefetch)
    for layer in range(layers):
        kernels.begin(state, layer, inside[layer])
    for step in range(steps):
        for layer in range(layers):
            spare = int(free[step, layer]) if prefetch else -1
            # what a forced fill put there stays until its layer's first slot
            kernels.play(state, layer, rows[layer][step], step, prefill, spare, not forced or step > 0)
        progress(step + 1, steps, "balanced schedule")
    counts, residency = np.zeros((layers, steps, 5), np.int64), Residency()

    def settle(layer: int) -> NDArray[np.bool_]:
        fetched = state.fetched[layer] if prefetch else state.hits[layer][:0]
        after = np.zeros((steps, 8 * rows[layer].shape[1]), np.uint8)
        first = kernels.settle(rows[layer], state.hits[layer], fetched, prefill, counts[layer], after)
        residency.put(layer, after)
        return inside[layer] if forced else first[:prefill]

    with ThreadPoolExecutor(LAYERS_AT_ONCE) as pool:
        inside = np.stack(list(pool.map(settle, range(layers))))
    residency.initial = (~inside).astype(np.uint8)
    return TwoTierSchedule(np.moveaxis(counts, 0, 1), inside.sum(axis=1), residency)


def _state(instance: Instance, turned: kernels.Words, targets: Ints, prefetch: bool) -> kernels.State:
    """Return the state in which nobody has begun yet."""
    layers, room = instance.layers, instance.capacity_blocks[0]
    assert room is not None  # only the last tier may be unlimited
    by_step, transposed_reads = (layers, instance.decode_steps + 1), (layers, instance.tokens)
    words = (layers, instance.decode_steps, -(-instance.tokens // 64))
    last = np.zeros((1, layers), np.int64)
    return kernels.State(
        turned=turned,
        target=np.concatenate([targets, last]).T.copy(),
        when=np.full(transposed_reads, instance.decode_steps, np.int32),
        coming=np.concatenate([instance.trace.past_counts(), last]).T.copy(),
        held=np.zeros((2, *by_step), np.int64),
        kept=np.full((2, *by_step), -1, np.int32),
        left=np.full(by_step, -1, np.int32),
        below=np.full(transposed_reads, -1, np.int32),
        entered=np.full(transposed_reads, -1, np.int32),
        seen=np.full(transposed_reads, -1, np.int32),
        inside=np.zeros(transposed_reads, np.bool_),
        hits=np.zeros(words, np.uint64),
        fetched=np.zeros(words if prefetch else (0, 0, 0), np.uint64),
        pool=np.array([0, room, 0, 0]),
    )


def _start(instance: Instance, turned: kernels.Words, targets: Ints) -> NDArray[np.bool_]:
    """Who starts in tier 0, (layers, prompt): what is read first, as far as its slot can make use of it."""
    shape, steps = (instance.layers, instance.prefill_tokens), instance.decode_steps
    reads = instance.trace.past_counts()
    scores = np.full(shape, -np.inf)
    for layer in range(instance.layers):
        first = first_reads(turned[layer], shape[1], steps)
        by_step = np.argsort(first, kind="stable")
        at = first[by_step]
        rank = np.arange(len(at)) - np.searchsorted(at, at)
        later = np.append(reads[:, layer], 0) - np.bincount(first, minlength=steps + 1)
        wanted = (at < steps) & (rank < (np.append(targets[:, layer], 0) - later)[at])
        scores[layer, by_step[wanted]] = -(at[wanted] * instance.layers + layer)
    return fill(instance, scores) == 0
