"""One slot after the other, the reads to come in sight; compiled where numba is there.

Items are kept in stacks by the step that reads them next, so that a read costs a few operations. Without
numba the same lines run as Python: same numbers, some hundred times slower.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvbound.bitsets.counts import BORN, HELD, HITS, UNREAD, UP
from kvbound.bitsets.next_use import list_tokens, next_read
from kvbound.kernels import compiled

Words = NDArray[np.uint64]
Bytes = NDArray[np.uint8]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Short = NDArray[np.int32]  # half the bytes of what every read looks up

NEEDED, SPARE = range(2)
"""Kinds of items in tier 0: those that their next slot needs, and those that may stay while there is room."""
SIZE, ROOM, LAST = range(3)
"""Entries of the pool: items in tier 0, how many there may be, and from LAST on for either kind a step that
reads none of them later."""


class State(NamedTuple):
    """Where the items of all layers are; a stack is a top per step and, per item, who lies below it."""

    turned: Words
    """The reads, token by token; see `next_use.transpose`: (layers, ceil(steps / 64), tokens)."""
    target: Ints
    """Hits that each slot can make use of, (layers, steps + 1)."""
    when: Short
    """Step that reads each item next, or the number of steps, (layers, tokens)."""
    coming: Ints
    """Reads of each slot by items that have an event before it still to come, (layers, steps + 1)."""
    held: Ints
    """Items in tier 0 by kind and the step that reads them next, (2, layers, steps + 1)."""
    kept: Short
    """Tops of the stacks of items in tier 0, (2, layers, steps + 1)."""
    left: Short
    """Tops of the stacks of items outside, (layers, steps + 1)."""
    below: Short
    """Who lies below each item, (layers, tokens)."""
    entered: Short
    """Step in which each item was last brought in without being read, or -1."""
    seen: Short
    """Step in which each item was last read or born."""
    inside: Bools
    """Who is in tier 0, (layers, tokens)."""
    hits: Words
    """Bits of the reads that find their item in tier 0, (layers, steps, words)."""
    fetched: Words
    """Bits of the items brought in unread that are still there when read; no layers without prefetch."""
    pool: Ints
    """What the layers share; see SIZE, ROOM and LAST."""


@compiled()
def begin(state: State, layer: int, inside: Bools) -> None:
    """Put a layer's prompt where it starts, (prompt tokens,)."""
    for token in range(len(inside)):
        at = next_read(state.turned[layer], token, 0, state.target.shape[1] - 1)
        state.when[layer, token] = at
        state.coming[layer, at] -= 1
    for token in range(len(inside)):
        if inside[token]:
            needed = _needs(state, layer, state.when[layer, token])
            _join(state, layer, token, NEEDED if needed else SPARE)
        else:
            _leave(state, layer, token)


@compiled()
def _join(state: State, layer: int, token: int, kind: int) -> None:
    at = state.when[layer, token]
    state.below[layer, token], state.kept[kind, layer, at] = state.kept[kind, layer, at], token
    state.held[kind, layer, at] += 1
    state.inside[layer, token] = True
    state.pool[SIZE] += 1
    state.pool[LAST + kind] = max(state.pool[LAST + kind], at)


@compiled()
def _pop(state: State, layer: int, at: int, kind: int) -> int:
    """Take an item out of the top of a stack."""
    token = state.kept[kind, layer, at]
    state.kept[kind, layer, at] = state.below[layer, token]
    state.held[kind, layer, at] -= 1
    state.pool[SIZE] -= 1
    return int(token)


@compiled()
def _leave(state: State, layer: int, token: int) -> None:
    at = state.when[layer, token]
    state.below[layer, token], state.left[layer, at] = state.left[layer, at], token
    state.inside[layer, token] = False


@compiled()
def _needs(state: State, layer: int, at: int) -> bool:
    """Whether a slot needs one more hit, beside those of items still to have an event and of spare ones."""
    if at == state.target.shape[1] - 1:
        return False
    most = state.target[layer, at] - state.coming[layer, at]
    while state.held[NEEDED, layer, at] < most:
        if state.held[SPARE, layer, at] == 0:
            return True
        _join(state, layer, _pop(state, layer, at, SPARE), NEEDED)
    return False


@compiled()
def _stay(state: State, layer: int, token: int) -> None:
    """Let an item that was hit stay if its next slot needs it or can use it, in place of a spare one."""
    at = state.when[layer, token]
    needed, spare = state.held[NEEDED, layer, at], state.held[SPARE, layer, at]
    most = 0 if at == state.target.shape[1] - 1 else state.target[layer, at]
    if most > 0 and needed < most - state.coming[layer, at]:
        if spare > 0 and needed + spare >= most:
            _leave(state, layer, _pop(state, layer, at, SPARE))
        _join(state, layer, token, NEEDED)
    elif needed + spare < most:
        _join(state, layer, token, SPARE)
    else:
        _leave(state, layer, token)


@compiled()
def _last(state: State, kind: int) -> int:
    """Layer of an item of a kind that is read last; none if -1."""
    while state.pool[LAST + kind] >= 0:
        for layer in range(state.held.shape[1] - 1, -1, -1):
            if state.held[kind, layer, state.pool[LAST + kind]] > 0:
                return layer
        state.pool[LAST + kind] -= 1
    return -1


@compiled()
def _enter(state: State, step: int, layer: int, token: int, evict: bool) -> bool:
    """Let an item in, in place of a spare one or one read later if need be; return whether that worked."""
    if state.pool[SIZE] >= state.pool[ROOM]:
        if not evict:
            return False
        kind, other = SPARE, _last(state, SPARE)
        if other < 0:
            kind, other = NEEDED, _last(state, NEEDED)
            if other < 0 or (state.pool[LAST], other) <= (state.when[layer, token], layer):
                return False
        victim = _pop(state, other, state.pool[LAST + kind], kind)
        if state.entered[other, victim] >= 0:
            _flip(state.fetched[other], state.entered[other, victim], victim)
        _leave(state, other, victim)
    state.entered[layer, token] = -1
    if state.seen[layer, token] != step:
        state.entered[layer, token] = step
        _flip(state.fetched[layer], step, token)
    _join(state, layer, token, NEEDED)
    return True


@compiled()
def _flip(rows: Words, step: int, token: int) -> None:
    rows[step, token >> 6] ^= np.uint64(1) << np.uint64(token & 63)


@compiled()
def play(state: State, layer: int, words: Words, step: int, prefill: int, spare: int, evict: bool) -> None:
    """Simulate one slot.

    Parameters
    ----------
    words
        What it reads, (words,).
    spare
        Reads that tier 1 can serve at no cost; negative where nothing may be prefetched.
    evict
        Whether room may be made.
    """
    steps, born = state.target.shape[1] - 1, prefill + step
    now, was = np.empty(born + 1, np.int64), np.empty(born + 1, np.bool_)
    count, hits = list_tokens(words, born, now), 0
    now[count] = born
    state.left[layer, step] = -1
    for kind in (NEEDED, SPARE):
        state.pool[SIZE] -= state.held[kind, layer, step]
        state.held[kind, layer, step], state.kept[kind, layer, step] = 0, -1
    for n in range(count + 1):
        token = now[n]
        was[n] = state.inside[layer, token]
        at = next_read(state.turned[layer], token, step + 1, steps)
        state.when[layer, token], state.seen[layer, token] = at, step
        state.coming[layer, at] -= 1
    for n in range(count):
        token = now[n]
        if was[n]:
            hits += 1
            _flip(state.hits[layer], step, token)
            state.entered[layer, token] = -1
            _stay(state, layer, token)
    for n in range(count + 1):
        token = now[n]
        if not was[n]:
            needed = _needs(state, layer, state.when[layer, token])
            if not (needed and _enter(state, step, layer, token, evict)):
                _leave(state, layer, token)
    _prefetch(state, step, layer, spare - (count - hits))


@compiled()
def _prefetch(state: State, step: int, layer: int, budget: int) -> None:
    """Bring in what the layer's next slots could make use of, as far as that costs nothing."""
    at = step + 1
    while budget > 0 and at < state.target.shape[1] - 1:
        token = state.left[layer, at]
        if token < 0 or not _needs(state, layer, at):
            at += 1
            continue
        state.left[layer, at] = state.below[layer, token]
        if not _enter(state, step, layer, token, True):
            _leave(state, layer, token)
            return
        budget -= int(state.seen[layer, token] != step)


@compiled()
def settle(rows: Words, hits: Words, fetched: Words, prefill: int, counts: Ints, after: Bytes) -> Bools:
    """Keep only what is there when it is read, from its event or since it was fetched, and count.

    Parameters
    ----------
    rows, hits, fetched
        A layer's reads, and as in `State`, (steps, words); `fetched` may have no rows.
    counts
        To be filled, (steps, 5).
    after
        Bits of who is in tier 0 after each slot, (steps, bytes), to be filled.

    Returns
    -------
    Who has to start in tier 0, (tokens,).
    """
    tokens, held = prefill + len(rows), 0
    keep, now, bits = (
        np.zeros(tokens, np.bool_),
        np.empty(tokens, np.int64),
        np.zeros(after.shape[1], np.uint8),
    )
    for step in range(len(rows) - 1, -1, -1):
        born = prefill + step
        counts[step, HELD] = held
        after[step] = bits
        if len(fetched):
            for n in range(list_tokens(fetched[step], born, now)):
                counts[step, UP] += 1
                counts[step, UNREAD] += 1
                keep[now[n]] = False
                bits[now[n] >> 3] ^= np.uint8(1 << (now[n] & 7))
                held -= 1
        if keep[born]:
            counts[step, UP] += 1
            counts[step, BORN] = 1
            keep[born] = False
            bits[born >> 3] ^= np.uint8(1 << (born & 7))
            held -= 1
        for n in range(list_tokens(rows[step], born, now)):
            token = now[n]
            hit = hits[step, token >> 6] >> np.uint64(token & 63) & np.uint64(1) != 0
            counts[step, UP] += int(keep[token] and not hit)
            counts[step, HITS] += int(hit)
            if keep[token] != hit:
                held += 1 if hit else -1
                bits[token >> 3] ^= np.uint8(1 << (token & 7))
                keep[token] = hit
    return keep
