"""Weights that may be placed: the chunks of each layer's weights, which are in tiers and move like KV.

A chunk is like a token of the prompt that every slot of its layer reads. It is a block of its own, as large
as a whole number of the layer's blocks of KV. Chunks have the lowest ids of a layer. Tokens follow at a
multiple of 64, so that the rows of the trace are shifted by whole words; ids in between do not exist.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kvbound.checker.layers import Sizes, is_size
from kvbound.checker.lifetimes import Lifetimes
from kvbound.checker.report import Floats, require

Chunks: TypeAlias = tuple[tuple[int, ...], ...]
"""Sizes of each layer's chunks in blocks of its KV, (layers,) tuples; empty where there are none."""

MOST = 4096
"""Largest number of chunks in a layer."""
_LARGEST = 1 << 60
"""Largest number of bytes of weights that a layer may read where they are placed: counts are int64."""


def read_chunks(expanded: Mapping[str, Any], sizes: Sizes, reads: Floats, weight_bytes: int) -> Chunks:
    """Divide the weights that each layer reads into chunks.

    Parameters
    ----------
    sizes
        Bytes of a block of KV, (layers, tiers).
    reads
        Bytes of weights that each layer reads in a slot, finite and >= 0, (layers,).
    weight_bytes
        Bytes of all weights, those included that no layer reads.

    Raises
    ------
    ValueError
        A field is not as expected, or there are too many chunks.
    """
    llm = expanded["llm"]
    placed, size = "weights" in llm, llm.get("weight_chunk_bytes")
    require({
        'llm.weights "placeable", or no such field': not placed or llm["weights"] == "placeable",
        "weight_chunk_bytes, an integer >= 1, with placeable weights only": (
            "weight_chunk_bytes" not in llm or (placed and is_size(size, 1))
        ),
    })  # fmt: skip
    if not placed:
        return ((),) * len(sizes)
    require({
        "resident weights under accounting fang2025": expanded["rules"]["accounting"] != "fang2025",
        "no formats of tiers with placeable weights": not expanded.get("formats"),
        "KV in every layer with placeable weights": all(map(min, sizes)),
        f"at most {_LARGEST} bytes of placeable weights per layer": bool(np.all(reads <= _LARGEST)),
    })  # fmt: skip
    divided = [_divide(math.floor(read), row[0], size) for read, row in zip(reads, sizes, strict=True)]
    require({f"at most {MOST} chunks of weights in a layer": all(count <= MOST for count, *_ in divided)})
    chunks = tuple((most,) * (count - 1) + (last,) * (count > 0) for count, most, last in divided)
    enough = sum(chunk_bytes(chunks, sizes)) <= weight_bytes
    require({"weight_bytes of at least all chunks of weights": enough})
    return chunks


def _divide(weights: int, block: int, size: int | None) -> tuple[int, int, int]:
    """Divide bytes of weights, as far as they make up whole blocks.

    Parameters
    ----------
    block
        Bytes of a block.
    size
        Largest bytes of a chunk, but at least one block; None for no limit.

    Returns
    -------
    The number of chunks, and the blocks of each but the last, and of the last one.
    """
    whole = weights // block
    most = max(min(size or weights, weights) // block, 1)
    count = -(-whole // most)
    return count, most, whole - (count - 1) * most


def chunk_bytes(chunks: Chunks, sizes: Sizes) -> list[int]:
    """Return the bytes of each layer's chunks together, (layers,); `sizes` as for `read_chunks`."""
    return [sum(each) * row[0] for each, row in zip(chunks, sizes, strict=True)]


def what_stays(reads: Floats, placed: Iterable[int]) -> Floats:
    """Return the bytes that each layer reads of resident weights, given those of all and of its chunks."""
    return np.array([float(Fraction(read) - part) for read, part in zip(reads, placed, strict=True)])


def count_ids(chunks: Chunks) -> int:
    """Return the number of ids before that of the first token."""
    return 64 * -(-max(map(len, chunks)) // 64)


def with_chunks(lives: Iterable[Lifetimes], chunks: Chunks) -> tuple[Lifetimes, ...]:
    """Return the lifetimes of each layer's chunks and tokens: one object where layers are alike."""
    count, known = count_ids(chunks), dict[tuple[int, tuple[int, ...]], Lifetimes]()
    made = []
    for life, sizes in zip(lives, chunks, strict=True):
        key = id(life), sizes
        if key not in known:
            known[key] = life.after_chunks(np.array(sizes + (0,) * (count - len(sizes)), np.int64))
        made.append(known[key])
    return tuple(made)


def with_reads(rows: NDArray[np.uint8], chunks: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return a copy of a layer's packed rows after bits of its chunks, each of which every slot reads.

    Parameters
    ----------
    chunks
        Size of the chunk with each id before that of the first token, 0 where there is none, (ids,).
    """
    read = np.packbits(chunks > 0, bitorder="little")
    return np.concatenate([np.broadcast_to(read, (len(rows), read.size)), rows], axis=1)
