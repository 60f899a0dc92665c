"""Weights that may be placed: the chunks of each layer's weights, which are in tiers and move like KV.

A chunk is like a token of the prompt that every slot of its layer reads; only experts, where the trace names
any, are read by no slots but those that name them. A chunk is a block of its own, as large as a whole number
of the layer's blocks of KV. Chunks have the lowest ids of a layer. Tokens follow at a
multiple of 64, so that the rows of the trace are shifted by whole words; ids in between do not exist.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kvbound.checker.layers import Sizes, is_size
from kvbound.checker.lifetimes import Lifetimes
from kvbound.checker.report import Floats, require

Chunks: TypeAlias = tuple[tuple[int, ...], ...]
"""Sizes of each layer's chunks in blocks of its KV, (layers,) tuples; empty where there are none."""

MOST = 4096
"""Largest number of chunks in a layer."""
MOST_EXPERTS = 2048
"""Largest number of experts in a layer."""
_LARGEST = 1 << 60
"""Largest number of bytes of weights that a layer may read where they are placed: counts are int64."""


class Placed(NamedTuple):
    """The weights that may be placed.

    Attributes
    ----------
    chunks
        All chunks, those of experts last.
    experts
        Number of each layer's chunks that are experts, which a slot reads if it names them, (layers,).
    counted
        Bytes of the chunks that each layer's `weight_read_bytes_per_layer` counts, (layers,).
    """

    chunks: Chunks
    experts: tuple[int, ...]
    counted: tuple[Fraction, ...]


def read_chunks(expanded: Mapping[str, Any], sizes: Sizes, reads: Floats, weight_bytes: int) -> Placed:
    """Divide the weights that each layer reads into chunks; where the trace names experts, each is one.

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
    number, bytes_each, counted = _read_experts(expanded, len(sizes), placed=placed)
    if not placed:
        return Placed(((),) * len(sizes), number, (Fraction(0),) * len(sizes))
    require({
        "resident weights under accounting fang2025": expanded["rules"]["accounting"] != "fang2025",
        "no formats of tiers with placeable weights": not expanded.get("formats"),
        "KV in every layer with placeable weights": all(map(min, sizes)),
        f"at most {_LARGEST} bytes of placeable weights per layer": bool(np.all(reads <= _LARGEST)),
    })  # fmt: skip
    blocks = [row[0] for row in sizes]
    # experts of less than a block are no chunks
    number = tuple(
        n if each >= block else 0 for n, each, block in zip(number, bytes_each, blocks, strict=True)
    )
    others = [Fraction(read) - counted * each for read, each in zip(reads.tolist(), bytes_each, strict=True)]
    require({"experts_read of at most what each layer reads": min(others) >= 0})
    divided = [_divide(math.floor(read), block, size) for read, block in zip(others, blocks, strict=True)]
    require({
        f"at most {MOST} chunks of weights in a layer": all(
            count + n <= MOST for (count, *_), n in zip(divided, number, strict=True)
        ),
    })  # fmt: skip
    plain = [(most,) * (count - 1) + (last,) * (count > 0) for count, most, last in divided]
    experts = [(each // block,) * n for n, each, block in zip(number, bytes_each, blocks, strict=True)]
    chunks = tuple(one + other for one, other in zip(plain, experts, strict=True))
    enough = sum(chunk_bytes(chunks, sizes)) <= weight_bytes
    require({"weight_bytes of at least all chunks of weights": enough})
    read = tuple(
        block * (sum(one) + counted * (other[0] if other else 0))
        for one, other, block in zip(plain, experts, blocks, strict=True)
    )
    return Placed(chunks, number, read)


def _read_experts(
    expanded: Mapping[str, Any], layers: int, *, placed: bool
) -> tuple[tuple[int, ...], tuple[int, ...], Fraction]:
    """Return each layer's experts, the bytes of one, 0 without any, and how many the weight reads count.

    An instance has these fields if and only if its trace names experts.
    """
    llm, named = expanded["llm"], "experts_sha256" in expanded["trace"]
    number, size, counted = (llm.get(key) for key in ("experts", "expert_bytes", "experts_read"))

    def sizes(values: Any, most: int) -> bool:
        if not isinstance(values, list) or len(values) != layers:
            return False
        return all(is_size(value, 0) and value <= most for value in values)

    if not named:
        require({"experts of the llm only where the trace names any": number is size is counted is None})
        return (0,) * layers, (0,) * layers, Fraction(0)
    require({
        "placeable weights where the trace names experts": placed,
        f"experts, a list of one number per layer up to {MOST_EXPERTS}": sizes(number, MOST_EXPERTS),
        "expert_bytes, a list of one size per layer": sizes(size, _LARGEST),
        "experts_read, a number from 0 to the experts of a layer, or no such field": counted is None or (
            type(counted) in (int, float) and isinstance(number, list) and 0 <= counted <= max(number)
        ),
    })  # fmt: skip
    assert isinstance(number, list)
    assert isinstance(size, list)
    require(
        {
            "expert_bytes in every layer with experts": all(
                s or not n for n, s in zip(number, size, strict=True)
            )
        }
    )
    size = tuple(s if n else 0 for n, s in zip(number, size, strict=True))
    return tuple(number), size, Fraction(counted or 0)


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


def what_stays(reads: Floats, placed: Iterable[Fraction]) -> Floats:
    """Return the bytes that each layer reads of resident weights, given those of all and in its chunks."""
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


def with_reads(
    rows: NDArray[np.uint8],
    chunks: NDArray[np.int64],
    experts: int = 0,
    named: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """Return a copy of a layer's packed rows after bits of its chunks that slots read.

    Parameters
    ----------
    chunks
        Size of the chunk with each id before that of the first token, 0 where there is none, (ids,).
    experts
        How many of the chunks, the last ones, are experts, read only by slots that name them.
    named
        Packed experts that slots name, (steps, bytes), if the trace names any.
    """
    read = np.broadcast_to(chunks > 0, (len(rows), chunks.size))
    if experts and named is not None:
        last = np.count_nonzero(chunks)
        read = read.copy()
        read[:, last - experts : last] = np.unpackbits(named, axis=1, count=experts, bitorder="little")
    return np.concatenate([np.packbits(read, axis=1, bitorder="little"), rows], axis=1)
