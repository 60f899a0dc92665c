"""Weights as items: the chunks of each layer's weights, which may be in any tier and move like KV.

A chunk counts as a token of the prompt that every slot of its layer reads, as large as a whole number of the
layer's blocks. Chunks have the lowest ids; the tokens follow at a multiple of 64, so that the rows of a trace
only shift by whole words.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from kvbound.errors import InputError
from kvbound.llm.model import Llm
from kvbound.trace import Trace
from kvbound.trace.timeline import Timeline

Ints = NDArray[np.int64]

MAX_CHUNKS = 4096
"""Chunks of a layer."""


@dataclass(frozen=True, eq=False)
class Chunks:
    """The chunks of all layers.

    Attributes
    ----------
    blocks
        Size of each chunk in blocks of its layer's KV, shape (layers, chunks); 0 where there is none.
    """

    blocks: Ints

    @classmethod
    def of(cls, llm: Llm, granularity: int) -> Chunks:
        """Divide the weights that each layer reads into chunks.

        What is left of a layer's weights and makes up less than a block of its KV stays resident in tier 0.

        Raises
        ------
        InputError
            There are too many chunks, a layer keeps no KV, or the weights are less than what is read.
        """
        if llm.weights != "placeable":
            return cls(np.zeros((llm.layers, 0), np.int64))
        if not all(llm.kv_sizes):
            expected = "'resident', as some layers keep no KV, in whose blocks weights are counted"
            raise InputError(f"llm {llm.name!r}", "weights", expected)
        sizes = []
        for read, kv in zip(llm.weight_reads.tolist(), llm.kv_sizes, strict=True):
            block = granularity * kv
            whole = int(read) // block
            most = max((llm.weight_chunk_bytes or int(read)) // block, 1)
            if whole > MAX_CHUNKS * most:
                expected = (
                    f"at least {-(-whole // MAX_CHUNKS) * block:,} bytes: {MAX_CHUNKS:,} chunks in a layer"
                )
                raise InputError(f"llm {llm.name!r}", "weight_chunk_bytes", expected)
            sizes.append([most] * (whole // most) + [whole % most] * (whole % most > 0))
        blocks = np.zeros((llm.layers, max(map(len, sizes))), np.int64)
        for row, each in zip(blocks, sizes, strict=True):
            row[: len(each)] = each
        made = cls(blocks)
        if (needed := int(made.bytes(llm, granularity).sum())) > llm.weight_bytes:
            expected = f"at least the {needed:,} bytes that all layers read, not {llm.weight_bytes:,}"
            raise InputError(f"llm {llm.name!r}", "weight_bytes", expected)
        return made

    def bytes(self, llm: Llm, granularity: int) -> Ints:
        """Return the bytes of each layer's chunks together, shape (layers,)."""
        return self.blocks.sum(axis=1) * granularity * np.array(llm.kv_sizes, np.int64)

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

    def trace(self, tokens: Trace, timeline: Timeline) -> Trace:
        """Return the reads of tokens and chunks; of each layer's rows a copy.

        Parameters
        ----------
        tokens
            The reads of tokens.
        timeline
            Births and ends of tokens and chunks in any layer.
        """
        rows = []
        for layer, exist in zip(tokens.rows, self.exist, strict=True):
            read = np.broadcast_to(np.packbits(exist, bitorder="little"), (len(layer), self.ids // 8))
            rows.append(np.concatenate([read, layer], axis=1))
        return Trace(timeline.prefill_tokens, tuple(rows), timeline=timeline)
