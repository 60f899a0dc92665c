"""Packed reads of some layers, block by block: which steps read which tokens, all layers side by side."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvbound.instance import Instance

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Words = NDArray[np.uint64]

PROMPT, PADDING = -1, -2
"""Birth steps of blocks that the prompt begins, and of lanes that only fill up a word."""

_SHORT_AXIS = 16
"""Words up to which columns are added one by one: NumPy sums a short last axis several times slower."""


@dataclass(frozen=True, eq=False)
class Lanes:
    """Blocks of some layers, one to a lane, and the reads of their tokens.

    Attributes
    ----------
    layers
        The layers that the blocks belong to.
    rows
        Reads of the blocks' tokens, block after block, (steps, layers, words), bits as in a trace; the read
        of a step's own token is left out.
    blocks
        Number of the block in each lane, (layers, lanes).
    born
        Step in which each block begins, PROMPT or PADDING, (layers, lanes).
    weight
        Number of blocks that a lane stands for.
    reads
        Reads of all lanes, times the weight, (steps, layers).
    """

    layers: slice
    rows: Words
    blocks: Ints
    born: NDArray[np.int32]
    weight: np.float64
    reads: Floats

    @classmethod
    def of(cls, instance: Instance, layers: slice, offsets: Ints, stride: int = 1) -> Lanes:
        """Take every stride-th unit of every layer, each layer from its own offset on.

        A unit is as many blocks as fill whole words of a trace's rows.
        """
        count = -(-count_units(instance) // stride)
        return cls._of(instance, layers, offsets[layers, None] + stride * np.arange(count), np.float64(1))

    @classmethod
    def all_of(cls, instance: Instance, layers: slice) -> Lanes:
        """Take all blocks of some layers."""
        return cls.of(instance, layers, np.zeros(instance.layers, np.int64))

    @classmethod
    def sample(cls, instance: Instance, stride: int, generator: np.random.Generator) -> Lanes:
        """Draw about one unit in `stride` of every layer, evenly spread, each with the same probability."""
        units = count_units(instance)
        count = max(round(units / stride), 1)
        first = generator.integers(units, size=(instance.layers, 1))
        drawn = (first + units * np.arange(count) // count) % units
        return cls._of(instance, slice(None), np.sort(drawn, axis=1), np.float64(units / count))

    @classmethod
    def _of(cls, instance: Instance, layers: slice, units: Ints, weight: np.float64) -> Lanes:
        """Take units of some layers, (layers, units), ascending; units beyond the last are padding."""
        size, steps, prefill = instance.granularity, instance.decode_steps, instance.prefill_tokens
        chosen = range(instance.layers)[layers]
        span = _span(instance)
        tokens = (units[:, :, None] * span + np.arange(span)).reshape(len(chosen), -1)
        blocks = tokens[:, ::size] // size
        born = np.maximum(blocks * size - prefill, PROMPT)
        born = np.where(blocks < instance.blocks, born, PADDING).astype(np.int32)
        words = tokens[:, ::64] // 64
        rows = np.zeros((steps, *words.shape), "<u8")
        for n, layer in enumerate(chosen):
            trace = instance.trace.words(layer)
            present = np.searchsorted(words[n], trace.shape[1])
            complete = present == trace.shape[1]
            rows[:, n, :present] = trace[:, slice(present) if complete else words[n, :present]]
            _clear_own_reads(rows[:, n], tokens[n], instance)
        return cls(layers, rows, blocks, born, weight, count_bits(rows) * weight)


def _clear_own_reads(rows: Words, tokens: Ints, instance: Instance) -> None:
    """Clear the bits of each step's own token in rows (steps, words) of some tokens."""
    lane = np.flatnonzero((tokens >= instance.prefill_tokens) & (tokens < instance.tokens))
    rows[tokens[lane] - instance.prefill_tokens, lane >> 6] &= ~(
        np.uint64(1) << (lane & 63).astype(np.uint64)
    )


def count_bits(words: Words) -> Ints:
    """Count the bits set along the last axis."""
    counts = np.bitwise_count(words)
    if counts.shape[-1] > _SHORT_AXIS:
        return counts.sum(axis=-1, dtype=np.int64)
    total = np.zeros(counts.shape[:-1], np.int64)
    for column in np.moveaxis(counts, -1, 0):
        total += column
    return total


def _span(instance: Instance) -> int:
    """Tokens of a unit: whole blocks and whole words, but no more than a row has."""
    return min(math.lcm(instance.granularity, 64), 64 * -(-instance.tokens // 64))


def count_units(instance: Instance) -> int:
    """Units of a layer, the last of which may not be full."""
    return -(-instance.tokens // _span(instance))
