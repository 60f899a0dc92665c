"""Reads by token: for every token the steps that read it, as bits, so that its next read is found quickly.

The functions are compiled where numba is installed; without numba the same lines run as Python.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from kvbound.instance import Instance
from kvbound.kernels import compiled

Words = NDArray[np.uint64]
Ints = NDArray[np.int64]

_ALL = np.uint64(2**64 - 1)
_HALVES = tuple((width, np.uint64(int(_ALL) // (2**width + 1))) for width in (32, 16, 8, 4, 2, 1))
"""Sizes of the quarters that change places, and a mask of the lower half of every two of them."""


def transposed_reads(instance: Instance) -> Words:
    """Return the reads by token, (layers, ceil(steps / 64), tokens); see `transpose`."""
    shape = instance.layers, -(-instance.decode_steps // 64), instance.tokens
    by_token, past = np.empty(shape, np.uint64), instance.timeline.past[:-1]

    def transpose_layer(layer: int) -> None:
        transpose(instance.trace.words(layer), past, by_token[layer])

    with ThreadPoolExecutor() as pool:
        list(pool.map(transpose_layer, range(instance.layers)))
    return by_token


@compiled()
def transpose(rows: Words, past: Ints, by_token: Words) -> None:
    """Transpose rows (steps, words) into bits of the steps that read each token.

    Parameters
    ----------
    past
        Tokens born before each step, (steps,): the bits of others, such as those born in the step, are left
        out.
    by_token
        (ceil(steps / 64), tokens); filled in.
    """
    tokens, block = by_token.shape[1], np.empty(64, np.uint64)
    for chunk in range(len(by_token)):
        first = 64 * chunk
        count = min(64, len(rows) - first)
        for word in range(-(-tokens // 64)):
            block[:] = 0
            for n in range(count):
                known = past[first + n] - 64 * word
                if known > 0:
                    block[n] = rows[first + n, word] & (_ALL >> np.uint64(max(64 - known, 0)))
            _transpose_block(block)
            for n in range(min(64, tokens - 64 * word)):
                by_token[chunk, 64 * word + n] = block[n]


@compiled()
def _transpose_block(block: Words) -> None:
    """Transpose 64 words as a matrix of bits, in place: quarters change places, at every size down to 1."""
    for width, mask in _HALVES:
        for n in range(64):
            if not n & width:
                swap = (block[n] >> np.uint64(width) ^ block[n + width]) & mask
                block[n + width] ^= swap
                block[n] ^= swap << np.uint64(width)


@compiled()
def list_tokens(words: Words, before: int, tokens: Ints) -> int:
    """List the tokens below `before` whose bits are set in a row; return how many there are."""
    count = 0
    for n in range(len(words)):
        bits, token = words[n], 64 * n
        while bits != 0 and token < before:
            if bits & np.uint64(1):
                tokens[count] = token
                count += 1
            bits >>= np.uint64(1)
            token += 1
    return count


@compiled()
def next_read(by_token: Words, token: int, step: int, steps: int) -> int:
    """First step from `step` on that reads a token, or `steps`."""
    chunk = step >> 6
    if chunk >= len(by_token):
        return steps
    bits = by_token[chunk, token] >> np.uint64(step & 63)
    while bits == 0:
        chunk += 1
        if chunk == len(by_token):
            return steps
        bits = by_token[chunk, token]
        step = 64 * chunk
    return step + lowest_bit(bits)


@compiled()
def lowest_bit(bits: np.uint64) -> int:
    """Position of the lowest bit set in a word that is not 0."""
    position = 0
    for shift in (32, 16, 8, 4, 2, 1):
        if bits << np.uint64(64 - shift) == 0:  # the lowest bits are all clear
            bits >>= np.uint64(shift)
            position += shift
    return position


@compiled()
def last_read(by_token: Words, token: int, step: int) -> int:
    """Last step before `step` that reads a token, or -1."""
    step -= 1
    if step < 0:
        return -1
    chunk = step >> 6
    bits = by_token[chunk, token] << np.uint64(63 - (step & 63))
    while bits == 0:
        chunk -= 1
        if chunk < 0:
            return -1
        bits = by_token[chunk, token]
        step = 64 * chunk + 63
    for shift in (32, 16, 8, 4, 2, 1):
        if bits >> np.uint64(64 - shift) == 0:  # the highest bits are all clear
            bits <<= np.uint64(shift)
            step -= shift
    return step


@compiled()
def first_reads(by_token: Words, prefill: int, steps: int) -> Ints:
    """First step that reads each token of the prompt, or `steps`, (prefill,)."""
    first = np.empty(prefill, np.int64)
    for token in range(prefill):
        first[token] = next_read(by_token, token, 0, steps)
    return first
