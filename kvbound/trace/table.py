"""Traces as CSV in the study's format: header ``n,l,read_kv``, one row per step n and layer l, ids as a list.

Files are written and read line by line: a published trace has about 30 GB.
"""

from __future__ import annotations

import gzip
import json
import zlib
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

import numpy as np
from numpy.typing import NDArray

from kvbound.errors import InputError, UsageError
from kvbound.files import atomic_write
from kvbound.progress import Progress, silent
from kvbound.reading import open_file
from kvbound.trace.build import MAX_LAYERS, MAX_SLOTS, RowBuilder, as_ids, too_large
from kvbound.trace.data import Trace
from kvbound.trace.folder import new_folder, read_folder, write_header
from kvbound.trace.timeline import MAX_TOKENS, Timeline

COLUMNS: Final = "n,l,read_kv"
_REPORT_ROWS: Final = 1024
_LONGEST: Final = 1 << 26
"""Largest number of bytes of a line: a compressed file can hold a practically endless one."""


def read_table(path: Path, *, folder: Path | None = None, progress: Progress | None = None) -> RowBuilder:
    """Read a CSV file into packed rows, in memory or in `folder`, in two passes: the shape, then the ids."""
    report = progress or silent
    counts, prefill = _shape(path)
    steps, layers = counts.shape
    if excess := too_large(layers, prefill + steps, steps):
        raise InputError(path, "", excess)
    builder = RowBuilder(Timeline.of(prefill, steps), counts, path, folder)
    for row, (place, line) in enumerate(_lines(path)):
        n, layer, text = _split(path, place, line)
        builder.add(n - prefill, layer, _parse_ids(path, place, text), place)
        if row % _REPORT_ROWS == 0:
            report(row, counts.size, "rows read")
    return builder


def read_csv(
    path: Path | str, *, source: str = "", licence: str = "", progress: Progress | None = None
) -> Trace:
    """Read a trace from a CSV file, plain or gzip-compressed, into memory.

    Rows may be in any order; prefill_tokens is the smallest n. The order of every list is kept.

    Raises
    ------
    InputError
        The file is not such a CSV file, or a row is invalid, missing or repeated.
    """
    builder = read_table(Path(path), progress=progress)
    return Trace(
        builder.timeline.prefill_tokens, builder.rows, tuple(builder.order), source=source, licence=licence
    )


def import_csv(
    path: Path | str,
    target: Path | str,
    *,
    source: str = "",
    licence: str = "",
    progress: Progress | None = None,
) -> Trace:
    """Convert a CSV file of any size into a trace folder at `target`, and open it.

    Raises
    ------
    InputError
        As for `read_csv`; nothing is written then.
    UsageError
        There is something other than a trace folder at `target`.
    """
    with new_folder(Path(target)) as folder:
        builder = read_table(Path(path), folder=folder, progress=progress)
        write_header(folder, builder.layers, builder.timeline, source, licence)
    return read_folder(Path(target), verify=False)


def write_csv(trace: Trace, path: Path | str, *, progress: Progress | None = None) -> None:
    """Write a trace as CSV, lists in their recorded order, compressed if the name ends in .gz.

    Raises
    ------
    UsageError
        The trace is a batch or names experts, which the format cannot hold.
    """
    if trace.experts:
        raise UsageError("a CSV file holds reads of KV, not experts; write a trace folder")
    if not trace.timeline.plain:
        raise UsageError("a CSV file holds one sequence, with one birth in every step; write a trace folder")
    report = progress or silent
    digits = np.array([str(token) for token in range(trace.tokens)], object)
    with atomic_write(path) as temporary, _create(temporary, compress=str(path).endswith(".gz")) as file:
        file.write(f"{COLUMNS}\n".encode())
        for step in range(trace.decode_steps):
            for layer in range(trace.layers):
                ids = trace.listed(step, layer)
                quote = '"' if len(ids) > 1 else ""  # as csv writers do, only around commas
                text = ",".join(digits[ids].tolist())
                file.write(f"{trace.prefill_tokens + step},{layer},{quote}[{text}]{quote}\n".encode())
            report(step + 1, trace.decode_steps, "steps written")


def _shape(path: Path) -> tuple[NDArray[np.int64], int]:
    """Return the length of every list (steps, layers) and the smallest n; every row must occur once."""
    columns: tuple[array[int], ...] = (array("i"), array("h"), array("i"))
    low, high, width = MAX_TOKENS, 0, 0
    for place, line in _lines(path):
        n, layer, text = _split(path, place, line)
        for column, value in zip(columns, (n, layer, text.count(b",") + 1 if text else 0), strict=True):
            column.append(value)
        low, high, width = min(low, n), max(high, n), max(width, layer + 1)
        if len(columns[0]) > MAX_SLOTS:
            raise InputError(path, place, f"at most {MAX_SLOTS:,} rows")
        if len(columns[0]) > (high - low + 1) * width:
            break  # some row is repeated
    steps, layers, sizes = (np.array(column, np.int64) for column in columns)
    if not len(steps):
        raise InputError(path, "", "at least one row below the header")
    prefill, width = int(steps.min()), int(layers.max()) + 1
    slot = (steps - prefill) * width + layers
    order = np.argsort(slot, kind="stable")
    length = int(steps.max()) - prefill + 1
    wrong = np.flatnonzero(slot[order] != np.arange(len(slot)))
    if len(wrong) or len(slot) != length * width:
        at = int(wrong[0]) if len(wrong) else len(slot)
        repeated = at < len(slot) and slot[order[at]] < at
        n, layer = (at - repeated) // width + prefill, (at - repeated) % width
        found = "two" if repeated else "none"
        raise InputError(path, f"n={n}, l={layer}", f"one row for every n and l, but there is {found}")
    return sizes[order].reshape(length, width), prefill


def _split(path: Path, place: str, line: bytes) -> tuple[int, int, bytes]:
    """Return n, l and the text between the brackets of a line."""
    fields = line.strip().split(b",", 2)
    if len(fields) == 3:
        n, layer, text = map(_unquoted, fields)
        if n.isdigit() and layer.isdigit() and text[:1] == b"[" and text[-1:] == b"]" and len(text) > 1:
            if len(n) > 12 or int(n) >= MAX_TOKENS or len(layer) > 12 or int(layer) >= MAX_LAYERS:
                raise InputError(path, place, f"n below {MAX_TOKENS:,} and l below {MAX_LAYERS:,}")
            return int(n), int(layer), text[1:-1].strip()
    raise InputError(path, place, 'n,l,"[id,id,...]"')


def _unquoted(field: bytes) -> bytes:
    """Return the field without its quotes; an unpaired quote stays, and marks a truncated line."""
    field = field.strip()
    return field[1:-1].strip() if len(field) > 1 and field[:1] == field[-1:] == b'"' else field


def _parse_ids(path: Path, place: str, text: bytes) -> NDArray[np.int64]:
    text = text.replace(b", ", b",")
    plain = not text.translate(None, b"0123456789,") and b",," not in text
    if plain and text[:1] != b"," and text[-1:] != b",":
        return np.fromstring(text, np.int64, sep=",") if text else np.empty(0, np.int64)
    try:  # unusual spacing, or not a list
        values = json.loads(b"[" + text + b"]")
    except (ValueError, RecursionError):
        raise InputError(path, place, "a JSON list of token ids") from None
    return as_ids(values, path, place)


def _lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the lines below the header that are not empty, each after its place in words."""
    try:
        with _open(path) as file:
            header = file.readline(1000).removeprefix(b"\xef\xbb\xbf").translate(None, b'" \r\n')
            if header != COLUMNS.encode():
                raise InputError(path, "line 1", f"the header {COLUMNS}")
            for number, line in enumerate(iter(lambda: file.readline(_LONGEST), b""), start=2):
                if len(line) == _LONGEST:
                    raise InputError(path, f"line {number}", f"at most {_LONGEST:,} bytes")
                if not line.isspace():
                    yield f"line {number}", line
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(path, "", f"a readable CSV file ({error})") from None


@contextmanager
def _open(path: Path) -> Iterator[IO[bytes]]:
    with open_file(path, "a readable CSV file") as file:
        compressed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        yield gzip.GzipFile(fileobj=file) if compressed else file  # type: ignore[misc]


@contextmanager
def _create(path: Path, *, compress: bool) -> Iterator[IO[bytes]]:
    with path.open("wb") as plain:
        if not compress:
            yield plain
            return
        # without name and time, so that the same trace gives the same bytes
        with gzip.GzipFile("", "wb", 6, plain, mtime=0) as packed:
            yield packed  # type: ignore[misc]
