"""Balanced next-use eviction: schedules at any size, without hits that save no time.

In a slot the slow tier can serve some reads while the fast one is busy with the rest: up to that many misses
are free, and every further one costs the same wherever it falls. So each slot has a target number of hits. An
item is kept for its next read only if that slot's target is not met by items that have another event, a read
or their birth, before it, as these need the capacity for a shorter time; of the items kept, those whose next
read is latest are evicted first. With unit gains and a common capacity that is the optimal rule for intervals
(Carlisle and Lloyd, 1995), but for the writes into the fast tier: they move the targets and are fed back from
pass to pass.

Under prefetch, slots before others with too many misses save some of their free misses: in that time the slow
tier serves promotions for later slots. All layers share the capacity. An item that is evicted before its next
read is not promoted at all. One that no slot needs may stay as long as there is room, so that it need not be
promoted again.

Equations: "Balanced next-use eviction" in docs/methods.md.
"""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvbound.bitsets.counts import HITS, UP
from kvbound.bitsets.next_use import first_reads, transposed_reads
from kvbound.bitsets.two_tier import LAYERS_AT_ONCE, TwoTierSchedule, supports_two_tier_bits
from kvbound.cost.marginal import free_misses
from kvbound.initial import fill
from kvbound.instance import Instance
from kvbound.progress import Progress
from kvbound.residency import Residency
from kvbound.rules import Initial, Migration
from kvbound.solvers.eviction import balanced_numba as kernels

Bools = NDArray[np.bool_]
Floats = NDArray[np.floating]
Ints = NDArray[np.int64]
Words = NDArray[np.uint64]


class _Pass(NamedTuple):
    """How a pass over all slots sets its targets."""

    cheap: float
    """Share of the most that a miss can cost up to which one counts as free."""
    saved: float
    """Share of their free misses that slots save for prefetching before a shortage."""


_PASSES = {
    Migration.ON_READ: (_Pass(0.0, 0.0), _Pass(0.3, 0.0)),
    Migration.PREFETCH: (_Pass(0.0, 0.0), _Pass(0.3, 0.0), _Pass(0.3, 0.7)),
}
_LOOKAHEAD = 4
"""Steps before a shortage in which slots save free misses."""
_SHORTAGE = 0.02
"""Share of a step's free misses that its other misses exceed in a shortage."""
_EXAMINED = 1024
"""Steps that `serves_new_reads` examines."""


def supports(instance: Instance) -> bool:
    """Whether balanced eviction applies: single tokens between two inclusive tiers that may move."""
    return supports_two_tier_bits(instance) and instance.rules.migration is not Migration.NONE


def serves_new_reads(instance: Instance) -> bool:
    """Whether tier 1 serves what steps newly read while tier 0 is busy with the rest, in the first layer.

    Otherwise more has to be promoted, and the writes, which the rule ignores, matter most.
    """
    rows = instance.trace.words(0)[:_EXAMINED]
    new = np.bitwise_count(rows[1:] & ~rows[:-1]).sum(dtype=np.int64)
    free = free_misses(instance, np.zeros((instance.decode_steps, instance.layers)))
    return bool(new <= free[1 : len(rows), 0].sum())


def schedules(instance: Instance, progress: Progress) -> Generator[TwoTierSchedule, None, None]:
    """Yield the schedule of each pass, whose targets take the writes of the passes before into account."""
    passes, reads = _PASSES[instance.rules.migration], instance.trace.past_counts()
    transposed, writes = transposed_reads(instance), np.zeros(reads.shape)
    misses = reads
    saved: Floats = np.zeros(reads.shape)
    for number, (cheap, share) in enumerate(passes):
        free = free_misses(instance, np.floor(writes), cheap)
        if share:
            saved = share * free * _before_shortage(misses, free)[:, None]
        targets = reads - np.floor(free - saved).astype(np.int64)
        found = _simulate(instance, transposed, targets, free, _part(progress, number, len(passes)))
        yield found
        weight = 1.0 if number == 0 else 0.5
        writes = writes + weight * (found.counts[..., UP] - writes)
        misses = reads - found.counts[..., HITS]


def _before_shortage(misses: Ints, free: Ints) -> Bools:
    """Return whether a step is shortly before one that has too many misses, (steps,)."""
    shortage = np.maximum(misses - free, 0).sum(axis=1) > _SHORTAGE * free.sum(axis=1)
    later = np.concatenate([shortage[1:], np.zeros(_LOOKAHEAD, np.bool_)])
    return np.lib.stride_tricks.sliding_window_view(later, _LOOKAHEAD).max(axis=1)


def _part(progress: Progress, number: int, of: int) -> Progress:
    """Return the progress of one of several equal parts."""

    def report(done: float, total: float, note: str = "") -> None:
        progress(number + done / total, of, note)

    return report


def _simulate(
    instance: Instance, transposed: Words, targets: Ints, free: Ints, progress: Progress
) -> TwoTierSchedule:
    """Simulate all slots.

    Parameters
    ----------
    transposed
        The reads, token by token; see `transposed_reads`.
    targets, free
        Hits that each slot can use, and misses that are free, (steps, layers).
    """
    steps, layers, timelines = instance.decode_steps, instance.layers, instance.timelines
    rows, rules = [instance.trace.words(layer) for layer in range(layers)], instance.rules
    prefetch, forced = rules.migration is Migration.PREFETCH, rules.initial is Initial.PREFILL_FIRST
    inside = _initial(instance, transposed, targets)
    state = _empty_state(instance, transposed, targets, prefetch)
    for layer in range(layers):
        kernels.place_prompt(state, layer, inside[layer])
    for step in range(steps):
        for layer, timeline in enumerate(timelines):
            spare = int(free[step, layer]) if prefetch else -1
            # a given initial placement stays until its layer's first slot
            evict = not forced or step > 0
            ending = timeline.ending(step)
            kernels.simulate_slot(state, layer, rows[layer][step], step, ending, spare, evict)
        progress(step + 1, steps, "balanced schedule")
    counts, residency = np.zeros((layers, steps, 5), np.int64), Residency(timelines)

    def finish(layer: int) -> Bools:
        fetched = state.fetched[layer] if prefetch else state.hits[layer][:0]
        after = np.zeros((steps, 8 * rows[layer].shape[1]), np.uint8)
        first = kernels.drop_unused_stays(
            rows[layer], state.hits[layer], fetched, instance.timeline.past, counts[layer], after
        )
        residency.put(layer, after)
        return inside[layer] if forced else first[: instance.prefill_tokens]

    with ThreadPoolExecutor(LAYERS_AT_ONCE) as pool:
        inside = np.stack(list(pool.map(finish, range(layers))))
    residency.initial = (~inside).astype(np.uint8)
    return TwoTierSchedule(np.moveaxis(counts, 0, 1), inside.sum(axis=1), residency)


def _empty_state(instance: Instance, transposed: Words, targets: Ints, prefetch: bool) -> kernels.State:
    """Return the state before the prompt is placed."""
    layers, capacity = instance.layers, instance.capacity_units[0]
    assert capacity is not None  # only the last tier may be unlimited
    by_step, by_token = (layers, instance.decode_steps + 1), (layers, instance.tokens)
    words = (layers, instance.decode_steps, -(-instance.tokens // 64))
    end = np.zeros((1, layers), np.int64)
    return kernels.State(
        past=instance.timeline.past,
        units=instance.units,
        transposed=transposed,
        target=np.concatenate([targets, end]).T.copy(),
        next_use=np.full(by_token, instance.decode_steps, np.int32),
        pending=np.concatenate([instance.trace.past_counts(), end]).T.copy(),
        held=np.zeros((2, *by_step), np.int64),
        top_inside=np.full((2, *by_step), -1, np.int32),
        top_outside=np.full(by_step, -1, np.int32),
        below=np.full(by_token, -1, np.int32),
        fetched_in=np.full(by_token, -1, np.int32),
        last_event=np.full(by_token, -1, np.int32),
        inside=np.zeros(by_token, np.bool_),
        hits=np.zeros(words, np.uint64),
        fetched=np.zeros(words if prefetch else (0, 0, 0), np.uint64),
        shared=np.array([0, capacity, 0, 0]),
    )


def _initial(instance: Instance, transposed: Words, targets: Ints) -> Bools:
    """Return which tokens of the prompt start in tier 0, (layers, prompt).

    Those that are read first do, as far as their slots can use the hits.
    """
    shape, steps = (instance.layers, instance.prefill_tokens), instance.decode_steps
    reads = instance.trace.past_counts()
    scores = np.full(shape, -np.inf)
    for layer in range(instance.layers):
        first = first_reads(transposed[layer], shape[1], steps)
        by_step = np.argsort(first, kind="stable")
        at = first[by_step]
        rank = np.arange(len(at)) - np.searchsorted(at, at)
        later = np.append(reads[:, layer], 0) - np.bincount(first, minlength=steps + 1)
        wanted = (at < steps) & (rank < (np.append(targets[:, layer], 0) - later)[at])
        scores[layer, by_step[wanted]] = -(at[wanted] * instance.layers + layer)
    return fill(instance, scores) == 0
