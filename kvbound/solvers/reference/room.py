"""Room for blocks, for brute force: which states fit, and where the prompt goes if a rule says so."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from kvbound.errors import InfeasibleError
from kvbound.instance import Instance
from kvbound.solvers.reference.blocks import Block, chunks_of

Ints = NDArray[np.int64]


def existing(blocks: list[Block], step: int) -> list[int]:
    """Return the numbers of the blocks that take up room after a step, or at the start for step -1."""
    return [number for number, block in enumerate(blocks) if block.exists(step)]


def tiers_of_states(instance: Instance, blocks: int) -> Ints:
    """Tier of each block in each state of a layer, ``(states, blocks)``."""
    states = np.arange(instance.tiers**blocks)
    return states[:, None] // instance.tiers ** np.arange(blocks) % instance.tiers


def fits(instance: Instance, blocks: list[list[Block]], held: list[list[int]]) -> NDArray[np.bool_]:
    """Which joint states of the blocks held in each layer respect every capacity; one axis per layer."""
    shape = [instance.tiers ** len(numbers) for numbers in held]
    fits = np.ones(shape, dtype=bool)
    for k, free in enumerate(free_bytes(instance)):
        if free == math.inf:
            continue
        size = np.zeros(shape, dtype=np.int64)
        for layer, numbers in enumerate(held):
            copies_all = instance.inclusive and k == instance.tiers - 1
            sizes = np.array([block_bytes(instance, layer, k, blocks[layer][n]) for n in numbers], np.int64)
            inside = (
                np.ones((1, len(numbers))) if copies_all else tiers_of_states(instance, len(numbers)) == k
            )
            bytes_in_k = inside.astype(np.int64) @ sizes
            size += bytes_in_k.reshape([-1 if axis == layer else 1 for axis in range(len(held))])
        fits &= size <= free
    return fits


def free_bytes(instance: Instance) -> list[float]:
    """Bytes of each tier that blocks may take, infinite without a limit."""
    sizes = [math.inf if tier.capacity is None else int(tier.capacity) for tier in instance.memory.tiers]
    resident = int(instance.llm.weight_bytes) - sum(
        sum(chunks_of(instance, layer)) * instance.granularity * size
        for layer, size in enumerate(instance.llm.kv_sizes)
    )
    return [size - (0 if k else resident) for k, size in enumerate(sizes)]


def block_bytes(instance: Instance, layer: int, tier: int, block: Block) -> int:
    """Bytes that a block of a layer takes in a tier."""
    sizes = instance.formats.get(instance.memory.tiers[tier].name, instance.llm.kv_sizes)
    return (block.chunk or 1) * instance.granularity * (sizes[layer] if isinstance(sizes, tuple) else sizes)


def prefill_first(instance: Instance, blocks: list[list[Block]], held: list[list[int]]) -> tuple[int, ...]:
    """State of the prompt filled block by block, layer by layer, into the fastest tier with room for each."""
    free = free_bytes(instance)
    if instance.inclusive:
        free[-1] = math.inf  # it has copies of all blocks, which `fits` counts
    state = [0] * instance.layers
    first = {block.tokens[0] for of_layer in blocks for block in of_layer}
    for head in sorted(first):
        for layer, numbers in enumerate(held):
            number = next((n for n in numbers if blocks[layer][n].tokens[0] == head), None)
            if number is None:
                continue
            block = blocks[layer][number]
            sizes = [block_bytes(instance, layer, k, block) for k in range(instance.tiers)]
            open_tiers = [k for k, size in enumerate(sizes) if size <= free[k]]
            if not open_tiers:
                raise InfeasibleError(f"{instance.name}: the prompt does not fit into the tiers")
            free[open_tiers[0]] -= sizes[open_tiers[0]]
            state[layer] += open_tiers[0] * instance.tiers ** numbers.index(number)
    return tuple(state)
