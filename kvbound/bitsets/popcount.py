"""Bits set in a word, compiled."""

from __future__ import annotations

import numpy as np

from kvbound.kernels import compiled

_ONE = np.uint64(1)


@compiled()
def popcount(word: np.uint64) -> np.int64:
    """Bits set in a word."""
    word = word - ((word >> _ONE) & np.uint64(0x5555555555555555))
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((word * np.uint64(0x0101010101010101)) >> np.uint64(56))
