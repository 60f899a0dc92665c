"""Sets of token ids as packed bits: uint64 words, lowest bit first.

``listed`` are a row's ids in list order, or None if they ascend.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from kvbound.trace import bits as trace_bits

Words: TypeAlias = NDArray[np.uint64]
Ids: TypeAlias = NDArray[np.int64]
Listed: TypeAlias = NDArray[np.signedinteger] | None

_ALL = np.uint64(2**64 - 1)


def count(words: NDArray[np.unsignedinteger]) -> int:
    """Return the size of the set."""
    return int(np.bitwise_count(words).sum())


def has(words: Words, token: int) -> bool:
    """Whether the set holds `token`."""
    return bool(int(words[token >> 6]) >> (token & 63) & 1)


def among(words: Words, ids: NDArray[np.signedinteger]) -> NDArray[np.bool_]:
    """Return whether the set holds each of `ids`."""
    return (words[ids >> 6] >> (ids & 63).astype(np.uint64) & np.uint64(1)).astype(bool)


def put(words: Words, token: int) -> None:
    """Add `token` in place."""
    words[token >> 6] |= np.uint64(1 << (token & 63))


def drop(words: Words, token: int) -> None:
    """Remove `token` in place."""
    words[token >> 6] &= np.uint64(~(1 << (token & 63)) & (2**64 - 1))


def members(words: Words) -> Ids:
    """Return the ascending ids of the set."""
    return trace_bits.ids(words.view(np.uint8))


def packed(ids: NDArray[np.signedinteger], width: int) -> Words:
    """Return the set of `ids` in `width` words."""
    flags = np.zeros(64 * width, np.uint8)
    flags[ids] = 1
    return trace_bits.pack(flags).view(np.uint64)


def below(token: int, width: int) -> Words:
    """Return the set of ids below `token` in `width` words."""
    words = np.zeros(width, np.uint64)
    whole, rest = divmod(max(token, 0), 64)
    words[:whole] = _ALL
    if whole < width:
        words[whole] = (1 << rest) - 1
    return words


def lowest(words: Words) -> int | None:
    """Return the smallest id of the set, None if it is empty."""
    where = int((words != 0).argmax())
    word = int(words[where])
    return 64 * where + (word & -word).bit_length() - 1 if word else None


def first(words: Words, size: int, listed: Listed) -> Words:
    """Return the set of the first `size` >= 0 ids in list order, or all if there are fewer."""
    if listed is not None:
        return packed(listed[among(words, listed)][:size], words.size)
    upto = np.bitwise_count(words).cumsum(dtype=np.int64)
    where = int(np.searchsorted(upto, size))  # the word with the size-th id
    if where == words.size:
        return words
    head = words.copy()
    head[where + 1 :] = 0
    word, extra = int(words[where]), int(upto[where]) - size
    for _ in range(extra):  # drop the highest bits
        word ^= 1 << (word.bit_length() - 1)
    head[where] = word
    return head


def rank(words: Words, token: int, listed: Listed) -> int:
    """Return how many ids of the set precede `token` in list order."""
    if listed is None:
        return count(words & below(token, words.size))
    return int((listed[among(words, listed)] == token).argmax())
