"""One layer played with a quota of tier 0, the reads to come in sight; compiled where numba is there.

Items are kept in stacks by the step that reads them next, so that a read costs a few operations. Without
numba the same lines run as Python: same numbers, some hundred times slower.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]
_Function = TypeVar("_Function", bound=Callable[..., object])

HITS, UP, UNREAD, BORN, HELD = range(5)
"""Columns of the counts: reads served by tier 0; writes into it, and how many of these were of items not
read and of new tokens; items in it after the slot."""
_SIZE, _LAST, _QUOTA = range(3)


def _jit(function: _Function) -> _Function:
    try:
        import numba
    except ImportError:
        return function
    compiled: _Function = numba.njit(cache=True, nogil=True)(function)
    return compiled


class State(NamedTuple):
    """Where the items are; a stack is a top per step and, per item, who lies below it."""

    turned: Words
    """The layer's reads, token by token; see `turn`."""
    target: Ints
    """Hits that each step can make use of, (steps + 1,)."""
    when: Ints
    """Step that reads each item next, or the number of steps, (tokens,)."""
    coming: Ints
    """Reads of each step by items that have an event before it still to come, (steps + 1,)."""
    held: Ints
    """Items in tier 0 by the step that reads them next, (steps + 1,)."""
    kept: Ints
    """Tops of the stacks of items in tier 0."""
    left: Ints
    """Tops of the stacks of items outside."""
    below: Ints
    """Who lies below each item, (tokens,)."""
    entered: Ints
    """Step in which each item last entered tier 0, and, next to it, left it."""
    dropped: Ints
    seen: Ints
    """Step in which each item was last read or born."""
    inside: NDArray[np.bool_]
    unread: NDArray[np.bool_]
    """Whether each item last entered without being read."""
    pool: Ints
    """Items in tier 0, a step that none of them is read after, and how many there may be."""


def begin(
    turned: Words, target: Ints, reads: Ints, first: Ints, inside: NDArray[np.bool_], quota: int
) -> State:
    """Return the state before the first step.

    Parameters
    ----------
    target, reads
        Hits that each step can make use of, and reads of past tokens, (steps,).
    first
        Step that first reads each token of the prompt, or the number of steps.
    inside
        Who starts in tier 0, (prompt tokens,).
    """
    steps, tokens = len(target), turned.shape[1]
    never = np.full(tokens, -1)
    state = State(
        turned, np.append(target, 0), np.full(tokens, steps), np.append(reads, 0),
        np.zeros(steps + 1, np.int64), np.full(steps + 1, -1), np.full(steps + 1, -1), never.copy(),
        never.copy(), never.copy(), never.copy(), np.zeros(tokens, np.bool_), np.zeros(tokens, np.bool_),
        np.array([0, 0, quota]),
    )  # fmt: skip
    state.when[: len(first)] = first
    np.subtract.at(state.coming, first, 1)
    _start(state, inside)
    return state


@_jit
def turn(rows: Words, prefill: int) -> Words:
    """Turn rows (steps, words) round: bits of the steps that read each token, (ceil(steps / 64), tokens).

    A step's read of its own token is left out.
    """
    steps = len(rows)
    turned = np.zeros(((steps + 63) // 64, prefill + steps), np.uint64)
    now = np.empty(prefill + steps, np.int64)
    for step in range(steps):
        bit = np.uint64(1) << np.uint64(step & 63)
        for n in range(_decode(rows[step], prefill + step, now)):
            turned[step >> 6, now[n]] |= bit
    return turned


@_jit
def _decode(words: Words, before: int, now: Ints) -> int:
    """List the tokens that one step reads, those below `before`; return how many."""
    count = 0
    for n in range(len(words)):
        bits, token = words[n], 64 * n
        while bits != 0 and token < before:
            if bits & np.uint64(1):
                now[count] = token
                count += 1
            bits >>= np.uint64(1)
            token += 1
    return count


@_jit
def next_read(turned: Words, token: int, step: int, steps: int) -> int:
    """First step from `step` on that reads a token, or `steps`."""
    chunk = step >> 6
    if chunk >= len(turned):
        return steps
    bits = turned[chunk, token] >> np.uint64(step & 63)
    while bits == 0:
        chunk += 1
        if chunk == len(turned):
            return steps
        bits = turned[chunk, token]
        step = 64 * chunk
    for shift in (32, 16, 8, 4, 2, 1):
        if bits << np.uint64(64 - shift) == 0:  # the lowest bits are all clear
            bits >>= np.uint64(shift)
            step += shift
    return step


@_jit
def first_reads(turned: Words, prefill: int, steps: int) -> Ints:
    """First step that reads each token of the prompt, or `steps`."""
    first = np.empty(prefill, np.int64)
    for token in range(prefill):
        first[token] = next_read(turned, token, 0, steps)
    return first


@_jit
def _start(state: State, inside: NDArray[np.bool_]) -> None:
    for token in range(len(inside)):
        if inside[token] and state.when[token] < len(state.target) - 1:
            _join(state, token)
        else:
            _leave(state, token)


@_jit
def _join(state: State, token: int) -> None:
    at = state.when[token]
    state.below[token], state.kept[at] = state.kept[at], token
    state.held[at] += 1
    state.inside[token] = True
    state.pool[_SIZE] += 1
    state.pool[_LAST] = max(state.pool[_LAST], at)


@_jit
def _leave(state: State, token: int) -> None:
    at = state.when[token]
    state.below[token], state.left[at] = state.left[at], token
    state.inside[token] = False


@_jit
def _wanted(state: State, at: int) -> bool:
    """Whether a step could make use of one more hit, beside those of items still to have an event."""
    return state.held[at] < state.target[at] - state.coming[at]


@_jit
def _fits(state: State, step: int, at: int) -> bool:
    """Whether an item read next `at` fits in, in place of one that is read later if need be."""
    pool = state.pool
    while pool[_LAST] > step and state.held[pool[_LAST]] == 0:
        pool[_LAST] -= 1
    return pool[_SIZE] < pool[_QUOTA] or at < pool[_LAST]


@_jit
def _enter(state: State, step: int, token: int, counts: Ints) -> None:
    """Let an item in, and the one that is read last out if there is no room."""
    if state.pool[_SIZE] >= state.pool[_QUOTA]:
        last = state.pool[_LAST]
        victim = state.kept[last]
        state.kept[last] = state.below[victim]
        state.held[last] -= 1
        state.pool[_SIZE] -= 1
        _leave(state, victim)
        if state.entered[victim] == step:
            counts[UP] -= 1
            counts[UNREAD] -= int(state.unread[victim])
        else:
            state.dropped[victim] = step
    if state.dropped[token] != step:  # else it never went
        state.entered[token] = step
        state.unread[token] = state.seen[token] != step
        counts[UP] += 1
        counts[UNREAD] += int(state.unread[token])
    _join(state, token)


@_jit
def _read(state: State, step: int, token: int) -> None:
    """Find out when an item that is read or born now is read next."""
    state.when[token] = next_read(state.turned, token, step + 1, len(state.target) - 1)
    state.coming[state.when[token]] -= 1
    state.seen[token] = step


@_jit
def _prefetch(state: State, step: int, budget: int, counts: Ints) -> None:
    """Bring in what the next steps could make use of, as far as that costs nothing."""
    at = step + 1
    while budget > 0 and at < len(state.target) - 1 and _fits(state, step, at):
        token = state.left[at]
        if token < 0 or not _wanted(state, at):
            at += 1
            continue
        state.left[at] = state.below[token]
        before = counts[UNREAD]
        _enter(state, step, token, counts)
        budget -= max(counts[UNREAD] - before, 0)


@_jit
def play(state: State, rows: Words, prefill: int, spare: Ints, counts: Ints, after: Bytes) -> None:
    """Play all steps.

    Parameters
    ----------
    rows
        The layer's reads, (steps, words).
    spare
        Reads that tier 1 can serve in each step at no cost; negative where nothing may be prefetched.
    counts
        To be filled, (steps, 5).
    after
        Bits of who is in tier 0 after each slot, (steps, bytes), to be filled unless it has no rows.
    """
    now = np.empty(len(state.when), np.int64)
    was = np.empty(len(state.when), np.bool_)
    for step in range(len(rows)):
        count, born = _decode(rows[step], prefill + step, now), prefill + step
        state.pool[_SIZE] -= state.held[step]
        state.held[step], state.kept[step], state.left[step] = 0, -1, -1
        now[count] = born
        for n in range(count + 1):
            was[n] = state.inside[now[n]]
            _read(state, step, now[n])
        for n in range(count):
            token = now[n]
            if was[n]:
                counts[step, HITS] += 1
                if state.when[token] < len(rows) and _wanted(state, state.when[token]):
                    _join(state, token)
                else:
                    state.dropped[token] = step
                    _leave(state, token)
        for n in range(count + 1):
            token = now[n]
            if not was[n]:
                at = state.when[token]
                if at < len(rows) and _wanted(state, at) and _fits(state, step, at):
                    _enter(state, step, token, counts[step])
                else:
                    _leave(state, token)
        _prefetch(state, step, spare[step] - (count - counts[step, HITS]), counts[step])
        counts[step, BORN], counts[step, HELD] = int(state.inside[born]), state.pool[_SIZE]
        if len(after):
            for token in range(born + 1):
                if state.inside[token]:
                    after[step, token >> 3] |= np.uint8(1 << (token & 7))
