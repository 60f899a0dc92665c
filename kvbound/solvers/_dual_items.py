"""What the dual asks of items: the price of their best paths, and what these paths use."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kvbound.instance import Instance

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_NARROW = 16
"""Columns up to which they are added up one by one: a short last axis is summed several times slower."""

PROMPT, NOBODY = -1, -2
"""Birth steps of the prompt's tokens and of lanes that only fill a word."""


@dataclass(frozen=True, eq=False)
class Demand:
    """What items use on their best paths: the slope of the dual function.

    Attributes
    ----------
    used
        Items read, read without choice, and written, by tier: (3K, steps, layers).
    held
        Blocks in each tier at the start and after every slot, (K, 1 + steps * layers).
    """

    used: Floats
    held: Floats


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
        Step in which each block begins: PROMPT, or NOBODY for lanes that only fill a word; (layers, lanes).
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
        born = np.where(blocks < instance.blocks, born, NOBODY).astype(np.int32)
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


def limited(instance: Instance) -> Ints:
    """Tiers whose room can have a price: the last of inclusive ones holds everything anyway."""
    tiers = range(instance.tiers - instance.inclusive)
    return np.array([k for k in tiers if instance.room[k] is not None], np.int64)


class Items(Protocol):
    """Some items of an instance, ready to be priced again and again."""

    def evaluate(self, prices: Floats, capacity: Floats, demand: bool = True) -> tuple[float, Demand | None]:
        """Price the items' best paths.

        Parameters
        ----------
        prices
            Of every item read, read without choice, and written, by tier: (3K, steps, layers).
        capacity
            Of a block's room at the start and after every slot, (K, 1 + steps * layers).
        demand
            Whether to find out what the paths use as well.
        """
        ...


def holds(instance: Instance, capacity: Floats, layers: slice) -> tuple[Floats, Floats]:
    """Price a block's stay from one slot of its layer to the next.

    Returns
    -------
    After each slot (K, steps, layers), and from the start to the first slot (K, layers).
    """
    count, slots = instance.layers, instance.decode_steps * instance.layers
    sums = np.zeros((len(capacity), 1 + slots + count))
    np.cumsum(capacity, axis=1, out=sums[:, 1 : slots + 2])
    sums[:, slots + 2 :] = sums[:, slots + 1, None]  # nobody stays beyond the end
    stay = sums[:, 1 + count :] - sums[:, 1 : slots + 1]
    start = sums[:, 1 : count + 1]
    return stay.reshape(len(capacity), -1, count)[:, :, layers], start[:, layers]


def occupancy(instance: Instance, start: Floats, after: Floats, layers: slice) -> Floats:
    """Add up blocks by tier over layers.

    Parameters
    ----------
    start, after
        Blocks of each layer at the start (K, layers) and after its own slots (K, steps, layers).

    Returns
    -------
    Blocks at the start and after every slot, (K, 1 + steps * layers).
    """
    change = np.zeros((len(start), instance.decode_steps, instance.layers))
    change[:, :, layers] = np.diff(np.concatenate([start[:, None], after], axis=1), axis=1)
    first = start.sum(axis=1, keepdims=True)
    return np.concatenate([first, first + np.cumsum(change.reshape(len(start), -1), axis=1)], axis=1)


def forced_tiers(instance: Instance, block: Ints, layer: Ints) -> Ints:
    """Tier into which prefill-first puts blocks of the prompt, of any shape."""
    unlimited = instance.layers * instance.blocks
    room = np.array([unlimited if limit is None else limit for limit in instance.room[:-1]])
    return np.searchsorted(np.cumsum(room), block * instance.layers + layer, side="right")
