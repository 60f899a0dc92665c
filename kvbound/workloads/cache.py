"""An on-disk LRU cache of synthetic traces.

The folder is KVBOUND_CACHE, or else ``kvbound`` in the user's cache folder (XDG_CACHE_HOME or ~/.cache on
Linux), or, if that is not writable, a temporary folder of the user; entries of a read-only folder are used in
place. The limit is KVBOUND_CACHE_LIMIT, by default 8 GB. Each entry has two locks: ``KEY.make``, held while
it is looked up or changed, and ``KEY.use``, shared by the open traces.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import stat
import tempfile
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import platformdirs

from kvbound.errors import InputError, UsageError
from kvbound.files import atomic_dir
from kvbound.trace import Trace
from kvbound.trace.folder import read_folder
from kvbound.units import UnitError, format_bytes, whole_down
from kvbound.workloads.synthetic import Synthetic

try:
    import fcntl
except ImportError:  # Windows has no such locks, but open files cannot be removed there anyway
    fcntl = None  # type: ignore[assignment]

DEFAULT_LIMIT: Final = "8GB"
_OTHER_FOLDER: Final = "KVBOUND_CACHE names another folder"
_STAMP: Final = "stamp.json"
_IN_USE: Final[weakref.WeakValueDictionary[Path, Trace]] = weakref.WeakValueDictionary()
"""Open traces by entry: mapped twice, pages would count twice in what the process takes."""


def folder() -> Path:
    """Return the cache folder.

    Raises
    ------
    UsageError
        No folder is writable.
    """
    place = _usual()
    if place is not None and (os.environ.get("KVBOUND_CACHE") or _writable(place)):
        return place
    return _temporary()


def _usual() -> Path | None:
    """Return the preferred folder, writable or not; None for a user without a home."""
    if chosen := os.environ.get("KVBOUND_CACHE"):
        return Path(chosen)
    try:
        place = platformdirs.user_cache_path("kvbound", appauthor=False)
    except RuntimeError:
        return None
    return place if place.is_absolute() else None  # some versions return a path with "~" if there is no home


def _writable(place: Path) -> bool:
    """Whether a folder is writable, or can be created."""
    nearest = next(path for path in (place, *place.parents) if os.path.exists(path) or path == path.parent)
    return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)


def _temporary() -> Path:
    """Return a temporary folder that only the user can write to."""
    user = os.getuid() if hasattr(os, "getuid") else None
    try:
        place = Path(tempfile.gettempdir()) / ("kvbound" if user is None else f"kvbound-{user}")
        place.mkdir(mode=0o700, exist_ok=True)
        about = place.lstat()
    except OSError as error:
        raise UsageError(f"made traces cannot be kept anywhere ({error.strerror}); {_OTHER_FOLDER}") from None
    if not stat.S_ISDIR(about.st_mode) or user not in (None, about.st_uid):
        raise UsageError(f"{place} belongs to another user; {_OTHER_FOLDER}")
    return place


def limit() -> int:
    """Return the largest size of the cache in bytes.

    Raises
    ------
    UsageError
        KVBOUND_CACHE_LIMIT is not a size.
    """
    try:
        return whole_down(os.environ.get("KVBOUND_CACHE_LIMIT") or DEFAULT_LIMIT)
    except UnitError as error:
        raise UsageError(f"KVBOUND_CACHE_LIMIT: expected {error}") from None


def key(spec: Synthetic) -> str:
    """Return the name of a specification's entry: a hash of everything that determines the reads."""
    content = json.dumps(spec.to_mapping() | {"version": spec.version}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def fetch(spec: Synthetic, write: Callable[[Path], None]) -> Trace:
    """Return the trace of `spec`; if the cache does not have it, `write` fills a folder with it.

    Raises
    ------
    UsageError
        The trace exceeds the cache or the disk, or the folder is not writable.
    """
    usual = _usual()
    if usual is not None and not _writable(usual) and (found := _served(usual, spec)) is not None:
        return found
    place = folder()
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{place} cannot be made ({error.strerror}); {_OTHER_FOLDER}") from None
    if not os.access(place, os.W_OK):
        raise UsageError(f"{place} cannot be written; {_OTHER_FOLDER}")
    with _locked(place / f"{key(spec)}.make", exclusive=True):
        entry = place / f"{key(spec)}.trace"
        trace = _open(entry) or _create(entry, spec, write)
        use = _lock(place / f"{key(spec)}.use", exclusive=False)
    return _keep(entry, trace, use)


def _served(place: Path, spec: Synthetic) -> Trace | None:
    """Return the trace of a specification from a read-only folder, or None."""
    use, entry = _lock(place / f"{key(spec)}.use", exclusive=False), place / f"{key(spec)}.trace"
    trace = _open(entry)
    if trace is None and use is not None:
        os.close(use)
    return None if trace is None else _keep(entry, trace, use)


def _keep(entry: Path, trace: Trace, use: int | None) -> Trace:
    """Return an entry's trace, and hold a lock as long as it is open."""
    _IN_USE[entry] = trace
    if use is not None:
        weakref.finalize(trace, os.close, use)
    return trace


def prune(place: Path, most: float) -> None:
    """Remove least recently used traces that are not open, until at most `most` bytes are left."""
    entries = sorted(place.glob("*.trace"), key=lambda entry: entry.stat().st_mtime)
    sizes = {entry: sum(file.stat().st_size for file in entry.iterdir()) for entry in entries}
    total = sum(sizes.values())
    for entry in entries:
        if total > most and _remove(entry):
            total -= sizes[entry]


def _open(entry: Path) -> Trace | None:
    """Return the entry's trace, or None; a damaged entry is removed."""
    if not os.path.exists(entry):  # or not readable
        return None
    with contextlib.suppress(OSError):  # the folder may be read-only
        os.utime(entry)
    try:
        stamp = json.loads((entry / _STAMP).read_text())
        if stamp["files"] == _files(entry):
            if (known := _IN_USE.get(entry)) is not None:
                return known
            return dataclasses.replace(read_folder(entry, verify=False), known_hashes=tuple(stamp["rows"]))
        trace = read_folder(entry)
    except (InputError, OSError, ValueError, KeyError, TypeError):
        shutil.rmtree(entry, ignore_errors=True)
        return None
    return _stamp(entry, trace)


def _create(entry: Path, spec: Synthetic, write: Callable[[Path], None]) -> Trace:
    needed, most, free = spec.packed_bytes, limit(), shutil.disk_usage(entry.parent).free
    if needed > most:
        wanted = f"the trace needs {format_bytes(needed)}, the cache holds {format_bytes(most)}"
        raise UsageError(f"{wanted}; KVBOUND_CACHE_LIMIT raises that")
    prune(entry.parent, most - needed)
    if needed > free:
        wanted = f"the trace needs {format_bytes(needed)}, {entry.parent} has {format_bytes(free)} left"
        raise UsageError(f"{wanted}; {_OTHER_FOLDER}")
    with atomic_dir(entry) as temporary:
        write(temporary)
    return _stamp(entry, read_folder(entry, verify=False))


def _stamp(entry: Path, trace: Trace) -> Trace:
    """Record the verified files and row hashes, so that opening the entry again need not verify them."""
    hashes = trace.row_hashes()
    with contextlib.suppress(OSError):
        (entry / _STAMP).write_text(json.dumps({"files": _files(entry), "rows": hashes}))
    return dataclasses.replace(trace, known_hashes=tuple(hashes))


def _files(entry: Path) -> dict[str, list[int]]:
    """Return size and modification time (ns) of every file except the stamp."""
    stats = {file.name: file.stat() for file in sorted(entry.iterdir()) if file.name != _STAMP}
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}


def _remove(entry: Path) -> bool:
    """Remove an entry unless it is open or being made; return whether it was removed."""
    with (
        _locked(entry.with_suffix(".make"), exclusive=True, wait=False) as unlocked,
        _locked(entry.with_suffix(".use"), exclusive=True, wait=False) as unused,
    ):
        if unlocked and unused:
            shutil.rmtree(entry, ignore_errors=True)
        return unlocked and unused and not entry.exists()


@contextlib.contextmanager
def _locked(path: Path, *, exclusive: bool, wait: bool = True) -> Iterator[bool]:
    """Hold a lock within the block; without `wait`, yield False if another process holds it."""
    try:
        handle = _lock(path, exclusive=exclusive, wait=wait)
    except BlockingIOError:
        yield False
        return
    try:
        yield True
    finally:
        if handle is not None:
            os.close(handle)


def _lock(path: Path, *, exclusive: bool, wait: bool = True) -> int | None:
    """Return an open handle that holds the lock until it is closed; None if there are no locks.

    Where the lock file cannot be opened for writing, it is opened for reading, which suffices for a lock.
    """
    if fcntl is None:
        return None
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError:
        try:
            handle = os.open(path, os.O_RDONLY)
        except OSError:
            return None
    try:
        fcntl.flock(handle, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(handle)
        raise
    except OSError:  # a file system without locks
        os.close(handle)
        return None
    except BaseException:
        os.close(handle)
        raise
    return handle
