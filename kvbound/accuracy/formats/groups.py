"""Integers in groups: a float16 scale for each group of neighbouring values, with or without a zero point.

There is no common layout on which serving engines agree, so this one is kvbound's own: scale, zero point if
there is one (both float16, little-endian), then the integers, the first value in the lowest bits of the first
byte. Values are divided by the scale as it is stored, and rounded to the nearest integer, halves to the even
one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kvbound.accuracy.formats.codec import (
    Bytes,
    Floats,
    blocks,
    half_bytes,
    halves,
    inverse,
    joined,
    split,
)


@dataclass(frozen=True)
class Group:
    """Integers of 2, 4 or 8 bits, in groups of neighbouring values.

    Without a zero point the scale is the largest magnitude over 127 (8 bits), 7 (4) or 1 (2), and integers
    are stored in two's complement. With one they run from 0 to 255, 15 or 3, 0 stands for the smallest value,
    which is stored as the zero point, and the scale is the range over the largest integer, as in KIVI (arXiv
    2402.02750).

    Parameters
    ----------
    name
        Name of the format.
    bits
        Bits of an integer: 2, 4 or 8.
    values
        Values of a group; a last byte that they do not fill is padded.
    zero
        Whether there is a zero point.
    """

    name: str
    bits: int
    values: int
    zero: bool

    @property
    def bytes(self) -> int:
        """Bytes of a group."""
        return sum(self._sizes)

    @property
    def _sizes(self) -> list[int]:
        return [2, *[2] * self.zero, -(-self.values * self.bits // 8)]

    def pack(self, rows: ArrayLike) -> Bytes:
        """See `Codec.pack`."""
        block = blocks(self, rows)
        if self.zero:
            return joined(self._with_zero(block))
        most = (1 << (self.bits - 1)) - 1
        scale = half_bytes(self.name, np.abs(block).max(axis=-1, keepdims=True) / np.float32(most))
        codes = np.clip(np.rint(block * inverse(halves(scale))), -most, most).astype(np.int8)
        return joined([scale, self._squeezed(codes.view(np.uint8))])

    def _with_zero(self, block: Floats) -> list[Bytes]:
        low, most = half_bytes(self.name, block.min(axis=-1, keepdims=True)), (1 << self.bits) - 1
        peak = halves(half_bytes(self.name, block.max(axis=-1, keepdims=True)))
        # the stored minimum may be above the smallest value, which is then rounded up to it
        scale = half_bytes(self.name, (peak - halves(low)) / np.float32(most))
        codes = np.rint((block - halves(low)) * inverse(halves(scale)))
        return [scale, low, self._squeezed(np.clip(codes, 0, most).astype(np.uint8))]

    def unpack(self, packed: Bytes) -> Floats:
        """See `Codec.unpack`."""
        scale, *low, rest = split(packed, self._sizes)
        codes = self._spread(rest)
        if low:
            values = halves(scale) * codes.astype(np.float32) + halves(low[0])
        else:
            shift = 8 - self.bits
            signed = (codes << shift).view(np.int8) >> shift
            values = halves(scale) * signed.astype(np.float32)
        return values.reshape(*packed.shape[:-1], -1)

    def _squeezed(self, codes: NDArray[np.uint8]) -> Bytes:
        """Return codes, shape (..., values), as bytes."""
        each = 8 // self.bits
        short = -self.values % each
        padded = np.concatenate([codes, np.zeros((*codes.shape[:-1], short), np.uint8)], axis=-1)
        lower = padded & np.uint8((1 << self.bits) - 1)
        parts = lower.reshape(*codes.shape[:-1], -1, each) << (np.arange(each, dtype=np.uint8) * self.bits)
        return np.bitwise_or.reduce(parts, axis=-1).astype(np.uint8)

    def _spread(self, squeezed: Bytes) -> NDArray[np.uint8]:
        """Return the codes in bytes, shape (..., values)."""
        each = 8 // self.bits
        codes = squeezed[..., None] >> (np.arange(each, dtype=np.uint8) * self.bits)
        codes = (codes & np.uint8((1 << self.bits) - 1)).reshape(*squeezed.shape[:-1], -1)
        return np.ascontiguousarray(codes[..., : self.values])
