"""Reads turned round: of every token the steps that read it, as bits, so that its next read is soon found.

Without numba the same lines run as Python.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from kvbound.instance import Instance
from kvbound.kernels import compiled

Words = NDArray[np.uint64]
Ints = NDArray[np.int64]


def transposed_reads(instance: Instance) -> Words:
    """Return the reads turned round; see `turn`."""
    shape = instance.layers, -(-instance.decode_steps // 64), instance.tokens
    turned = np.zeros(shape, np.uint64)

    def one(layer: int) -> None:
        transpose(instance.trace.words(layer), instance.prefill_tokens, turned[layer])

    with ThreadPoolExecutor() as pool:
        list(pool.map(one, range(instance.layers)))
    return turned


@compiled()
def transpose(rows: Words, prefill: int, turned: Words) -> None:
    """Turn rows (steps, words) round: bits of the steps that read each token, (ceil(steps / 64), tokens).

    A step's read of its own token is left out.
    """
    now = np.empty(turned.shape[1], np.int64)
    for step in range(len(rows)):
        bit = np.uint64(1) << np.uint64(step & 63)
        for n in range(decode(rows[step], prefill + step, now)):
            turned[step >> 6, now[n]] |= bit


@compiled()
def decode(words: Words, before: int, now: Ints) -> int:
    """List the tokens that are set in a row and below `before`; return how many."""
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


@compiled()
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
    return step + lowest(bits)


@compiled()
def lowest(bits: np.uint64) -> int:
    """Position of the lowest bit that is set."""
    at = 0
    for shift in (32, 16, 8, 4, 2, 1):
        if bits << np.uint64(64 - shift) == 0:  # the lowest bits are all clear
            bits >>= np.uint64(shift)
            at += shift
    return at


@compiled()
def last_read(turned: Words, token: int, step: int) -> int:
    """Last step before `step` that reads a token, or -1."""
    step -= 1
    if step < 0:
        return -1
    chunk = step >> 6
    bits = turned[chunk, token] << np.uint64(63 - (step & 63))
    while bits == 0:
        chunk -= 1
        if chunk < 0:
            return -1
        bits = turned[chunk, token]
        step = 64 * chunk + 63
    for shift in (32, 16, 8, 4, 2, 1):
        if bits >> np.uint64(64 - shift) == 0:  # the highest bits are all clear
            bits <<= np.uint64(shift)
            step -= shift
    return step


@compiled()
def first_reads(turned: Words, prefill: int, steps: int) -> Ints:
    """First step that reads each token of the prompt, or `steps`."""
    first = np.empty(prefill, np.int64)
    for token in range(prefill):
        first[token] = next_read(turned, token, 0, steps)
    return first
