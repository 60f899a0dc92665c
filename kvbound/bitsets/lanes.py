"""Packed reads of some layers, block by block: which steps read which tokens, all layers side by side."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvbound.instance import Instance
from kvbound.trace import bits

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Words = NDArray[np.uint64]

PROMPT, PADDING = -1, -2
"""Birth steps of blocks that the prompt begins, and of lanes without a block."""

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
        Reads of the blocks' tokens, block after block, (steps, layers, words), bits as in a trace; reads of
        tokens born in the same step are left out.
    blocks
        Number of the block in each lane, (layers, lanes).
    born
        Step in which each block begins, PROMPT or PADDING, (layers, lanes).
    last
        Last step in which each block exists, the number of steps for those that stay, (layers, lanes).
    begin, end
        Birth step and last step of the token of each bit, the number of steps for bits without a token and
        for tokens that stay, (layers, bits).
    units, counts
        Units that each block takes, and items that a token of it counts as, (layers, lanes).
    weight
        Number of blocks that a lane stands for.
    reads
        Reads of all lanes, times the weight, (steps, layers).
    """

    layers: slice
    rows: Words
    blocks: Ints
    born: NDArray[np.int32]
    last: NDArray[np.int32]
    begin: NDArray[np.int32]
    end: NDArray[np.int32]
    units: Ints
    counts: Ints
    weight: np.float64
    reads: Floats

    @classmethod
    def of(cls, instance: Instance, layers: slice, offsets: Ints, stride: int = 1) -> Lanes:
        """Take every stride-th span of every layer, each layer from its own offset on.

        A span is as many blocks as fill whole words of a trace's rows.
        """
        count = -(-count_spans(instance) // stride)
        return cls._of(instance, layers, offsets[layers, None] + stride * np.arange(count), np.float64(1))

    @classmethod
    def all_of(cls, instance: Instance, layers: slice) -> Lanes:
        """Take all blocks of some layers."""
        return cls.of(instance, layers, np.zeros(instance.layers, np.int64))

    @classmethod
    def sample(cls, instance: Instance, stride: int, generator: np.random.Generator) -> Lanes:
        """Draw about one span in `stride` of every layer, evenly spread, each with the same probability."""
        spans = count_spans(instance)
        count = max(round(spans / stride), 1)
        first = generator.integers(spans, size=(instance.layers, 1))
        drawn = (first + spans * np.arange(count) // count) % spans
        return cls._of(instance, slice(None), np.sort(drawn, axis=1), np.float64(spans / count))

    @classmethod
    def _of(cls, instance: Instance, layers: slice, spans: Ints, weight: np.float64) -> Lanes:
        """Take spans of some layers, (layers, spans), ascending; spans beyond the last are padding."""
        size, steps, timeline = instance.granularity, instance.decode_steps, instance.timeline
        chosen = range(instance.layers)[layers]
        span = _span(instance)
        places = (spans[:, :, None] * span + np.arange(span)).reshape(len(chosen), -1)
        blocks = places[:, ::size] // size
        known, tokens = np.minimum(blocks, instance.blocks), _tokens(instance, places)
        born = np.append(instance.grouping.born, PADDING)[known].astype(np.int32)
        begin = np.append(timeline.born, steps)[tokens].astype(np.int32)
        last, end = np.empty_like(born), np.empty_like(begin)
        units, counts = np.empty((2, *born.shape), np.int64)
        of_head = instance.id_counts[:, instance.grouping.head] if instance.chunks.ids else None
        for n, layer in enumerate(chosen):
            last[n] = np.append(instance.grouping.last[layer], PADDING)[known[n]]
            end[n] = np.append(instance.timelines[layer].ends, steps)[tokens[n]]
            units[n] = np.append(instance.block_units[layer], 0)[known[n]]
            counts[n] = 1 if of_head is None else np.append(of_head[layer], 0)[known[n]]
        born[last < 0] = PADDING  # blocks outside the layer's window from the start
        rows = np.zeros((steps, len(chosen), places.shape[1] // 64), "<u8")
        for n, layer in enumerate(chosen):
            if instance.grouping.contiguous:
                _take_words(instance.trace.words(layer), places[n, ::64] // 64, rows[:, n])
            else:
                _take_bits(instance.trace.rows[layer], tokens[n], rows[:, n])
            _clear_own_reads(rows[:, n], begin[n])
        reads = count_bits(rows)
        if of_head is not None:  # a read of a chunk of weights is one bit, but not one item
            at, lane = np.nonzero((blocks < instance.chunks.ids) & (counts > 1))
            word, bit = lane * size >> 6, (lane * size & 63).astype(np.uint64)
            read = (rows[:, at, word] >> bit & np.uint64(1)).astype(np.int64)
            np.add.at(reads.T, at, (read * (counts[at, lane] - 1)).T)
        return cls(layers, rows, blocks, born, last, begin, end, units, counts, weight, reads * weight)


def _tokens(instance: Instance, places: Ints) -> Ints:
    """Return the token at each place, numbered block after block; the number of tokens if there is none."""
    blocks = instance.grouping
    if blocks.contiguous:
        return np.minimum(places, instance.tokens)
    members = np.where(blocks.members < 0, instance.tokens, blocks.members).ravel()
    return np.append(members, instance.tokens)[np.minimum(places, members.size)]


def _take_words(trace: Words, words: Ints, rows: Words) -> None:
    """Copy words of a trace, (steps, words), by their ascending numbers, as far as the trace has them."""
    present = np.searchsorted(words, trace.shape[1])
    complete = present == trace.shape[1]
    rows[:, :present] = trace[:, slice(present) if complete else words[:present]]


def _take_bits(trace: NDArray[np.uint8], tokens: Ints, rows: Words) -> None:
    """Copy the bits of some tokens of a trace, zero beyond its tokens."""
    known = tokens < 8 * trace.shape[1]
    byte, bit = np.where(known, tokens >> 3, 0), (tokens & 7).astype(np.uint8)
    for block in bits.blocks(len(trace)):
        read = trace[block].take(byte, axis=1)
        read >>= bit
        read &= known
        rows[block] = bits.pack(read).view("<u8")


def _clear_own_reads(rows: Words, begin: NDArray[np.int32]) -> None:
    """Clear in rows (steps, words) of some tokens the bits of those that are born in the row's own step."""
    lane = np.flatnonzero((begin >= 0) & (begin < len(rows)))
    clear = ~(np.uint64(1) << (lane & 63).astype(np.uint64))
    np.bitwise_and.at(rows, (begin[lane], lane >> 6), clear)


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
    """Tokens of a span: whole blocks and whole words, but no more than a row has."""
    return min(math.lcm(instance.granularity, 64), 64 * -(-_places(instance) // 64))


def _places(instance: Instance) -> int:
    """Number of places for tokens, block after block."""
    blocks = instance.grouping
    return instance.tokens if blocks.contiguous else blocks.count * blocks.size


def count_spans(instance: Instance) -> int:
    """Spans of a layer, the last of which may not be full."""
    return -(-_places(instance) // _span(instance))
