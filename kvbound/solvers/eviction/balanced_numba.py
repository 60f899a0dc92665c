"""The kernel of balanced eviction: one slot after the other, with future reads known.

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
Int32s = NDArray[np.int32]  # half the bytes of Ints, as every read looks them up

NEEDED, SPARE = range(2)
"""Kinds of items in tier 0: those that their next slot needs, and those that stay while there is room."""
SIZE, CAPACITY, LAST = range(3)
"""Entries of `State.shared`: units in tier 0, how many it holds, and, from LAST on, for either kind a step
after which no item of it is read."""


class State(NamedTuple):
    """Where the items of all layers are.

    An event of an item is its birth or a read. A stack is a top item per step and, per item, the one below.
    """

    past: Ints
    """Tokens born before each step, and in the end, (steps + 1,)."""
    units: Ints
    """Units that an item of each layer takes, (layers,)."""
    transposed: Words
    """The reads, token by token; see `next_use.transpose`: (layers, ceil(steps / 64), tokens)."""
    target: Ints
    """Hits that each slot can use, (layers, steps + 1)."""
    next_use: Int32s
    """Step that reads each item next, or the number of steps, (layers, tokens)."""
    pending: Ints
    """Reads of each slot by items that have another event before it, (layers, steps + 1)."""
    held: Ints
    """Items in tier 0 by kind and by the step that reads them next, (2, layers, steps + 1)."""
    top_inside: Int32s
    """Tops of the stacks of items in tier 0, (2, layers, steps + 1)."""
    top_outside: Int32s
    """Tops of the stacks of items outside, (layers, steps + 1)."""
    below: Int32s
    """Item below each one in its stack, (layers, tokens)."""
    fetched_in: Int32s
    """Step in which each item was last promoted without being read, or -1, (layers, tokens)."""
    last_event: Int32s
    """Step of each item's last event, (layers, tokens)."""
    inside: Bools
    """Whether an item is in tier 0, (layers, tokens)."""
    hits: Words
    """Bits of the reads that find their item in tier 0, (layers, steps, words)."""
    fetched: Words
    """Bits of the items promoted unread that are still there when read; no layers without prefetch."""
    shared: Ints
    """What the layers share; see SIZE, CAPACITY and LAST."""


@compiled()
def place_prompt(state: State, layer: int, inside: Bools) -> None:
    """Put a layer's prompt where it starts, in tier 0 or outside, (prompt tokens,)."""
    for token in range(len(inside)):
        at = next_read(state.transposed[layer], token, 0, state.target.shape[1] - 1)
        state.next_use[layer, token] = at
        state.pending[layer, at] -= 1
    for token in range(len(inside)):
        if inside[token]:
            needed = _needs_hit(state, layer, state.next_use[layer, token])
            _push_inside(state, layer, token, NEEDED if needed else SPARE)
        else:
            _push_outside(state, layer, token)


@compiled()
def _push_inside(state: State, layer: int, token: int, kind: int) -> None:
    """Put an item into tier 0."""
    at = state.next_use[layer, token]
    state.below[layer, token], state.top_inside[kind, layer, at] = state.top_inside[kind, layer, at], token
    state.held[kind, layer, at] += 1
    state.inside[layer, token] = True
    state.shared[SIZE] += state.units[layer]
    state.shared[LAST + kind] = max(state.shared[LAST + kind], at)


@compiled()
def _pop_inside(state: State, layer: int, at: int, kind: int) -> int:
    """Take an item that a step reads next out of tier 0, and return it."""
    token = state.top_inside[kind, layer, at]
    while not state.inside[layer, token]:  # it has ended
        token = state.below[layer, token]
    state.top_inside[kind, layer, at] = state.below[layer, token]
    state.held[kind, layer, at] -= 1
    state.shared[SIZE] -= state.units[layer]
    return int(token)


@compiled()
def _push_outside(state: State, layer: int, token: int) -> None:
    """Put an item outside tier 0."""
    at = state.next_use[layer, token]
    state.below[layer, token], state.top_outside[layer, at] = state.top_outside[layer, at], token
    state.inside[layer, token] = False


@compiled()
def _needs_hit(state: State, layer: int, at: int) -> bool:
    """Return whether a slot needs one more hit, after the spare items it can use became needed ones."""
    if at == state.target.shape[1] - 1:
        return False
    most = state.target[layer, at] - state.pending[layer, at]
    while state.held[NEEDED, layer, at] < most:
        if state.held[SPARE, layer, at] == 0:
            return True
        _push_inside(state, layer, _pop_inside(state, layer, at, SPARE), NEEDED)
    return False


@compiled()
def _keep_or_evict(state: State, layer: int, token: int) -> None:
    """Keep an item that was hit if its next slot needs it or can use it, in place of a spare one."""
    at = state.next_use[layer, token]
    needed, spare = state.held[NEEDED, layer, at], state.held[SPARE, layer, at]
    most = 0 if at == state.target.shape[1] - 1 else state.target[layer, at]
    if most > 0 and needed < most - state.pending[layer, at]:
        if spare > 0 and needed + spare >= most:
            _push_outside(state, layer, _pop_inside(state, layer, at, SPARE))
        _push_inside(state, layer, token, NEEDED)
    elif needed + spare < most:
        _push_inside(state, layer, token, SPARE)
    else:
        _push_outside(state, layer, token)


@compiled()
def _layer_read_last(state: State, kind: int) -> int:
    """Return the layer of the item of a kind with the latest next read, after its step in LAST; -1 for
    none."""
    while state.shared[LAST + kind] >= 0:
        for layer in range(state.held.shape[1] - 1, -1, -1):
            if state.held[kind, layer, state.shared[LAST + kind]] > 0:
                return layer
        state.shared[LAST + kind] -= 1
    return -1


@compiled()
def _promote(state: State, step: int, layer: int, token: int, evict: bool) -> bool:
    """Promote an item, if need be in place of spare ones or ones read later; return whether that worked."""
    while state.shared[SIZE] + state.units[layer] > state.shared[CAPACITY]:
        if not evict:
            return False
        kind, other = SPARE, _layer_read_last(state, SPARE)
        if other < 0:
            kind, other = NEEDED, _layer_read_last(state, NEEDED)
            if other < 0 or (state.shared[LAST], other) <= (state.next_use[layer, token], layer):
                return False
        victim = _pop_inside(state, other, state.shared[LAST + kind], kind)
        if state.fetched_in[other, victim] >= 0:
            _flip_bit(state.fetched[other], state.fetched_in[other, victim], victim)
        _push_outside(state, other, victim)
    state.fetched_in[layer, token] = -1
    if state.last_event[layer, token] != step:
        state.fetched_in[layer, token] = step
        _flip_bit(state.fetched[layer], step, token)
    _push_inside(state, layer, token, NEEDED)
    return True


@compiled()
def _flip_bit(rows: Words, step: int, token: int) -> None:
    rows[step, token >> 6] ^= np.uint64(1) << np.uint64(token & 63)


@compiled()
def _remove_ended(state: State, layer: int, ending: Ints) -> None:
    """Take items that end without a read in their last step out of tier 0, as nothing reads them any more.

    Only the start puts such items there.
    """
    at = state.target.shape[1] - 1
    for token in ending:
        if state.inside[layer, token] and state.next_use[layer, token] == at:
            state.inside[layer, token] = False
            state.held[SPARE, layer, at] -= 1
            state.shared[SIZE] -= state.units[layer]


@compiled()
def simulate_slot(
    state: State, layer: int, row: Words, step: int, ending: Ints, spare: int, evict: bool
) -> None:
    """Simulate one slot.

    Parameters
    ----------
    row
        Bits of its reads, (words,).
    ending
        Tokens for which this step is the last one.
    spare
        Reads that tier 1 can serve at no cost; negative where nothing may be prefetched.
    evict
        Whether items may be evicted to make room.
    """
    steps, past, tokens = state.target.shape[1] - 1, state.past[step], state.past[step + 1]
    now, hit = np.empty(tokens, np.int64), np.empty(tokens, np.bool_)
    count, hits = list_tokens(row, past, now), 0
    events = count + tokens - past  # reads, then births
    for n in range(count, events):
        now[n] = past + n - count
    _remove_ended(state, layer, ending)
    state.top_outside[layer, step] = -1
    for kind in (NEEDED, SPARE):
        state.shared[SIZE] -= state.held[kind, layer, step] * state.units[layer]
        state.held[kind, layer, step], state.top_inside[kind, layer, step] = 0, -1
    for n in range(events):
        token = now[n]
        hit[n] = state.inside[layer, token]
        at = next_read(state.transposed[layer], token, step + 1, steps)
        state.next_use[layer, token], state.last_event[layer, token] = at, step
        state.pending[layer, at] -= 1
    for n in range(count):
        token = now[n]
        if hit[n]:
            hits += 1
            _flip_bit(state.hits[layer], step, token)
            state.fetched_in[layer, token] = -1
            _keep_or_evict(state, layer, token)
    for n in range(events):
        token = now[n]
        if not hit[n]:
            needed = _needs_hit(state, layer, state.next_use[layer, token])
            if not (needed and _promote(state, step, layer, token, evict)):
                _push_outside(state, layer, token)
    _prefetch(state, step, layer, spare - (count - hits))


@compiled()
def _prefetch(state: State, step: int, layer: int, budget: int) -> None:
    """Promote what the layer's next slots need, as far as that costs nothing."""
    at = step + 1
    while budget > 0 and at < state.target.shape[1] - 1:
        token = state.top_outside[layer, at]
        if token < 0 or not _needs_hit(state, layer, at):
            at += 1
            continue
        state.top_outside[layer, at] = state.below[layer, token]
        if not _promote(state, step, layer, token, True):
            _push_outside(state, layer, token)
            return
        budget -= int(state.last_event[layer, token] != step)


@compiled()
def drop_unused_stays(
    rows: Words, hits: Words, fetched: Words, past: Ints, counts: Ints, after: Bytes
) -> Bools:
    """Keep stays in tier 0 only from an event or a fetch to a hit, and count what the schedule does.

    Parameters
    ----------
    rows, hits, fetched
        A layer's reads, and as in `State`, (steps, words); `fetched` may have no rows.
    past
        As in `State`.
    counts
        Counts of every slot, see `bitsets.counts`, (steps, 5); filled in.
    after
        Bits of the items in tier 0 after each slot, (steps, bytes); filled in.

    Returns
    -------
    Whether an item has to start in tier 0, (tokens,).
    """
    tokens, held = past[-1], 0
    keep, now, bits = (
        np.zeros(tokens, np.bool_),
        np.empty(tokens, np.int64),
        np.zeros(after.shape[1], np.uint8),
    )
    for step in range(len(rows) - 1, -1, -1):
        counts[step, HELD] = held
        after[step] = bits
        if len(fetched):
            for n in range(list_tokens(fetched[step], past[step], now)):
                counts[step, UP] += 1
                counts[step, UNREAD] += 1
                keep[now[n]] = False
                bits[now[n] >> 3] ^= np.uint8(1 << (now[n] & 7))
                held -= 1
        for token in range(past[step], past[step + 1]):
            if keep[token]:
                counts[step, UP] += 1
                counts[step, BORN] += 1
                keep[token] = False
                bits[token >> 3] ^= np.uint8(1 << (token & 7))
                held -= 1
        for n in range(list_tokens(rows[step], past[step], now)):
            token = now[n]
            hit = hits[step, token >> 6] >> np.uint64(token & 63) & np.uint64(1) != 0
            counts[step, UP] += int(keep[token] and not hit)
            counts[step, HITS] += int(hit)
            if keep[token] != hit:
                held += 1 if hit else -1
                bits[token >> 3] ^= np.uint8(1 << (token & 7))
                keep[token] = hit
    return keep
