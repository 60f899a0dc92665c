"""Read untrusted files without blocking, and without using much more memory than their data need."""

from __future__ import annotations

import io
import json
import math
import os
import re
import stat
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from kvbound.errors import InputError
from kvbound.units import Written, show

_MOST_BYTES: Final = 1 << 30
_DEEPEST: Final = 100
_HEADER: Final = 10_000
_PART: Final = 1 << 20
_FEWEST, _RATIO = 1 << 26, 100


def open_file(path: Path | str, what: str = "a readable file") -> IO[bytes]:
    """Open a regular file; pipes and devices are refused, as reading could block or never end.

    Raises
    ------
    InputError
        There is no such file, or it is not a regular one; `what` is the expectation in words.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise InputError(path, "", f"{what}, found nothing there") from None
    except OSError as error:
        raise InputError(path, "", f"{what}: {error.strerror}") from None
    except ValueError:  # a zero byte, or a lone surrogate
        raise InputError(path, "", f"{what}, but no file can have that name") from None
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        found = "folder" if stat.S_ISDIR(mode) else "pipe or device"
        raise InputError(path, "", f"{what}, found a {found}")
    return os.fdopen(handle, "rb")


def read_bytes(path: Path | str, what: str = "a readable file", most: int = _MOST_BYTES) -> bytes:
    """Return the contents of a file of at most `most` bytes; raises as `open_file`."""
    with open_file(path, what) as file:
        try:
            content = file.read(most + 1) if os.fstat(file.fileno()).st_size <= most else None
        except OSError as error:
            raise InputError(path, "", f"{what}: {error.strerror}") from None
    if content is None or len(content) > most:
        raise InputError(path, "", f"at most {most:,} bytes; keep the trace in a folder")
    return content


def read_json(path: Path | str) -> Any:
    """Read a JSON document; floats keep their digits, as `kvbound.units.Written`.

    Raises
    ------
    InputError
        The file is missing, too large, not UTF-8, not JSON, or has a repeated field.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        for key, value in pairs:
            if key in fields:
                raise InputError(path, key, "every field once, found it twice")
            fields[key] = value
        return fields

    def no_constant(text: str) -> Any:
        raise InputError(path, "", f"finite numbers, found {text}")

    content = read_bytes(path)
    if _deep(content):
        raise InputError(path, "", f"JSON that is nested at most {_DEEPEST} levels deep")
    try:
        text = content.decode()
        return json.loads(text, object_pairs_hook=unique, parse_constant=no_constant, parse_float=Written)
    except UnicodeDecodeError:
        raise InputError(path, "", "UTF-8 text") from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}"
        raise InputError(path, "", f"JSON, but {error.msg} at {place}") from None
    except ValueError:
        raise InputError(path, "", "numbers of at most a few thousand digits") from None


def _deep(content: bytes) -> bool:
    """Whether JSON is nested too deep for recursive functions."""
    if content.count(b"[") + content.count(b"{") <= _DEEPEST:
        return False
    outside = re.sub(rb'"(?:[^"\\]|\\.)*"', b"", content, flags=re.DOTALL)
    brackets = outside.translate(None, bytes(set(range(256)) - set(b"[]{}")))
    for _ in range(_DEEPEST):
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
    return brackets.count(b"[") + brackets.count(b"{") > _DEEPEST  # unclosed brackets are left to the parser


@contextmanager
def open_npz(path: Path | str, what: str) -> Iterator[Archive]:
    """Open an .npz archive, whose arrays are read on demand, without pickles.

    Raises
    ------
    InputError
        There is no such file, or it is damaged or not an archive; `what` is the expectation in words.
    """
    try:
        with open_file(path, what) as opened, zipfile.ZipFile(opened) as packed:
            yield Archive(path, packed)
    except InputError:
        raise
    except Exception:  # damaged files make the zip and array readers raise anything
        raise InputError(path, "", f"{what} (.npz), but it is damaged or something else") from None


class Archive:
    """The arrays of an .npz file; types and shapes are checked before unpacking.

    A few megabytes can otherwise unpack to gigabytes.
    """

    def __init__(self, path: Path | str, packed: zipfile.ZipFile) -> None:
        self._path, self._packed = path, packed
        self.names = tuple(name.removesuffix(".npy") for name in packed.namelist())
        if len(set(self.names)) < len(self.names):
            raise ValueError("two arrays of one name")

    def text(self, name: str) -> str:
        """Return a string, empty if there is none or it is too long."""
        if name not in self.names:
            return ""
        with _Member(self._packed, name) as member:
            if member.dtype.kind != "U" or member.shape or not 0 < member.dtype.itemsize <= _HEADER:
                return ""
            value = member.read()
            codes = np.frombuffer(value.astype(value.dtype.newbyteorder("=")).tobytes(), np.uint32)
            if codes.max() > sys.maxunicode:
                raise ValueError("characters that do not exist")  # NumPy would raise a SystemError
            return str(value)

    def array(self, name: str, dtype: Any, *shape: int, most: int | None = None) -> NDArray[Any]:
        """Return an array of exactly this type and shape.

        Parameters
        ----------
        shape
            Shape, where -1 is any length.
        most
            Largest number of elements.

        Raises
        ------
        InputError
            The array is missing, or of another type or shape.
        """
        expected = f"{np.dtype(dtype)} of shape {tuple('any' if n < 0 else n for n in shape)}".replace(
            "'", ""
        )
        if name not in self.names:
            raise InputError(self._path, name, f"an array, {expected}, but it is missing")
        with _Member(self._packed, name) as member:
            fits = len(shape) == len(member.shape) and all(
                n in (-1, found) for n, found in zip(shape, member.shape, strict=True)
            )
            if not fits or member.dtype != np.dtype(dtype):
                found = f"{member.dtype} of shape {member.shape}"
                raise InputError(self._path, name, f"{expected}, found {show(found)}")
            if most is not None and math.prod(member.shape) > most:
                raise InputError(self._path, name, f"at most {most:,} elements, found {member.shape[0]:,}")
            return member.read()

    def numbers(self, name: str, kind: str) -> NDArray[Any]:
        """Return an array of any shape and of one kind of numbers.

        Raises
        ------
        InputError
            The array is of another kind, or compressed more than real data are.
        """
        with _Member(self._packed, name) as member:
            if member.dtype.kind != kind:
                raise InputError(self._path, name, f"numbers of kind {kind!r}, found {member.dtype}")
            if member.bytes > _FEWEST + _RATIO * member.packed_bytes:
                found = f"{member.bytes:,} bytes packed into {member.packed_bytes:,}"
                raise InputError(self._path, name, f"data that compresses less, found {found}")
            return member.read()


class _Member:
    """One array of an archive, of which only the header has been read."""

    def __init__(self, packed: zipfile.ZipFile, name: str) -> None:
        info = packed.getinfo(f"{name}.npy")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError("others unpack far more at once than is asked for")
        self._stream = packed.open(info)
        self.packed_bytes = info.compress_size
        head = io.BytesIO(self._stream.read(_HEADER))
        major, _ = np.lib.format.read_magic(head)
        read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
        self.shape, self._fortran_order, self.dtype = read(head)
        self._first = head.read()
        self.bytes = math.prod(self.shape) * self.dtype.itemsize
        if info.file_size != head.tell() - len(self._first) + self.bytes:
            raise ValueError("more or fewer data than the shape says")

    def __enter__(self) -> _Member:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def read(self) -> NDArray[Any]:
        """Return the unpacked array."""
        if self.dtype.hasobject:
            raise ValueError("a pickle")
        data, at = np.empty(self.bytes, np.uint8), 0
        part = self._first
        while part:
            data[at : at + len(part)] = np.frombuffer(part, np.uint8)
            at += len(part)
            part = self._stream.read(_PART)
        if at != self.bytes:
            raise ValueError("cut off")
        array = data.view(self.dtype)
        return array.reshape(self.shape[::-1]).T if self._fortran_order else array.reshape(self.shape)
