"""Floating-point formats: float32, float16, bfloat16, and the two of eight bits.

Values are rounded to the nearest, halfway cases to the even significand, as IEEE 754 does by default. The
formats of eight bits are those of the Open Compute Project's "8-bit floating point specification" (2023):
E4M3 has a sign, four exponent bits with bias 7 and three of the significand, no infinities, and NaN where all
seven lower bits are set, so that 448 is the largest value; E5M2 has five exponent bits with bias 15 and two
of the significand, and is otherwise like float16. Larger values become the largest one, which that
specification calls saturation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from kvbound.accuracy.formats.codec import Bytes, Floats, finite, half_bytes, halves
from kvbound.errors import InputError


@dataclass(frozen=True)
class Single:
    """IEEE 754 float32: nothing is lost."""

    name: str = "f32"
    values: int = 1
    bytes: int = 4

    def pack(self, rows: ArrayLike) -> Bytes:
        """See `Codec.pack`."""
        return np.ascontiguousarray(finite(self.name, rows), "<f4").view(np.uint8)

    def unpack(self, packed: Bytes) -> Floats:
        """See `Codec.unpack`."""
        return np.ascontiguousarray(packed).view("<f4").astype(np.float32)


@dataclass(frozen=True)
class Half:
    """IEEE 754 float16; values from 65,520 on are refused, as they would become infinite."""

    name: str = "f16"
    values: int = 1
    bytes: int = 2

    def pack(self, rows: ArrayLike) -> Bytes:
        """See `Codec.pack`."""
        return half_bytes(self.name, np.ascontiguousarray(finite(self.name, rows)))

    def unpack(self, packed: Bytes) -> Floats:
        """See `Codec.unpack`."""
        return halves(packed)


@dataclass(frozen=True)
class Brain:
    """bfloat16: the upper half of a float32."""

    name: str = "bf16"
    values: int = 1
    bytes: int = 2

    def pack(self, rows: ArrayLike) -> Bytes:
        """See `Codec.pack`."""
        bits = np.ascontiguousarray(finite(self.name, rows)).view(np.uint32)
        upper = (bits.astype(np.uint64) + 0x7FFF + ((bits >> 16) & 1)) >> 16
        if ((upper & 0x7F80) == 0x7F80).any():
            raise InputError(self.name, "", "values of at most 3.39e38, which do not round to infinity")
        return upper.astype("<u2").view(np.uint8)

    def unpack(self, packed: Bytes) -> Floats:
        """See `Codec.unpack`."""
        upper = np.ascontiguousarray(packed).view("<u2").astype(np.uint32)
        return (upper << 16).view(np.float32)


@dataclass(frozen=True)
class Eight:
    """A format of eight bits: sign, exponent, significand.

    Parameters
    ----------
    name
        Name of the format.
    significand
        Bits of the significand, without the leading one.
    bias
        Bias of the exponent; the smallest exponent of a normal value is 1 - bias.
    largest
        Largest finite value; larger ones become this.
    """

    name: str
    significand: int
    bias: int
    largest: float
    values: int = 1
    bytes: int = 1

    def pack(self, rows: ArrayLike) -> Bytes:
        """See `Codec.pack`."""
        given = finite(self.name, rows)
        size = np.minimum(np.abs(given), np.float32(self.largest)).astype(np.float64)
        _, power = np.frexp(size)  # size = m x 2**power, m in [0.5, 1)
        exponent = np.maximum(power - 1, 1 - self.bias)
        steps = np.rint(np.ldexp(size, self.significand - exponent)).astype(np.int64)
        # steps beyond a power of two carry into the exponent by themselves, as the codes are in order
        above = (exponent + self.bias - 1) << self.significand
        code = np.where(steps == 0, 0, steps + above)
        return (code | np.signbit(given).astype(np.int64) << 7).astype(np.uint8)

    def unpack(self, packed: Bytes) -> Floats:
        """See `Codec.unpack`; the codes of NaN and infinities, which `pack` never writes, give NaN."""
        return self.decoded()[packed]

    def decoded(self) -> Floats:
        """Return the value of each of the 256 codes."""
        codes = np.arange(256)
        fraction = codes & ((1 << self.significand) - 1)
        exponent = (codes & 0x7F) >> self.significand
        lead = np.where(exponent > 0, 1 << self.significand, 0)
        power = np.maximum(exponent, 1) - self.bias - self.significand
        values = np.ldexp((lead + fraction).astype(np.float64), power)
        values = np.where(values > self.largest, np.nan, values)
        return np.where(codes < 128, values, -values).astype(np.float32)


E4M3 = Eight("fp8-e4m3", significand=3, bias=7, largest=448.0)
E5M2 = Eight("fp8-e5m2", significand=2, bias=15, largest=57344.0)
