"""Rows of reads as packed bits: bit i of row j is set if step j reads token i.

A row has `row_bytes(tokens)` bytes, a multiple of 8 so that it can be viewed as uint64; bits are
little-endian.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

BLOCK_ROWS: Final = 128
"""Rows processed at once: a block of full-size rows fits in the processor's cache."""


def row_bytes(tokens: int) -> int:
    """Bytes of a row over `tokens` tokens, padded to whole uint64 words."""
    return 8 * -(-tokens // 64)


def words(rows: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """View `rows` (steps, bytes) as (steps, words)."""
    return rows.view("<u8")


def pack(mask: NDArray[np.bool_] | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pack a mask (..., 64 * words) into (..., 8 * words) bytes."""
    return np.packbits(mask, axis=-1, bitorder="little")


def unpack(rows: NDArray[np.uint8], tokens: int | None = None) -> NDArray[np.uint8]:
    """Unpack rows (..., bytes) into zeros and ones (..., tokens)."""
    return np.unpackbits(rows, axis=-1, count=tokens, bitorder="little")


def ids(row: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Ascending token ids of one row (bytes,)."""
    # as booleans: six times as fast as bytes
    return np.flatnonzero(unpack(row).view(np.bool_)).astype(np.int64, copy=False)


def blocks(steps: int, size: int = BLOCK_ROWS) -> Iterator[slice]:
    """Slices that cut `steps` rows into blocks."""
    for start in range(0, steps, size):
        yield slice(start, min(start + size, steps))


def count(rows: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Reads of each row: (steps,) from (steps, bytes)."""
    counts = np.empty(len(rows), np.int64)
    for block in blocks(len(rows)):
        counts[block] = np.bitwise_count(words(rows[block])).sum(axis=1, dtype=np.int64)
    return counts


def count_within(rows: NDArray[np.uint8], begin: Ints, end: Ints) -> Ints:
    """Count in each row j the bits from ``begin[j]`` to ``end[j] - 1``, (steps,)."""
    counts = np.zeros(len(rows), np.int64)
    for block in blocks(len(rows)):
        columns, mask = _range_mask(begin[block], end[block])
        part = words(rows[block])[:, columns]
        counts[block] = np.bitwise_count(part & mask).sum(axis=1, dtype=np.int64)
    return counts


def without(rows: NDArray[np.uint8], begin: Ints, end: Ints) -> NDArray[np.uint8]:
    """Return a copy of the rows in which no row j has a bit from ``begin[j]`` to ``end[j] - 1``."""
    cleared = np.array(rows)
    for block in blocks(len(rows)):
        columns, mask = _range_mask(begin[block], end[block])
        words(cleared[block])[:, columns] &= ~mask
    return cleared


def first_beyond(rows: NDArray[np.uint8], end: Ints) -> int | None:
    """Return the first row j with a bit at ``end[j]`` or later, or None."""
    past = np.full(len(rows), 8 * rows.shape[1])
    beyond = np.flatnonzero(count_within(rows, end, past))
    return int(beyond[0]) if len(beyond) else None


def _range_mask(begin: Ints, end: Ints) -> tuple[slice, NDArray[np.uint64]]:
    """Return words with the bits ``begin[j]`` to ``end[j] - 1`` set, and their columns of a row."""
    first, last = int(begin.min()) // 64, -(-int(end.max()) // 64)
    start = 64 * np.arange(first, last)
    low, high = (np.clip(edge[:, None] - start, 0, 64) for edge in (begin, end))
    return slice(first, last), _below(high) & ~_below(low)


def _below(count: Ints) -> NDArray[np.uint64]:
    """Return words with the lowest `count` bits set, 0 to 64."""
    some = (np.uint64(1) << np.minimum(count, 63).astype(np.uint64)) - np.uint64(1)
    return np.where(count == 64, ~np.uint64(0), some)
