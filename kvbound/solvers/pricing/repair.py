"""Repair of a schedule between two tiers: within the capacity, and with its hits where they save time.

Three steps. Where tier 0 holds too much, items are evicted until their next read. Then hits of items that
leave in their slot are given up where the slow tier can serve these reads beside the others, the longest
stays first. Last, items that would leave are kept, where there is room, until a slot that has too many
misses.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from kvbound.bitsets.next_use import last_read, lowest_bit, next_read, transposed_reads
from kvbound.instance import Instance
from kvbound.kernels import compiled
from kvbound.progress import Progress, silent
from kvbound.rules import Initial

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Words = NDArray[np.uint64]

PROGRESS_NOTE = "schedule made to fit"
_SOON = 2
"""Steps until their next read of the items whose stays are extended first."""


def repair(instance: Instance, inside: Bools, after: Words, spare: Ints, progress: Progress = silent) -> None:
    """Repair a schedule of single tokens between two inclusive tiers, in place.

    Parameters
    ----------
    inside
        Whether a token is in tier 0 at the start, (layers, lanes); changed.
    after
        Bits of the tokens in tier 0 after every slot, (layers, steps, words); changed.
    spare
        Misses that a slot could still have at no cost, negative if it has too many, (steps, layers); changed.
    """
    capacity = instance.capacity_units[0]
    assert capacity is not None  # only the last tier may be unlimited
    layers, steps, timeline, units = instance.layers, instance.decode_steps, instance.timeline, instance.units
    reads, rows = transposed_reads(instance), [instance.trace.words(layer) for layer in range(layers)]
    evict_excess(reads, inside, after, _held(after), spare, units, capacity)
    held = np.concatenate([inside.sum(axis=1)[None], _held(after)]) * units
    change = np.diff(held, axis=0).ravel()
    room = capacity - np.concatenate([[0], change.cumsum()]) - held[0].sum()
    forced, rounds = instance.rules.initial is Initial.PREFILL_FIRST, (_SOON, steps)

    def slots(number: int) -> Iterator[tuple[int, int]]:
        for step in range(steps):
            progress(number + step / steps, 1 + len(rounds), PROGRESS_NOTE)
            yield from ((step, layer) for layer in range(layers))

    for step, layer in slots(0):
        if spare[step, layer] > 0:
            own = reads[layer], rows[layer][step], inside[layer], after[layer], spare[:, layer]
            give_up_hits(*own, room, units, layer, step, timeline.past[step], timeline.born, forced)
    for number, within in enumerate(rounds, 1):
        for step, layer in slots(number):
            if room[step * layers + layer + 1] >= units[layer]:
                own = reads[layer], rows[layer][step], inside[layer], after[layer], spare[:, layer]
                extend_stays(*own, room, units, layer, step, timeline.past[step], within)


def _held(after: Words) -> Ints:
    """Return the number of items in tier 0 after every slot, (steps, layers)."""
    return np.stack([np.bitwise_count(bits).sum(axis=1, dtype=np.int64) for bits in after], axis=1)


@compiled()
def evict_excess(
    reads: Words, inside: Bools, after: Words, held: Ints, spare: Ints, units: Ints, capacity: int
) -> None:
    """Evict items until their next read wherever tier 0 holds more than its capacity.

    Parameters
    ----------
    reads
        Steps that read each token, as bits; see `next_use`, (layers, ceil(steps / 64), tokens).
    inside, after, spare
        As for `repair`.
    held
        Items in tier 0 after every slot, (steps, layers); changed.
    units, capacity
        Units that an item of each layer takes, (layers,), and that tier 0 holds.
    """
    layers, steps, _ = after.shape
    size = 0
    for layer in range(layers):
        size += inside[layer].sum() * units[layer]
    if size > capacity:
        size -= _evict_from_start(reads, inside, after, held, spare, units, size - capacity)
    now = np.array([inside[layer].sum() for layer in range(layers)])
    for step in range(steps):
        for layer in range(layers):
            excess = size + (held[step, layer] - now[layer]) * units[layer] - capacity
            if excess > 0 and units[layer] > 0:
                count = -(-excess // units[layer])
                _evict(reads[layer], after[layer], held[:, layer], spare[:, layer], step, count)
            size += (held[step, layer] - now[layer]) * units[layer]
            now[layer] = held[step, layer]


@compiled()
def _evict_from_start(
    reads: Words, inside: Bools, after: Words, held: Ints, spare: Ints, units: Ints, excess: int
) -> int:
    """Let items of at least so many units start outside tier 0, those whose first read is latest first.

    Returns
    -------
    The units that are freed.
    """
    steps, most = after.shape[1], inside.sum()
    item, at = np.empty((most, 2), np.int64), np.empty(most, np.int64)
    found = 0
    for layer in range(len(inside)):
        for token in range(inside.shape[1]):
            if inside[layer, token]:
                item[found, 0], item[found, 1] = layer, token
                at[found] = next_read(reads[layer], token, 0, steps)
                found += 1
    freed = 0
    for n in _latest_first(at, steps):
        layer, token = item[n]
        if freed >= excess:
            break
        inside[layer, token] = False
        freed += units[layer]
        _remove(after[layer], held[:, layer], spare[:, layer], token, 0, at[n])
    return freed


@compiled()
def _evict(reads: Words, after: Words, held: Ints, spare: Ints, step: int, count: int) -> None:
    """Evict items of a layer in its slot: first those whose miss costs nothing, then those with the latest
    next read."""
    steps, found = len(after), 0
    token, at = np.empty(held[step], np.int64), np.empty(held[step], np.int64)
    for word in range(after.shape[1]):
        bits = after[step, word]
        for n in range(64):
            if bits >> np.uint64(n) & np.uint64(1):
                token[found] = 64 * word + n
                at[found] = next_read(reads, token[found], step + 1, steps)
                found += 1
    order = _latest_first(at[:found], steps)
    for free in (True, False):
        for n in order:
            last = min(at[n], steps - 1)
            if count > 0 and token[n] >= 0 and (not free or at[n] == steps or spare[last] > 0):
                _remove(after, held, spare, token[n], step, at[n])
                token[n] = -1
                count -= 1


@compiled()
def _latest_first(at: Ints, steps: int) -> Ints:
    """Order items by their next reads, steps 0..steps, the latest first; counting them takes linear time."""
    place, order = np.zeros(steps + 2, np.int64), np.empty(len(at), np.int64)
    for step in at:
        place[steps - step + 1] += 1
    place = place.cumsum()
    for n in range(len(at) - 1, -1, -1):
        order[place[steps - at[n]]] = n
        place[steps - at[n]] += 1
    return order


@compiled()
def _remove(after: Words, held: Ints, spare: Ints, token: int, step: int, at: int) -> None:
    """Take an item out of tier 0 from a slot on, until the step that reads it or until it leaves anyway."""
    bit = np.uint64(1) << np.uint64(token & 63)
    now = step
    while now < at and after[now, token >> 6] & bit:
        after[now, token >> 6] ^= bit
        held[now] -= 1
        now += 1
    if now == at and at < len(after):
        spare[at] -= 1


@compiled()
def give_up_hits(
    reads: Words, row: Words, inside: Bools, after: Words, spare: Ints, room: Ints, units: Ints, layer: int,
    step: int, past: int, born: Ints, forced: bool,
) -> None:  # fmt: skip
    """Give up hits that a slot does not need, of items that leave in it, the longest stays first.

    Parameters
    ----------
    reads, row, inside, after, spare
        Of the slot's layer: steps by token, the slot's own reads, and as for `repair`.
    room
        Units left at the start and after every slot of any layer, (1 + slots,); changed.
    units
        Units that an item of each layer takes, (layers,).
    past
        Tokens born before the slot.
    born
        Step in which each token is born, -1 for the prompt, (tokens,).
    forced
        Whether the initial placement is given.
    """
    token, since, count = np.empty(past, np.int64), np.empty(past, np.int64), 0
    layers, unit = len(units), units[layer]
    for n in range(len(row)):
        bits = row[n] & ~after[step, n]  # an item that stays on would have to be written again
        if step > 0:
            bits &= after[step - 1, n]
        while bits != 0:
            k = 64 * n + lowest_bit(bits)
            bits &= bits - np.uint64(1)
            if k < past and (step > 0 or inside[k]):
                token[count], since[count] = k, max(last_read(reads, k, step), born[k])
                count += int(since[count] >= 0 or not forced)
    order = np.argsort(since[:count], kind="mergesort")
    for n in order[: max(spare[step], 0)]:
        bit, now = np.uint64(1) << np.uint64(token[n] & 63), step - 1
        while now >= max(since[n], 0) and after[now, token[n] >> 6] & bit:
            after[now, token[n] >> 6] ^= bit
            room[now * layers + layer + 1 : (now + 1) * layers + layer + 1] += unit
            now -= 1
        if now < 0 and since[n] < 0 and inside[token[n]]:
            inside[token[n]] = False
            room[: layer + 1] += unit
        spare[step] -= 1


@compiled()
def extend_stays(
    reads: Words, row: Words, inside: Bools, after: Words, spare: Ints, room: Ints, units: Ints, layer: int,
    step: int, past: int, within: int,
) -> None:  # fmt: skip
    """Let items stay until their next read, if its slot has too many misses and there is room till then.

    Parameters
    ----------
    reads, row, inside, after, spare, room, units, past
        As for `give_up_hits`.
    within
        Steps until the next read, at most.
    """
    layers, unit = len(units), units[layer]
    first, limit = step * layers + layer + 1, min(step + within, len(after) - 1)
    if limit == step or _free_until(room, unit, first, first + layers) < first + layers:
        return
    free = first + layers  # moments before it have room
    for n in range(len(row)):
        bits = row[n] & ~after[step, n]
        while bits != 0 and room[first] >= unit:
            k = 64 * n + lowest_bit(bits)
            bit = np.uint64(1) << np.uint64(k & 63)
            bits ^= bit
            at = next_read(reads, k, step + 1, len(after)) if k < past else len(after)
            if at > limit or spare[at] >= 0 or after[at - 1, n] & bit:
                continue
            end = at * layers + layer + 1
            free = _free_until(room, unit, free, end)
            if free >= end:
                after[step:at, n] |= bit
                room[first:end] -= unit
                spare[at] += 1
                free = first
            else:
                limit = (free - layer - 1) // layers  # the last step until whose slot there is room
                if limit <= step:
                    return


@compiled()
def _free_until(room: Ints, unit: int, first: int, end: int) -> int:
    """Return the first moment from `first` on without room for an item, or `end` if that comes before."""
    while first < end and room[first] >= unit:
        first += 1
    return first
