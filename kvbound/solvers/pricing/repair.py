"""Making a schedule fit: within the room, and its hits where they count.

Where it holds a little too much, some items leave unread. A hit of an item that leaves then is given up if
the tier below can serve that read beside the others, after the longest stay first; what has room now, and
would be a miss too many, stays.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from kvbound.bitsets.next_use import last_read, lowest_bit, next_read, transposed_reads
from kvbound.instance import Initial, Instance
from kvbound.kernels import compiled
from kvbound.progress import Progress, silent

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Words = NDArray[np.uint64]

FITTED = "schedule made to fit"
_SOON = 2
"""Steps until their next read of those that are asked first to stay."""


def fit(instance: Instance, inside: Bools, after: Words, spare: Ints, progress: Progress = silent) -> None:
    """Let items leave that do not fit or are of no use, and others stay instead.

    Parameters
    ----------
    inside
        Who is in tier 0 at the start, (layers, lanes); changed.
    after
        Bits of who is there after every slot, (layers, steps, words); changed.
    spare
        Misses that a slot could still have at no cost, negative if it has too many, (steps, layers); changed.
    """
    room = instance.capacity_blocks[0]
    assert room is not None  # only the last tier may be unlimited
    turned = transposed_reads(instance)
    _trim(turned, inside, after, _held(after), spare, room)
    held = np.concatenate([inside.sum(axis=1)[None], _held(after)])
    change = np.diff(held, axis=0).ravel()
    left = room - np.concatenate([[0], change.cumsum()]) - held[0].sum()
    rows = [instance.trace.words(layer) for layer in range(instance.layers)]
    prompt, forced = instance.prefill_tokens, instance.rules.initial is Initial.PREFILL_FIRST
    rounds = (_SOON, instance.decode_steps)

    def slots(number: int) -> Iterator[tuple[int, int]]:
        for step in range(instance.decode_steps):
            progress(number + step / instance.decode_steps, 1 + len(rounds), FITTED)
            yield from ((step, layer) for layer in range(instance.layers))

    for step, layer in slots(0):
        if spare[step, layer] > 0:
            mine = turned[layer], rows[layer][step], inside[layer], after[layer], spare[:, layer]
            _release(*mine, left, layer, instance.layers, step, prompt, forced)
    for number, most in enumerate(rounds, 1):
        for step, layer in slots(number):
            if left[step * instance.layers + layer + 1] > 0:
                mine = turned[layer], rows[layer][step], inside[layer], after[layer], spare[:, layer]
                _fill(*mine, left, layer, instance.layers, step, prompt, most)


def _held(after: Words) -> Ints:
    """Items in tier 0 after every slot, (steps, layers)."""
    return np.stack([np.bitwise_count(bits).sum(axis=1, dtype=np.int64) for bits in after], axis=1)


@compiled()
def _trim(reads: Words, inside: Bools, after: Words, held: Ints, spare: Ints, room: int) -> None:
    layers, steps, _ = after.shape
    size = inside.sum()
    if size > room:
        _expel_first(reads, inside, after, held, spare, size - room)
        size = room
    now = np.array([inside[layer].sum() for layer in range(layers)])
    for step in range(steps):
        for layer in range(layers):
            over = size + held[step, layer] - now[layer] - room
            if over > 0:
                _expel(reads[layer], after[layer], held[:, layer], spare[:, layer], step, over)
            size += held[step, layer] - now[layer]
            now[layer] = held[step, layer]


@compiled()
def _expel_first(reads: Words, inside: Bools, after: Words, held: Ints, spare: Ints, many: int) -> None:
    """Keep those who are read last from starting in tier 0."""
    steps, count = after.shape[1], inside.sum()
    who, at = np.empty((count, 2), np.int64), np.empty(count, np.int64)
    count = 0
    for layer in range(len(inside)):
        for token in range(inside.shape[1]):
            if inside[layer, token]:
                who[count, 0], who[count, 1] = layer, token
                at[count] = next_read(reads[layer], token, 0, steps)
                count += 1
    for n in np.argsort(at, kind="mergesort")[::-1][:many]:
        layer, token = who[n]
        inside[layer, token] = False
        _leave(after[layer], held[:, layer], spare[:, layer], token, 0, at[n])


@compiled()
def _expel(reads: Words, after: Words, held: Ints, spare: Ints, step: int, many: int) -> None:
    """Let items of a layer go in its slot: first whose miss costs nothing, then who is read last."""
    steps, count = len(after), 0
    token, at = np.empty(held[step], np.int64), np.empty(held[step], np.int64)
    for word in range(after.shape[1]):
        bits = after[step, word]
        for n in range(64):
            if bits >> np.uint64(n) & np.uint64(1):
                token[count] = 64 * word + n
                at[count] = next_read(reads, token[count], step + 1, steps)
                count += 1
    order = np.argsort(at[:count], kind="mergesort")[::-1]
    for free in (True, False):
        for n in order:
            last = min(at[n], steps - 1)
            if many > 0 and token[n] >= 0 and (not free or at[n] == steps or spare[last] > 0):
                _leave(after, held, spare, token[n], step, at[n])
                token[n] = -1
                many -= 1


@compiled()
def _leave(after: Words, held: Ints, spare: Ints, token: int, step: int, at: int) -> None:
    """Take an item out from a slot on until it is read or leaves anyway."""
    bit = np.uint64(1) << np.uint64(token & 63)
    now = step
    while now < at and after[now, token >> 6] & bit:
        after[now, token >> 6] ^= bit
        held[now] -= 1
        now += 1
    if now == at and at < len(after):
        spare[at] -= 1


@compiled()
def _release(
    turned: Words, read: Words, inside: Bools, after: Words, spare: Ints, left: Ints, layer: int, layers: int,
    step: int, prompt: int, forced: bool,
) -> None:  # fmt: skip
    """Give up hits that the slot does not need, of items that leave in it, after the longest stays.

    Parameters
    ----------
    turned, read, inside, after, spare
        Of the slot's layer: reads by token, the slot's own, and as for `fit`.
    left
        Room left at the start and after every slot of any layer.
    """
    token, since, count = np.empty(prompt + step, np.int64), np.empty(prompt + step, np.int64), 0
    for n in range(len(read)):
        bits = read[n] & ~after[step, n]  # who stays on would have to be written again
        if step > 0:
            bits &= after[step - 1, n]
        while bits != 0:
            k = 64 * n + lowest_bit(bits)
            bits &= bits - np.uint64(1)
            if k < prompt + step and (step > 0 or inside[k]):
                token[count], since[count] = k, max(last_read(turned, k, step), k - prompt, -1)
                count += int(since[count] >= 0 or not forced)
    order = np.argsort(since[:count], kind="mergesort")
    for n in order[: max(spare[step], 0)]:
        bit, now = np.uint64(1) << np.uint64(token[n] & 63), step - 1
        while now >= max(since[n], 0) and after[now, token[n] >> 6] & bit:
            after[now, token[n] >> 6] ^= bit
            left[now * layers + layer + 1 : (now + 1) * layers + layer + 1] += 1
            now -= 1
        if now < 0 and since[n] < 0 and inside[token[n]]:
            inside[token[n]] = False
            left[: layer + 1] += 1
        spare[step] -= 1


@compiled()
def _fill(
    turned: Words, read: Words, inside: Bools, after: Words, spare: Ints, left: Ints, layer: int, layers: int,
    step: int, prompt: int, most: int,
) -> None:  # fmt: skip
    """Let those stay whose next slot, within `most` steps, has too many misses, if they fit till then."""
    first = step * layers + layer + 1
    for n in range(len(read)):
        bits = read[n] & ~after[step, n]
        while bits != 0 and left[first] > 0:
            k = 64 * n + lowest_bit(bits)
            bit = np.uint64(1) << np.uint64(k & 63)
            bits ^= bit
            at = next_read(turned, k, step + 1, len(after)) if k < prompt + step else len(after)
            if at > step + most or at == len(after) or spare[at] >= 0 or after[at - 1, n] & bit:
                continue
            end, moment = at * layers + layer + 1, first
            while moment < end and left[moment] > 0:
                moment += 1
            if moment == end:
                after[step:at, n] |= bit
                left[first:end] -= 1
                spare[at] += 1
