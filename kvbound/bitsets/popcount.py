"""Number of bits set in a word or in a range of bits, compiled."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvbound.kernels import compiled

_ONE = np.uint64(1)


@compiled()
def popcount(word: np.uint64) -> np.int64:
    """Count the bits set in a word."""
    word = word - ((word >> _ONE) & np.uint64(0x5555555555555555))
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((word * np.uint64(0x0101010101010101)) >> np.uint64(56))


@compiled()
def popcount_range(row: NDArray[np.uint64], begin: int, size: int) -> np.int64:
    """Count the bits set among `size` bits of a row, from bit `begin` on."""
    count, word, shift = np.int64(0), begin >> 6, begin & 63
    while size > 0:
        bits = row[word] >> np.uint64(shift)
        take = min(size, 64 - shift)
        if take < 64:
            bits &= (_ONE << np.uint64(take)) - _ONE
        count += popcount(bits)
        size -= take
        word, shift = word + 1, 0
    return count
