"""The blocks of a layer, with its chunks of weights, for brute force: worked out apart from other methods."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from kvbound.instance import Instance
from kvbound.rules import Windows


@dataclass(frozen=True)
class Block:
    """A block: tokens of one sequence that move together, or a chunk of weights."""

    tokens: list[int]  # their ids, or that of the chunk
    born: list[int]  # step of each token's birth, -1 in the prompt
    ends: list[int]  # last step in which each token exists
    chunk: int = 0  # size of a chunk of weights in blocks of tokens

    def exists(self, step: int) -> bool:
        """Whether the block takes up room after a step, or at the start for step -1."""
        return self.born[0] <= step < max(self.ends)


def blocks_of(instance: Instance, layer: int) -> list[Block]:
    """Return the blocks of a layer, in the order of their first tokens."""
    timeline, steps = instance.workload.timeline, instance.decode_steps
    born = [-1] * timeline.prefill_tokens
    for step, count in enumerate(timeline.births.tolist()):
        born += [step] * count
    blocks: list[Block] = []
    open_blocks: dict[int, Block] = {}
    for token, (sequence, end) in enumerate(
        zip(timeline.sequence.tolist(), timeline.ends.tolist(), strict=True)
    ):
        block = open_blocks.get(sequence)
        if block is None or len(block.tokens) == instance.granularity:
            block = open_blocks[sequence] = Block([], [], [])
            blocks.append(block)
        block.tokens.append(token)
        block.born.append(born[token])
        block.ends.append(min(end, steps))
    if instance.rules.windows is Windows.ENDS and (window := instance.llm.windows[layer]) is not None:
        for block in blocks:
            for n, token in enumerate(block.tokens):
                later = np.flatnonzero(timeline.sequence[token:] == timeline.sequence[token]) + token
                if len(later) >= window:  # the last token that still sees this one is `window` - 1 further
                    block.ends[n] = min(block.ends[n], born[later[window - 1]])
    for block in blocks:
        block.tokens[:] = [instance.tokens - timeline.tokens + token for token in block.tokens]
    chunks = chunks_of(instance, layer)
    return [Block([number], [-1], [steps], size) for number, size in enumerate(chunks)] + blocks


def chunks_of(instance: Instance, layer: int) -> list[int]:
    """Return the sizes of a layer's chunks of weights, in blocks of tokens, those of experts last."""
    llm = instance.llm
    if llm.weights == "resident":
        return []
    block, experts = instance.granularity * llm.kv_sizes[layer], _experts(instance, layer)
    left = int(llm.weight_reads[layer])
    if instance.workload.experts and llm.expert_counts[layer]:
        left = math.floor(
            Fraction(float(llm.weight_reads[layer])) - Fraction(llm.experts_read) * llm.expert_sizes[layer]
        )
    most = max((llm.weight_chunk_bytes or left) // block, 1)
    sizes = []
    while left >= block:
        sizes.append(min(most, left // block))
        left -= sizes[-1] * block
    return sizes + experts


def _experts(instance: Instance, layer: int) -> list[int]:
    """Return the sizes of a layer's experts in blocks of tokens, if the trace names experts."""
    if not instance.workload.experts:
        return []
    size = instance.llm.expert_sizes[layer] // (instance.granularity * instance.llm.kv_sizes[layer])
    return [size] * instance.llm.expert_counts[layer] if size else []


def resident_reads(instance: Instance, layer: int) -> float:
    """Return the bytes of weights that every slot of a layer reads from tier 0."""
    experts, chunks = _experts(instance, layer), chunks_of(instance, layer)
    blocks = sum(chunks[: len(chunks) - len(experts)]) + Fraction(instance.llm.experts_read) * max(
        experts, default=0
    )
    block = instance.granularity * instance.llm.kv_sizes[layer]
    return float(Fraction(float(instance.llm.weight_reads[layer])) - blocks * block)
