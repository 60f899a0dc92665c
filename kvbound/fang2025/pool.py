"""The KV pool in HBM that all layers share."""

from __future__ import annotations

import numpy as np

from kvbound.fang2025 import bits
from kvbound.fang2025.bits import Words


class Pool:
    """The set of items in HBM.

    Parameters
    ----------
    layers, width
        Shape of `words`: packed token ids of each layer.
    room
        M, the number of items that fit beside the weights.

    Attributes
    ----------
    words
        uint64 ``(layers, width)``.
    used
        Number of items held; code that changes `words` must update it.
    """

    __slots__ = ("room", "used", "words")

    def __init__(self, layers: int, width: int, room: int) -> None:
        self.words: Words = np.zeros((layers, width), np.uint64)
        self.room = room
        self.used = 0

    @property
    def free(self) -> int:
        """Number of adds that still succeed; one place always stays empty."""
        return max(self.room - 1 - self.used, 0)

    def add(self, layer: int, token: int) -> bool:
        """Add one item; return whether it is in the pool now."""
        if bits.has(self.words[layer], token):
            return True
        if self.free == 0:
            return False
        bits.put(self.words[layer], token)
        self.used += 1
        return True

    def remove(self, layer: int, token: int) -> None:
        """Remove one item that is in the pool."""
        bits.drop(self.words[layer], token)
        self.used -= 1
