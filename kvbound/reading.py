"""Read untrusted files: no file makes the reader wait, or take much more memory than its data needs."""

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
    """Open a regular file; a pipe or a device could keep its reader waiting, or never end.

    Raises
    ------
    InputError
        There is none, or it is something else; `what` names what was expected.
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
    """Read a whole file of at most so many bytes; raises as `open_file` does."""
    with open_file(path, what) as file:
        try:
            content = file.read(most + 1) if os.fstat(file.fileno()).st_size <= most else None
        except OSError as error:
            raise InputError(path, "", f"{what}: {error.strerror}") from None
    if content is None or len(content) > most:
        raise InputError(path, "", f"at most {most:,} bytes; keep the trace in a folder")
    return content


def read_json(path: Path | str) -> Any:
    """Read a JSON document; floats keep the digits they are written with.

    Raises
    ------
    InputError
        The file is missing, too large, not UTF-8, not JSON, or names a field twice.
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
    """Whether JSON is nested too deep to be walked through by functions that call themselves."""
    if content.count(b"[") + content.count(b"{") <= _DEEPEST:
        return False
    outside = re.sub(rb'"(?:[^"\\]|\\.)*"', b"", content, flags=re.DOTALL)
    brackets = outside.translate(None, bytes(set(range(256)) - set(b"[]{}")))
    for _ in range(_DEEPEST):
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
    return brackets.count(b"[") + brackets.count(b"{") > _DEEPEST  # fewer: not closed, as the parser will say


@contextmanager
def open_npz(path: Path | str, what: str) -> Iterator[Archive]:
    """Open an .npz archive, whose arrays are read when asked for; no pickles.

    Raises
    ------
    InputError
        There is no such file, or it is damaged or no such archive; `what` names what was expected.
    """
    try:
        with open_file(path, what) as opened, zipfile.ZipFile(opened) as packed:
            yield Archive(path, packed)
    except InputError:
        raise
    except Exception:  # whatever a damaged file makes the zip and array readers raise
        raise InputError(path, "", f"{what} (.npz), but it is damaged or something else") from None


class Archive:
    """The arrays of an .npz file; type and shape are looked at before anything is unpacked.

    A few megabytes can hold gigabytes of zeros.
    """

    def __init__(self, path: Path | str, packed: zipfile.ZipFile) -> None:
        self._path, self._packed = path, packed
        self.names = tuple(name.removesuffix(".npy") for name in packed.namelist())
        if len(set(self.names)) < len(self.names):
            raise ValueError("two arrays of one name")

    def text(self, name: str) -> str:
        """Return a string, empty if there is none of sensible length."""
        if name not in self.names:
            return ""
        with _Member(self._packed, name) as member:
            if member.dtype.kind != "U" or member.shape or not 0 < member.dtype.itemsize <= _HEADER:
                return ""
            value = member.read()
            codes = np.frombuffer(value.astype(value.dtype.newbyteorder("=")).tobytes(), np.uint32)
            if codes.max() > sys.maxunicode:
                raise ValueError("characters that do not exist")  # NumPy would fail
            return str(value)

    def array(self, name: str, dtype: Any, *shape: int, most: int | None = None) -> NDArray[Any]:
        """Return an array of exactly this type and shape.

        Parameters
        ----------
        shape
            -1 stands for any length.
        most
            Elements at most, where the shape does not say.

        Raises
        ------
        InputError
            It is missing or of another type or shape.
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
        """Return an array of any shape and size of one kind, if it takes no more than data does.

        Raises
        ------
        InputError
            It is of another kind, or a tiny part of the file would fill the memory.
        """
        with _Member(self._packed, name) as member:
            if member.dtype.kind != kind:
                raise InputError(self._path, name, f"numbers of kind {kind!r}, found {member.dtype}")
            if member.bytes > _FEWEST + _RATIO * member.packed_bytes:
                found = f"{member.bytes:,} bytes packed into {member.packed_bytes:,}"
                raise InputError(self._path, name, f"data that compresses less, found {found}")
            return member.read()


class _Member:
    """One array of an archive: its header is read, its data not yet."""

    def __init__(self, packed: zipfile.ZipFile, name: str) -> None:
        info = packed.getinfo(f"{name}.npy")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError("others unpack far more at once than is asked for")
        self._stream = packed.open(info)
        self.packed_bytes = info.compress_size
        head = io.BytesIO(self._stream.read(_HEADER))
        major, _ = np.lib.format.read_magic(head)
        read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
        self.shape, self._by_column, self.dtype = read(head)
        self._first = head.read()
        self.bytes = math.prod(self.shape) * self.dtype.itemsize
        if info.file_size != head.tell() - len(self._first) + self.bytes:
            raise ValueError("more or fewer data than the shape says")

    def __enter__(self) -> _Member:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def read(self) -> NDArray[Any]:
        """Unpack it."""
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
        return array.reshape(self.shape[::-1]).T if self._by_column else array.reshape(self.shape)
