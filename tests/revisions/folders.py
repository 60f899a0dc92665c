"""How the files of two folders differ."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import numpy as np

from tests.revisions.worker import DONE

MASKED = ("wall_s", "peak_rss_bytes", "kernel", "kvbound_version")
"""Fields of JSON documents and columns of CSV files that may differ."""
MASKS = (
    (re.compile(rf'("(?:{"|".join(MASKED)})": )[^,}}\n]*'), r"\1-"),
    (re.compile(r"/\S*/tree/kvbound\b"), "kvbound"),
    (re.compile(r"\(took [^)]*\)"), "(took -)"),
)


def differences(base: Path, head: Path) -> Iterator[str]:
    """Yield a line for each file of two folders that is not the same in both."""
    for name in sorted({*files(base), *files(head)}):
        if not ((base / name).exists() and (head / name).exists()):
            yield f"{name}: only in {'base' if (base / name).exists() else 'head'}"
        elif said := _difference(base / name, head / name):
            yield f"{name}: {said}"


def files(folder: Path) -> list[str]:
    """Return the files below a folder."""
    every = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return [name for name in every if name != DONE]


def _difference(base: Path, head: Path) -> str | None:
    """Say how two files differ, if they do."""
    if base.read_bytes() == head.read_bytes():
        return None
    if base.suffix == ".npz":
        return _difference_of_arrays(base, head)
    if base.suffix not in (".txt", ".json", ".csv", ".lp", ".mps"):
        return "other bytes"
    for number, (one, other) in enumerate(zip_longest(_lines(base), _lines(head)), 1):
        if one != other:
            return f"line {number}: {str(one).strip():.150} != {str(other).strip():.150}"
    return None


def _difference_of_arrays(base: Path, head: Path) -> str | None:
    with np.load(base) as one, np.load(head) as other:
        if one.files != other.files:
            return f"arrays {', '.join(one.files)} != {', '.join(other.files)}"
        for name in one.files:
            a, b = one[name], other[name]
            if (a.dtype, a.shape) != (b.dtype, b.shape):
                return f"{name}: {a.dtype}{a.shape} != {b.dtype}{b.shape}"
            if a.tobytes() != b.tobytes():
                return f"{name}: other values"
    return None


def _lines(path: Path) -> list[str]:
    """Return the lines of a text without what may differ from run to run."""
    text = path.read_text(encoding="utf-8", errors="backslashreplace")
    if path.suffix == ".csv":
        names, *rows = csv.reader(io.StringIO(text))
        cells = [["-" if names[i] in MASKED else c for i, c in enumerate(row)] for row in rows]
        return [",".join(row) for row in (names, *cells)]
    for pattern, instead in MASKS:
        text = pattern.sub(instead, text)
    return text.splitlines()
