"""Temporary files and folders beside the targets of writes.

Each is locked while its process lives. An unlocked one was left by a killed process, and the next write in
its folder removes it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

MARK: Final = ".kvbound-"
"""Prefix of temporary names."""


@contextmanager
def temporary(folder: Path, *, suffix: str | None = None) -> Iterator[Path]:
    """Yield a new temporary file with that suffix, or a folder if it is None, and remove it afterwards."""
    sweep(folder)
    while True:
        if suffix is None:
            path = Path(tempfile.mkdtemp(dir=folder, prefix=MARK))
        else:
            handle, name = tempfile.mkstemp(dir=folder, prefix=MARK, suffix=suffix)
            os.close(handle)
            path = Path(name)
        lock = _lock(path, wait=True)
        if path.exists():
            break
        _release(lock)  # another process removed it as a leftover before it was locked
    try:
        yield path
    finally:
        remove(path)
        _release(lock)


def sweep(folder: Path) -> None:
    """Remove leftovers of killed processes."""
    with suppress(OSError):
        for path in [Path(entry.path) for entry in os.scandir(folder) if entry.name.startswith(MARK)]:
            lock = _lock(path, wait=False)
            if lock is not None:
                with suppress(OSError):
                    remove(path)
                _release(lock)


def _lock(path: Path, *, wait: bool) -> int | None:
    """Return an open handle that holds the lock; None if another process has it or there are no locks."""
    if fcntl is None:
        return None
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:  # in use, or a file system without locks
        os.close(handle)
        return None
    return handle


def _release(lock: int | None) -> None:
    if lock is not None:
        os.close(lock)


def remove(path: Path) -> None:
    """Remove a file, or a folder with its contents."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
