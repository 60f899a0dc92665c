"""Write files and folders whole or not at all; read archives without trusting them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvbound.errors import InputError


@contextmanager
def atomic_write(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it there on success, else remove it."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=target.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_dir(path: Path | str) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; swap it in on success, else remove it."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        yield temporary
        temporary.chmod(0o755)
        if target.exists():
            old = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
            target.replace(old / "old")
            temporary.replace(target)
            shutil.rmtree(old)
        else:
            temporary.replace(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_npz(path: Path | str, what: str) -> dict[str, NDArray[Any]]:
    """Read all arrays of an .npz archive; raises as `open_npz` does."""
    with open_npz(path, what) as archive:
        return dict(archive)


@contextmanager
def open_npz(path: Path | str, what: str) -> Iterator[Mapping[str, NDArray[Any]]]:
    """Open an .npz archive, whose arrays are read when asked for; no pickles.

    Raises
    ------
    InputError
        There is no such file, or it is damaged or no such archive; `what` names what was expected.
    """
    try:
        # np.load left alone with a path does not close what it cannot read
        with Path(path).open("rb") as opened, np.load(opened, allow_pickle=False) as archive:
            yield archive
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(path, "", f"{what}, found nothing there") from None
    except IsADirectoryError:
        raise InputError(path, "", f"{what} (.npz), found a folder") from None
    except Exception:  # whatever a damaged file makes the zip and array readers raise
        raise InputError(path, "", f"{what} (.npz), but it is damaged or something else") from None
