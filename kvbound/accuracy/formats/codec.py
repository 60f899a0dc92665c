"""What all number formats of cached values have in common."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kvbound.errors import InputError

Floats: TypeAlias = NDArray[np.float32]
Bytes: TypeAlias = NDArray[np.uint8]


class Codec(Protocol):
    """A number format: rows of float32 values to bytes and back.

    Blocks of `values` neighbouring values of a row take `bytes` bytes and do not depend on other blocks.
    """

    @property
    def name(self) -> str:
        """Name, as on the command line."""
        ...

    @property
    def values(self) -> int:
        """Values of a block."""
        ...

    @property
    def bytes(self) -> int:
        """Bytes of a block."""
        ...

    def pack(self, rows: ArrayLike) -> Bytes:
        """Return rows as bytes.

        Parameters
        ----------
        rows
            Finite values, shape (..., n), n a multiple of `values`; they are converted to float32 first.

        Returns
        -------
        Shape (..., n / `values` x `bytes`).

        Raises
        ------
        InputError
            A value is NaN or infinite, or too large for the format, or a row is not a whole number of blocks.
        """
        ...

    def unpack(self, packed: Bytes) -> Floats:
        """Return the values that bytes stand for, shape (..., n)."""
        ...


def round_trip(codec: Codec, rows: Floats) -> Floats:
    """Return the values that remain of rows stored in a format; errors as for `Codec.pack`."""
    return codec.unpack(codec.pack(rows))


def finite(name: str, rows: ArrayLike) -> Floats:
    """Return rows as float32 after checking that every value is finite.

    Raises
    ------
    InputError
        A value is NaN or infinite, or becomes so in float32.
    """
    with np.errstate(over="ignore"):
        values = np.asarray(rows, np.float32)
    if not np.isfinite(values).all():
        what = "NaN" if np.isnan(values).any() else "an infinite one"
        raise InputError(name, "", f"finite values, not {what}")
    return values


def blocks(codec: Codec, rows: ArrayLike) -> Floats:
    """Return rows in blocks, shape (..., blocks, values); errors as for `Codec.pack`."""
    values = finite(codec.name, rows)
    length = values.shape[-1] if values.ndim else 0
    if values.ndim == 0 or length % codec.values:
        raise InputError(
            codec.name, "", f"rows of whole blocks of {codec.values} values, not of {length} values"
        )
    return values.reshape(*values.shape[:-1], -1, codec.values)


def joined(parts: list[Bytes]) -> Bytes:
    """Return bytes of blocks, parts of shape (..., blocks, n), as rows of bytes."""
    whole = np.concatenate(parts, axis=-1)
    return whole.reshape(*whole.shape[:-2], -1)


def split(packed: Bytes, sizes: list[int]) -> list[Bytes]:
    """Return rows of bytes as the parts of their blocks, shape (..., blocks, size) for each of `sizes`."""
    whole = packed.reshape(*packed.shape[:-1], -1, sum(sizes))
    ends = np.cumsum(sizes)
    return [whole[..., end - size : end] for end, size in zip(ends.tolist(), sizes, strict=True)]


def half_bytes(name: str, values: NDArray[Any]) -> Bytes:
    """Return values as the bytes of float16, little-endian, shape (..., 2) for (..., 1).

    Raises
    ------
    InputError
        A value is above the largest of float16, 65,504.
    """
    with np.errstate(over="ignore"):
        halves = values.astype("<f2")
    if not np.isfinite(halves).all():
        largest = float(np.abs(values).max())
        raise InputError(name, "", f"values whose float16 does not exceed 65,504, not {largest:.6g}")
    return halves.view(np.uint8)


def halves(packed: Bytes) -> Floats:
    """Return the values of float16 bytes, shape (..., n / 2)."""
    return np.ascontiguousarray(packed).view("<f2").astype(np.float32)


def inverse(scale: Floats) -> Floats:
    """Return 1 / scale in float32, and 0 where the scale is 0 or so small that the inverse is infinite."""
    with np.errstate(divide="ignore", over="ignore"):
        inverted = np.float32(1) / scale
    return np.where(np.isfinite(inverted), inverted, np.float32(0))
