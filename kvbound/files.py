"""Write files and folders atomically."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kvbound.errors import KvboundError
from kvbound.temporaries import MARK, remove, sweep, temporary

_DESCRIPTOR = re.compile(r"/dev/(?:stdout|stderr|fd/\d+)|/proc/self/fd/\d+")
_NUMBERS = {"stdout": "1", "stderr": "2"}
_LINKS = 40
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # Linux constants


@contextmanager
def atomic_write(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path, which is renamed to `path` on success and removed otherwise.

    Symbolic links are followed: their target is replaced. Pipes, devices and open files such as /dev/stdout
    are written to directly.

    Raises
    ------
    OSError
        With the name of `path`, for any failure including a full disk.
    """
    target = Path(path)
    with _named(target):
        stream = _stream(target)
        if stream is not None:
            with tempfile.TemporaryDirectory(prefix="kvbound-") as folder:
                yield (place := Path(folder) / f"stream{target.suffix}")
                _copy_into(place, stream)
            return
        target = Path(os.path.realpath(target))
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary(target.parent, suffix=target.suffix) as place:
            yield place
            _sync(place)
            place.chmod(0o644)
            place.replace(target)


@contextmanager
def atomic_dir(
    path: Path | str, *, owned: Callable[[Path], bool] = lambda _: True, last: str = ""
) -> Iterator[Path]:
    """Yield a temporary folder, which on success replaces the entries of an earlier run at `path`.

    The folders are exchanged in one step. Where that is impossible (the old one has other entries, it is a
    mount point or the current folder, or the system has no exchange), entries are replaced one by one: the
    one named `last` is removed first and written last, so that old and new entries are never taken for one
    run.

    Parameters
    ----------
    owned
        Whether an entry belongs to an earlier run and may be removed; by default all do.
    last
        Name of the entry without which the others have no meaning.

    Raises
    ------
    OSError
        As for `atomic_write`.
    """
    target = Path(path)
    with _named(target):
        target = Path(os.path.realpath(target))
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            sweep(target)
        inside = target.is_dir() and not (_movable(target) and all(map(owned, target.iterdir())))
        with temporary(target if inside else target.parent) as place:
            yield place
            place.chmod(stat.S_IMODE(target.stat().st_mode) if target.is_dir() else 0o755)
            if not target.exists():
                place.replace(target)
            elif inside or not _exchange(place, target):
                _replace_entries(target, place, owned, last)


def check_writable(path: Path) -> None:
    """Check, before a run, that a file or folder can be written at `path`.

    Raises
    ------
    OSError
        It cannot; the error has the name of `path`.
    """
    if _stream(path) is not None:
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return
    place = Path(os.path.realpath(path))
    if not place.is_dir():
        place = place.parent
    while not place.exists():
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        error.filename = str(path)
        raise


@contextmanager
def _named(target: Path) -> Iterator[None]:
    """Replace missing or temporary names in OSErrors by final ones."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = _final(error.filename, target), None
        raise
    except KvboundError:
        raise
    except Exception as error:  # for example of zipfile, when it closes a file that it could not write
        cause = error.__context__
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__context__
        if cause is None or cause.filename is not None:
            raise
        raise OSError(cause.errno, cause.strerror or str(cause), str(target)) from error


def _final(name: str | None, target: Path) -> str:
    """Return a file's name after its temporary folder or file is renamed to the target."""
    if name is None:
        return str(target)
    parts = Path(name).parts
    at = next((n for n, part in enumerate(parts) if part.startswith(MARK)), len(parts))
    return str(target.joinpath(*parts[at + 1 :])) if at < len(parts) else name


def _stream(path: Path) -> Path | int | None:
    """Return a pipe or device by its path, an open file by its descriptor, and None for other paths."""
    place = path
    for _ in range(_LINKS):
        if _DESCRIPTOR.fullmatch(str(place)):
            return int(_NUMBERS.get(place.name, place.name))
        if not place.is_symlink():
            break
        place = place.parent / os.readlink(place)
    try:
        mode = path.stat().st_mode
    except OSError:
        return None
    return None if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else path


def _copy_into(source: Path, stream: Path | int) -> None:
    """Copy a file into a pipe, device or open file."""
    place = os.dup(stream) if isinstance(stream, int) else stream
    with source.open("rb") as file, open(place, "wb") as out:
        shutil.copyfileobj(file, out)


def _sync(path: Path) -> None:
    """Flush the file to disk, as some file systems report a full disk only then."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names atomically; return whether that was possible."""
    try:
        swap = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    names = os.fsencode(one), os.fsencode(other)
    return bool(swap(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0)


def _movable(folder: Path) -> bool:
    """Whether a folder can be renamed: not a mount point, not above the current folder, parent writable."""
    here = Path(os.path.realpath(os.curdir))
    return not (folder.is_mount() or here.is_relative_to(folder)) and os.access(folder.parent, os.W_OK)


def _replace_entries(target: Path, new: Path, owned: Callable[[Path], bool], last: str) -> None:
    """Replace the entries of an earlier run by those of `new`."""
    old = sorted(target.iterdir(), key=lambda entry: entry.name != last)
    for entry in old:
        if entry != new and owned(entry):
            remove(entry)
    for entry in sorted(new.iterdir(), key=lambda each: each.name == last):
        entry.replace(target / entry.name)
