"""The block formats of ggml, which llama.cpp offers for the KV cache.

A block holds 32 neighbouring values of a row: a scale d, in some formats a minimum m (both float16,
little-endian), for five bits the fifth bits of all values as 32 bits little-endian, and 16 bytes of nibbles.
Byte i has value i in its low nibble and value i + 16 in its high nibble. The scale with which values are
divided is the one before it is rounded to float16. All arithmetic is in float32, each operation rounded, as
in the reference functions ``quantize_row_q8_0_ref`` and the like of ggml; processors' own versions of them
may round a few halfway cases differently.
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

BLOCK = 32


@dataclass(frozen=True)
class Q80:
    """``q8_0``: d = largest magnitude / 127, integers from -127 to 127, halves rounded away from zero."""

    name: str = "q8_0"
    values: int = BLOCK
    bytes: int = 2 + BLOCK

    def pack(self, rows: ArrayLike) -> Bytes:
        """See `Codec.pack`."""
        block = blocks(self, rows)
        scale = np.abs(block).max(axis=-1, keepdims=True) / np.float32(127)
        scaled = block * inverse(scale)
        size = np.abs(scaled)
        whole = np.floor(size)
        rounded = np.copysign(whole + (size - whole >= np.float32(0.5)), scaled)
        return joined([half_bytes(self.name, scale), rounded.astype(np.int8).view(np.uint8)])

    def unpack(self, packed: Bytes) -> Floats:
        """See `Codec.unpack`."""
        scale, codes = split(packed, [2, BLOCK])
        values = halves(scale) * np.ascontiguousarray(codes).view(np.int8).astype(np.float32)
        return values.reshape(*packed.shape[:-1], -1)


@dataclass(frozen=True)
class Signed:
    """``q4_0`` and ``q5_0``: the value of largest magnitude, with its sign, is divided by -8 or -16.

    That value gets the code 0, which stands for -8 or -16; d is negative where the value is positive. Of
    several of the same magnitude the first counts. Codes are x / d + 8.5 or 16.5, truncated, and at most 15
    or 31.
    """

    name: str
    bits: int
    values: int = BLOCK

    @property
    def bytes(self) -> int:
        """Bytes of a block."""
        return 2 + BLOCK * self.bits // 8

    def pack(self, rows: ArrayLike) -> Bytes:
        """See `Codec.pack`."""
        block, half = blocks(self, rows), 1 << (self.bits - 1)
        place = np.abs(block).argmax(axis=-1)[..., None]
        scale = np.take_along_axis(block, place, axis=-1) / np.float32(-half)
        codes = np.trunc(block * inverse(scale) + np.float32(half + 0.5))
        codes = np.clip(codes, 0, 2 * half - 1).astype(np.uint8)
        return joined([half_bytes(self.name, scale), *_packed(codes, self.bits)])

    def unpack(self, packed: Bytes) -> Floats:
        """See `Codec.unpack`."""
        scale, *rest = split(packed, [2, *_sizes(self.bits)])
        codes = _codes(rest).astype(np.float32) - np.float32(1 << (self.bits - 1))
        return (halves(scale) * codes).reshape(*packed.shape[:-1], -1)


@dataclass(frozen=True)
class Shifted:
    """``q4_1`` and ``q5_1``: m is the smallest value, d = (largest - smallest) / 15 or 31.

    Codes are (x - m) / d + 0.5, truncated.
    """

    name: str
    bits: int
    values: int = BLOCK

    @property
    def bytes(self) -> int:
        """Bytes of a block."""
        return 2 + 2 + BLOCK * self.bits // 8

    def pack(self, rows: ArrayLike) -> Bytes:
        """See `Codec.pack`."""
        block, most = blocks(self, rows), (1 << self.bits) - 1
        low = block.min(axis=-1, keepdims=True)
        least, peak = half_bytes(self.name, low), block.max(axis=-1, keepdims=True)
        half_bytes(self.name, peak)  # refuses what is too large before the difference overflows
        scale = (peak - low) / np.float32(most)
        codes = np.trunc((block - low) * inverse(scale) + np.float32(0.5))
        codes = np.clip(codes, 0, most).astype(np.uint8)
        return joined([half_bytes(self.name, scale), least, *_packed(codes, self.bits)])

    def unpack(self, packed: Bytes) -> Floats:
        """See `Codec.unpack`."""
        scale, low, *rest = split(packed, [2, 2, *_sizes(self.bits)])
        values = halves(scale) * _codes(rest).astype(np.float32) + halves(low)
        return values.reshape(*packed.shape[:-1], -1)


def _sizes(bits: int) -> list[int]:
    """Return the bytes of a block's fifth bits, if it has them, and of its nibbles."""
    return [4, 16] if bits == 5 else [16]


def _packed(codes: NDArray[np.uint8], bits: int) -> list[Bytes]:
    """Return codes, shape (..., 32), as fifth bits if there are any, and nibbles."""
    nibbles = (codes[..., :16] & np.uint8(15)) | (codes[..., 16:] << np.uint8(4))
    if bits == 4:
        return [nibbles]
    return [np.packbits(codes >> np.uint8(4), axis=-1, bitorder="little"), nibbles]


def _codes(parts: list[Bytes]) -> NDArray[np.uint8]:
    """Return the codes, shape (..., 32), from fifth bits if there are any, and nibbles."""
    nibbles = parts[-1]
    codes = np.concatenate([nibbles & 15, nibbles >> 4], axis=-1)
    return codes | np.unpackbits(parts[0], axis=-1, bitorder="little") << 4 if len(parts) > 1 else codes
