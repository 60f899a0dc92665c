"""Blocks of some layers side by side as bits: who is read in which step."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvbound.instance import Instance

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_NARROW = 16
"""Columns up to which they are added up one by one: a short last axis is summed several times slower."""


PROMPT, PADDING = -1, -2
"""Birth steps of the prompt's tokens and of lanes that only fill a word."""


@dataclass(frozen=True, eq=False)
class Lanes:
    """Blocks of some layers side by side, and who of them is read when.

    Attributes
    ----------
    layers
        Which layers they belong to.
    rows
        Reads of the blocks' tokens, block after block, (steps, layers, words), bits as in a trace; no
        token reads itself.
    blocks
        Number of each block, (layers, lanes).
    born
        Step in which each block begins: PROMPT, or PADDING for lanes that only fill a word; (layers, lanes).
    weight
        Blocks that a lane stands for.
    reads
        What all lanes read, times the weight, (steps, layers).
    """

    layers: slice
    rows: NDArray[np.uint64]
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
    def sample(cls, instance: Instance, stride: int, generator: np.random.Generator) -> Lanes:
        """Draw about one unit in `stride` of every layer, evenly spread, each with the same chance."""
        units = count_units(instance)
        count = max(round(units / stride), 1)
        first = generator.integers(units, size=(instance.layers, 1))
        drawn = (first + units * np.arange(count) // count) % units
        return cls._of(instance, slice(None), np.sort(drawn, axis=1), np.float64(units / count))

    @classmethod
    def _of(cls, instance: Instance, layers: slice, units: Ints, weight: np.float64) -> Lanes:
        """Take units of some layers, (layers, units), upwards; those beyond the last one are empty."""
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
            there = np.searchsorted(words[n], trace.shape[1])
            whole = there == trace.shape[1]
            rows[:, n, :there] = trace[:, slice(there) if whole else words[n, :there]]
            lane = np.flatnonzero((tokens[n] >= prefill) & (tokens[n] < instance.tokens))
            clear = ~(np.uint64(1) << (lane & 63).astype(np.uint64))
            rows[tokens[n, lane] - prefill, n, lane >> 6] &= clear
        return cls(layers, rows, blocks, born, weight, count_bits(rows) * weight)


def count_bits(words: NDArray[np.uint64]) -> Ints:
    """Count the bits set along the last axis."""
    counts = np.bitwise_count(words)
    if counts.shape[-1] > _NARROW:
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


def limited_tiers(instance: Instance) -> Ints:
    """Tiers whose room can have a price: the last of inclusive ones holds everything anyway."""
    tiers = range(instance.tiers - instance.inclusive)
    return np.array([k for k in tiers if instance.capacity_blocks[k] is not None], np.int64)


def supports(instance: Instance) -> bool:
    """Whether the instance's items are of this kind."""
    return instance.inclusive and instance.tiers == 2 and instance.granularity == 1
