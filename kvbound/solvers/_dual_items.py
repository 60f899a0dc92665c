"""What the dual asks of items: the price of their best paths, and what these paths use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kvbound.instance import Instance
from kvbound.trace.bits import count

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

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
        Blocks that a lane stands for, (layers,).
    reads
        What all lanes read, times the weight, (steps, layers).
    """

    layers: slice
    rows: NDArray[np.uint64]
    blocks: Ints
    born: NDArray[np.int32]
    weight: Floats
    reads: Floats

    @classmethod
    def of(cls, instance: Instance, layers: slice, offsets: Ints, stride: int = 1) -> Lanes:
        """Take every stride-th block of every layer, each layer from its own offset on."""
        size, steps = instance.granularity, instance.decode_steps
        chosen = range(instance.layers)[layers]
        most = -(-instance.blocks // stride)
        width = -(-most * size // 64)
        blocks = offsets[layers, None] + stride * np.arange(64 * width // size)
        born = np.maximum(blocks * size - instance.prefill_tokens, PROMPT)
        born = np.where(blocks < instance.blocks, born, NOBODY).astype(np.int32)
        tokens = (blocks[:, :, None] * size + np.arange(size)).reshape(len(chosen), -1)
        rows = np.zeros((steps, len(chosen), width), "<u8")
        for n, layer in enumerate(chosen):
            _take(instance.trace.rows[layer], tokens[n], rows[:, n])
            lane = np.flatnonzero((tokens[n] >= instance.prefill_tokens) & (tokens[n] < instance.tokens))
            clear = ~(np.uint64(1) << (lane & 63).astype(np.uint64))
            rows[tokens[n, lane] - instance.prefill_tokens, n, lane >> 6] &= clear
        weight = instance.blocks / np.maximum((born != NOBODY).sum(axis=1), 1)
        reads = np.stack([count(rows[:, n].view(np.uint8)) for n in range(len(chosen))], axis=1)
        return cls(layers, rows, blocks, born, weight, reads * weight)


def _take(packed: NDArray[np.uint8], tokens: Ints, rows: NDArray[np.uint64]) -> None:
    """Copy the columns of some tokens from packed rows into `rows` (steps, words)."""
    tokens = tokens[tokens < 8 * packed.shape[1]]
    ascending = len(tokens) == 0 or int(tokens[-1]) == len(tokens) - 1
    for start in range(0, len(packed), 256):
        part = packed[start : start + 256]
        if not ascending:
            bits = part[:, tokens >> 3] >> (tokens & 7).astype(np.uint8) & 1
            part = np.packbits(bits, axis=1, bitorder="little")
        whole = np.zeros((len(part), 8 * rows.shape[1]), np.uint8)
        used = min(part.shape[1], whole.shape[1])
        whole[:, :used] = part[:, :used]
        rows[start : start + 256] = whole.view("<u8")


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
    sums = np.concatenate([np.zeros((len(capacity), 1)), np.cumsum(capacity, axis=1)], axis=1)
    after = np.arange(1, slots + 1)
    stay = sums[:, np.minimum(after + count, slots + 1)] - sums[:, after]
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
