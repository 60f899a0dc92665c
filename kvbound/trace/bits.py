"""Rows of reads as packed bits: bit i of row j is set if step j reads token i.

A row has `row_bytes(tokens)` bytes, a multiple of 8 so that it can be viewed as uint64; bits are
little-endian.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

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


def diagonal(rows: NDArray[np.uint8], first: int) -> NDArray[np.bool_]:
    """Return whether each row j has bit ``first + j`` set, (steps,)."""
    token = first + np.arange(len(rows))
    own: NDArray[np.uint8] = rows[np.arange(len(rows)), token >> 3]
    return (own >> (token & 7) & 1).astype(np.bool_)


def without_diagonal(rows: NDArray[np.uint8], first: int) -> NDArray[np.uint8]:
    """Return a copy of the rows in which no row j has bit ``first + j`` set."""
    row = np.flatnonzero(diagonal(rows, first))
    cleared = np.array(rows)
    cleared[row, (first + row) >> 3] &= ~(np.uint8(1) << ((first + row) & 7).astype(np.uint8))
    return cleared


def first_beyond(rows: NDArray[np.uint8], first: int) -> int | None:
    """Return the first row j with a bit set at ``first + j`` or later, or None."""
    for block in blocks(len(rows)):
        last = first + np.arange(block.start, block.stop)
        begin = int(last[0]) // 64
        tail = words(rows[block])[:, begin:]
        word = np.arange(begin, begin + tail.shape[1])
        # in the word that holds `last` the bits from it on; in later words all bits
        edge = ~((np.uint64(1) << (last % 64).astype(np.uint64)) - np.uint64(1))
        beyond = np.where(word[None, :] == (last // 64)[:, None], tail & edge[:, None], tail)
        beyond[word[None, :] < (last // 64)[:, None]] = 0
        bad = np.flatnonzero(beyond.any(axis=1))
        if len(bad):
            return int(block.start + bad[0])
    return None
