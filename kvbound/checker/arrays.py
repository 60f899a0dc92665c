"""A file's arrays: an npz file, each array verified before it is unpacked."""

from __future__ import annotations

import io
import math
import os
import stat
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from kvbound.checker.report import Refused, Unreadable

Source: TypeAlias = Mapping[str, Any] | Path | str
_T = TypeVar("_T")

_READING = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
"""Flags to open a file with: opening a pipe must not block, so that it can be refused."""

_HEADER = 10_000
"""Largest number of bytes of an array's header, and of a text."""


def load(source: Source) -> Mapping[str, Any]:
    """Return the arrays of an npz file, each read on access, or the mapping itself; pickles are refused."""
    return source if isinstance(source, Mapping) else _File(Path(source))


class _File(Mapping[str, Any]):
    """The arrays of an npz file, each read on access: a schedule at the published size would fill the memory.

    The sizes that headers claim are checked before unpacking, as a few compressed megabytes can hold an array
    larger than the memory.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        names = self._open(lambda file: file.namelist())
        self._names = tuple(name.removesuffix(".npy") for name in names)
        if len(set(self._names)) < len(self._names):
            raise Unreadable(f"{path} has two arrays of one name")

    def _open(self, read: Callable[[zipfile.ZipFile], _T]) -> _T:
        """Return what `read` makes of the open archive."""
        try:
            handle = os.open(self._path, _READING)
            with os.fdopen(handle, "rb") as stream:
                if not stat.S_ISREG(os.fstat(handle).st_mode):
                    raise ValueError("it is not a regular file")
                with zipfile.ZipFile(stream) as file:
                    return read(file)
        except Refused:
            raise
        except Exception as error:  # damaged files make the zip and array readers raise anything
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise Unreadable(f"{self._path} is no readable npz file: {reason}") from None

    def read(self, name: str, verify: Callable[[np.dtype[Any], tuple[int, ...]], None]) -> NDArray[Any]:
        """Return an array; `verify` sees its type and shape before its data are unpacked."""
        return self._open(lambda file: _unpack(file, f"{name}.npy", verify))

    def __getitem__(self, name: str) -> Any:
        if name not in self:
            raise KeyError(name)
        return self.read(name, lambda dtype, shape: None)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _unpack(
    file: zipfile.ZipFile, name: str, verify: Callable[[np.dtype[Any], tuple[int, ...]], None]
) -> NDArray[Any]:
    """Unpack one array of an archive, by its own header and in small parts."""
    info = file.getinfo(name)
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("it is neither stored nor deflated")
    with file.open(info) as stream:
        start = io.BytesIO(stream.read(_HEADER))
        version_1 = np.lib.format.read_magic(start)[0] == 1
        header = np.lib.format.read_array_header_1_0 if version_1 else np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = header(start)
        size = math.prod(shape) * dtype.itemsize
        if dtype.hasobject or info.file_size != start.tell() + size:
            raise ValueError("its data are objects, or not as many as it says")
        verify(dtype, shape)
        data, at, part = np.empty(size, np.uint8), 0, start.read()
        while part:
            data[at : at + len(part)] = np.frombuffer(part, np.uint8)
            at, part = at + len(part), stream.read(1 << 20)
        if at != size:
            raise ValueError("it is cut off")
    values = data.view(dtype)
    return values.reshape(shape[::-1]).T if fortran_order else values.reshape(shape)


def text(arrays: Mapping[str, Any], name: str) -> str:
    """Return a short string stored in the file."""

    def verify(dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        if dtype.kind != "U" or shape or not 0 < dtype.itemsize <= _HEADER:
            raise Unreadable(f"the file has no text {name!r}")

    value = _verified(arrays, name, verify) if name in arrays else np.asarray(0)
    verify(value.dtype, value.shape)
    codes = np.frombuffer(value.astype(value.dtype.newbyteorder("=")).tobytes(), np.uint32)
    if codes.max() > sys.maxunicode:  # NumPy would raise a SystemError
        raise Unreadable(f"the text {name!r} has characters that do not exist")
    return str(value)


def array(
    arrays: Mapping[str, Any], name: str, dtype: str, *shape: int, most: int | None = None
) -> NDArray[Any]:
    """Return an array of exactly this type and shape and at most `most` entries; -1 is any length."""

    def verify(found: np.dtype[Any], sizes: tuple[int, ...]) -> None:
        fits = len(shape) == len(sizes) and all(e in (-1, n) for e, n in zip(shape, sizes, strict=True))
        if found != np.dtype(dtype) or not fits:
            wanted = ", ".join("any" if size < 0 else str(size) for size in shape) + "," * (len(shape) == 1)
            raise Unreadable(f"{name} is {found!s:.40} {sizes!s:.60}, expected {dtype} ({wanted})")
        if most is not None and math.prod(sizes) > most:
            raise Unreadable(f"{name} has {math.prod(sizes)} entries, expected at most {most}")

    if name not in arrays:
        raise Unreadable(f"the file has no array {name!r}")
    return _verified(arrays, name, verify)


def _verified(
    arrays: Mapping[str, Any], name: str, verify: Callable[[np.dtype[Any], tuple[int, ...]], None]
) -> NDArray[Any]:
    if isinstance(arrays, _File):
        return arrays.read(name, verify)
    value = np.asarray(arrays[name])
    verify(value.dtype, value.shape)
    return value
