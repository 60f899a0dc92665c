"""Write files and folders whole or not at all."""

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
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux


@contextmanager
def atomic_write(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path, which becomes `path` on success and is removed otherwise.

    A link stays, and what it leads to is replaced. A pipe, a device or an open file such as /dev/stdout is
    written through.

    Raises
    ------
    OSError
        With the name of `path`, whatever the failure, a full disk included.
    """
    target = Path(path)
    with _named(target):
        stream = _stream(target)
        if stream is not None:
            with tempfile.TemporaryDirectory(prefix="kvbound-") as folder:
                yield (place := Path(folder) / f"stream{target.suffix}")
                _pour(place, stream)
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
    path: Path | str, *, ours: Callable[[Path], bool] = lambda _: True, last: str = ""
) -> Iterator[Path]:
    """Yield a temporary folder, which on success takes the place of what was ours at `path`.

    A folder is exchanged for the new one in one step. Where that cannot be (other things are in it, it is
    a mount or the current folder, the system knows no exchange), its entries are replaced one by one: the
    one named `last` goes first and comes last, so that old and new are never taken for one.

    Parameters
    ----------
    ours
        Whether an entry was written by an earlier run and may go; by default all were.
    last
        The entry without which the others mean nothing.

    Raises
    ------
    OSError
        As `atomic_write`.
    """
    target = Path(path)
    with _named(target):
        target = Path(os.path.realpath(target))
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            sweep(target)
        inside = target.is_dir() and not (_movable(target) and all(map(ours, target.iterdir())))
        with temporary(target if inside else target.parent) as place:
            yield place
            place.chmod(stat.S_IMODE(target.stat().st_mode) if target.is_dir() else 0o755)
            if not target.exists():
                place.replace(target)
            elif inside or not _exchange(place, target):
                _replace_entries(target, place, ours, last)


def check_writable(path: Path) -> None:
    """Find out before the work whether a file or folder could be written at `path`.

    Raises
    ------
    OSError
        With the name of `path`.
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
    """Give an OSError that names no file, or one of a temporary name, the name that it would have had."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = _final(error.filename, target), None
        raise
    except KvboundError:
        raise
    except Exception as error:  # such as zipfile's complaint that it cannot close what it could not write
        cause = error.__context__
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__context__
        if cause is None or cause.filename is not None:
            raise
        raise OSError(cause.errno, cause.strerror or str(cause), str(target)) from error


def _final(name: str | None, target: Path) -> str:
    """Return the name that a file will have once its temporary folder or file is renamed to the target."""
    if name is None:
        return str(target)
    parts = Path(name).parts
    at = next((n for n, part in enumerate(parts) if part.startswith(MARK)), len(parts))
    return str(target.joinpath(*parts[at + 1 :])) if at < len(parts) else name


def _stream(path: Path) -> Path | int | None:
    """Return what is written through: a pipe or device by its path, an open file by its number."""
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


def _pour(source: Path, stream: Path | int) -> None:
    """Copy a file into what is written through."""
    place = os.dup(stream) if isinstance(stream, int) else stream
    with source.open("rb") as file, open(place, "wb") as out:
        shutil.copyfileobj(file, out)


def _sync(path: Path) -> None:
    """Have the system write the file: some disks say only then that they are full."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step; return whether the system could."""
    try:
        swap = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    names = os.fsencode(one), os.fsencode(other)
    return bool(swap(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0)


def _movable(folder: Path) -> bool:
    """Whether a folder can be renamed: no mount point, not above the current folder, in a writable one."""
    here = Path(os.path.realpath(os.curdir))
    return not (folder.is_mount() or here.is_relative_to(folder)) and os.access(folder.parent, os.W_OK)


def _replace_entries(target: Path, new: Path, ours: Callable[[Path], bool], last: str) -> None:
    """Put the entries of `new` in the place of those that are ours."""
    old = sorted(target.iterdir(), key=lambda entry: entry.name != last)
    for entry in old:
        if entry != new and ours(entry):
            remove(entry)
    for entry in sorted(new.iterdir(), key=lambda each: each.name == last):
        entry.replace(target / entry.name)
