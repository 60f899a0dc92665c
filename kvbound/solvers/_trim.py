"""Keeping within the room: where a schedule holds a little too much, some items leave unread."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvbound.instance import Instance
from kvbound.kernels import compiled
from kvbound.solvers._balance import by_token
from kvbound.solvers._balance_kernels import next_read

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Words = NDArray[np.uint64]


def trim(instance: Instance, inside: Bools, after: Words, spare: Ints) -> None:
    """Let as many items leave as do not fit.

    Parameters
    ----------
    inside
        Who is in tier 0 at the start, (layers, lanes); changed.
    after
        Bits of who is there after every slot, (layers, steps, words); changed.
    spare
        Misses that a slot could still have at no cost, (steps, layers); changed.
    """
    room = instance.room[0]
    assert room is not None  # only the last tier may be unlimited
    held = np.stack([np.bitwise_count(bits).sum(axis=1, dtype=np.int64) for bits in after], axis=1)
    _trim(by_token(instance), inside, after, held, spare, room)


@compiled
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


@compiled
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


@compiled
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


@compiled
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
