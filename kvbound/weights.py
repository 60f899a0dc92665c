"""Weights as items: the chunks of each layer's weights, which may be in any tier and move like KV.

A chunk counts as a token of the prompt, as large as a whole number of the layer's blocks. Every slot of its
layer reads it, unless it is an expert and the trace names experts: then only slots that name it do. Chunks
have the lowest ids; the tokens follow at a multiple of 64, so that the rows of a trace only shift by whole
words.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from kvbound.errors import InputError
from kvbound.llm.model import Llm
from kvbound.trace import Trace, bits
from kvbound.trace.experts import unpack
from kvbound.trace.timeline import Timeline

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

MAX_CHUNKS = 4096
"""Chunks of a layer."""


@dataclass(frozen=True, eq=False)
class Chunks:
    """The chunks of all layers.

    Attributes
    ----------
    blocks
        Size of each chunk in blocks of its layer's KV, shape (layers, chunks); 0 where there is none. The
        experts of a layer come last, in the order of their numbers.
    experts
        How many of each layer's chunks are experts, read only by the slots that name them, shape (layers,).
    """

    blocks: Ints
    experts: Ints

    @classmethod
    def of(cls, llm: Llm, granularity: int, *, routed: bool = False) -> Chunks:
        """Divide the weights that each layer reads into chunks.

        What is left of a layer's weights, or of an expert, and makes up less than a block of its KV stays
        resident in tier 0.

        Parameters
        ----------
        routed
            Whether the trace names experts: then each is a chunk, and only the other weights are divided.

        Raises
        ------
        InputError
            There are too many chunks, a layer keeps no KV, or the weights are less than what is read.
        """
        if llm.weights != "placeable":
            return cls(np.zeros((llm.layers, 0), np.int64), np.zeros(llm.layers, np.int64))
        if not all(llm.kv_sizes):
            expected = "'resident', as some layers keep no KV, in whose blocks weights are counted"
            raise InputError(f"llm {llm.name!r}", "weights", expected)
        sizes, experts = [], _expert_blocks(llm, granularity) if routed else [(0, 0)] * llm.layers
        for layer, ((count, size), kv) in enumerate(zip(experts, llm.kv_sizes, strict=True)):
            block, read = granularity * kv, int(_other_reads(llm, layer, routed=routed))
            whole = read // block
            most = max((llm.weight_chunk_bytes or read) // block, 1)
            if whole > (MAX_CHUNKS - count) * most:
                least = -(-whole // (MAX_CHUNKS - count)) * block
                expected = f"at least {least:,} bytes: {MAX_CHUNKS:,} chunks in a layer"
                raise InputError(f"llm {llm.name!r}", "weight_chunk_bytes", expected)
            sizes.append([most] * (whole // most) + [whole % most] * (whole % most > 0) + [size] * count)
        blocks = np.zeros((llm.layers, max(map(len, sizes))), np.int64)
        for row, each in zip(blocks, sizes, strict=True):
            row[: len(each)] = each
        made = cls(blocks, np.array([count for count, _ in experts], np.int64))
        if (needed := int(made.bytes(llm, granularity).sum())) > llm.weight_bytes:
            what = "all layers hold of experts and read of other weights" if routed else "all layers read"
            expected = f"at least the {needed:,} bytes that {what}, not {llm.weight_bytes:,}"
            raise InputError(f"llm {llm.name!r}", "weight_bytes", expected)
        return made

    def bytes(self, llm: Llm, granularity: int) -> Ints:
        """Return the bytes of each layer's chunks together, shape (layers,)."""
        return self.blocks.sum(axis=1) * granularity * np.array(llm.kv_sizes, np.int64)

    def resident_reads(self, llm: Llm, granularity: int) -> Floats:
        """Return the bytes of weights outside of chunks that each layer reads in every slot, shape (layers,).

        Of what is left of experts these are as many as `experts_read` counts.
        """
        if not self.experts.any():
            return llm.weight_reads - self.bytes(llm, granularity)
        reads = llm.weight_reads.tolist()
        for layer, count in enumerate(self.experts.tolist()):
            block = granularity * llm.kv_sizes[layer]
            others, size = int(self._others[layer].sum()), int(self.expert_blocks[layer])
            counted = Fraction(llm.experts_read) * size if count else 0
            reads[layer] = float(Fraction(reads[layer]) - (others + counted) * block)
        return np.array(reads)

    @property
    def largest(self) -> int:
        """Size of the largest block, chunk or not, in blocks of KV."""
        return int(self.blocks.max(initial=1))

    @cached_property
    def ids(self) -> int:
        """Ids before that of the first token: a multiple of 64, 0 if there are no chunks."""
        return 64 * -(-self.blocks.shape[1] // 64)

    @cached_property
    def exist(self) -> NDArray[np.bool_]:
        """Whether there is a chunk with each id in each layer, shape (layers, ids)."""
        exist = np.zeros((len(self.blocks), self.ids), np.bool_)
        exist[:, : self.blocks.shape[1]] = self.blocks > 0
        return exist

    @cached_property
    def first_expert(self) -> Ints:
        """Id of each layer's first expert, that after the last chunk if it has none, shape (layers,)."""
        return np.count_nonzero(self.blocks, axis=1) - self.experts

    @cached_property
    def expert_blocks(self) -> Ints:
        """Size of an expert in blocks of its layer's KV, shape (layers,); 0 where there is none."""
        return (self.blocks - self._others).max(axis=1, initial=0)

    @cached_property
    def _others(self) -> Ints:
        """`blocks` without those of experts."""
        return np.where(np.arange(self.blocks.shape[1]) < self.first_expert[:, None], self.blocks, 0)

    def blocks_read(self, experts: Sequence[NDArray[np.uint8]]) -> Ints:
        """Return the blocks that slots read in chunks, shape (steps, layers), or (1, layers) if all alike.

        Parameters
        ----------
        experts
            Packed experts that slots name, by layer, empty if none are named; see `kvbound.trace.Trace`.
        """
        if not experts:
            return self.blocks.sum(axis=1)[None]
        named = np.stack([bits.count(rows) for rows in experts], axis=1)
        return self._others.sum(axis=1) + named * self.expert_blocks

    def sizes(self, count: int, granularity: int = 1) -> Ints:
        """Return sizes of chunks followed by as many ones as make up `count`, shape (layers, count).

        Parameters
        ----------
        granularity
            Tokens per block, to count chunks in tokens rather than in blocks.
        """
        ones = np.broadcast_to(np.int64(1), (len(self.blocks), count))
        if not self.ids:
            return ones
        sizes = ones.copy()
        sizes[:, : self.ids] = 0
        sizes[:, : self.blocks.shape[1]] = granularity * self.blocks
        return sizes

    def timelines(self, tokens: tuple[Timeline, ...]) -> tuple[Timeline, ...]:
        """Return the births and ends in each layer with the chunks, given those of its tokens.

        Every chunk is a sequence of its own. Ids without a chunk end before the first step.
        """
        if not self.ids:
            return tokens
        known: dict[tuple[int, bytes], Timeline] = {}
        made = []
        for timeline, exist in zip(tokens, self.exist, strict=True):
            key = id(timeline), exist.tobytes()
            if key not in known:
                ends = np.concatenate([np.where(exist, timeline.steps, -1), timeline.ends])
                sequence = np.concatenate([np.arange(self.ids), self.ids + timeline.sequence])
                known[key] = dataclasses.replace(
                    timeline, prefill_tokens=self.ids + timeline.prefill_tokens, ends=ends, sequence=sequence
                )
            made.append(known[key])
        return tuple(made)

    def reads(self, experts: Sequence[NDArray[np.uint8]], layer: int, steps: int) -> NDArray[np.bool_]:
        """Return which chunks of a layer each step reads, shape (steps, ids); see also `blocks_read`."""
        read = np.broadcast_to(self.exist[layer], (steps, self.ids))
        if not experts or not self.experts[layer]:
            return read
        read, first, count = read.copy(), int(self.first_expert[layer]), int(self.experts[layer])
        read[:, first : first + count] = unpack(experts[layer], count)
        return read

    def trace(self, tokens: Trace, timeline: Timeline) -> Trace:
        """Return the reads of tokens and chunks; of each layer's rows a copy.

        Parameters
        ----------
        tokens
            The reads of tokens, and the experts that slots name.
        timeline
            Births and ends of tokens and chunks in any layer.
        """
        rows = [
            np.concatenate([bits.pack(self.reads(tokens.experts, layer, len(own))), own], axis=1)
            for layer, own in enumerate(tokens.rows)
        ]
        return Trace(timeline.prefill_tokens, tuple(rows), timeline=timeline)


def _expert_blocks(llm: Llm, granularity: int) -> list[tuple[int, int]]:
    """Return the number of experts of each layer and the blocks of each, 0 if they are smaller than one."""
    blocks = [size // (granularity * kv) for size, kv in zip(llm.expert_sizes, llm.kv_sizes, strict=True)]
    return [
        (count, size) if count and size else (0, 0)
        for count, size in zip(llm.expert_counts, blocks, strict=True)
    ]


def _other_reads(llm: Llm, layer: int, *, routed: bool) -> Fraction:
    """Return the bytes of weights that a layer reads, without experts if these are named."""
    read = Fraction(float(llm.weight_reads[layer]))
    if not routed or not llm.expert_counts[layer]:
        return read
    counted = Fraction(llm.experts_read) * llm.expert_sizes[layer]
    if counted > read:
        expected = f"experts of at most the {float(read):,.15g} bytes that layer {layer} reads"
        raise InputError(f"llm {llm.name!r}", "experts_read", f"{expected}, not {float(counted):,.15g}")
    return read - counted
