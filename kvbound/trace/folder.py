"""Trace folders: ``header.json`` and one .npy file of packed rows per layer, opened as memory maps.

``layer-000.npy`` holds the rows; ``order-000.npy`` and ``offsets-000.npy`` hold the lists where they are not
ascending, ``mass-000.npy`` the recorded attention mass, and ``experts-000.npy`` the experts that slots name;
``births.npy``, ``ends.npy``, ``sequence.npy`` and ``outputs.npy`` hold the fields of the timeline that differ
from their defaults. Where every step reads all past tokens that exist, the header says ``"reads": "dense"``,
and there are no files of layers. The header has the SHA-256 of every file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kvbound.errors import InputError, UsageError
from kvbound.fields import Fields, show
from kvbound.files import atomic_dir, check_writable
from kvbound.reading import open_file, read_json
from kvbound.trace import bits
from kvbound.trace.build import MAX_LAYERS, Order, too_large
from kvbound.trace.check import check_layer
from kvbound.trace.data import Trace
from kvbound.trace.experts import WIDTHS, is_width
from kvbound.trace.timeline import FIELDS, MAX_TOKENS, Timeline

SCHEMA: Final = "kvbound.trace/1"
HEADER: Final = "header.json"
DENSE: Final = "dense"
"""Value of the header's field `reads` where reads follow from the timeline."""
_HASHING_THREADS: Final = 2


def read_folder(path: Path, *, verify: bool = True) -> Trace:
    """Open a trace folder.

    Parameters
    ----------
    verify
        Whether to check every file's hash and contents; False only for a trace verified before.

    Raises
    ------
    InputError
        A file is missing, truncated, changed or invalid.
    """
    header = _read_header(path)
    layers, prefill, steps = (header.integer(k, low, high) for k, low, high in _SIZES)
    hashes = header.child("sha256")
    files = {name: hashes.text(name) for name in hashes}
    if excess := too_large(layers, prefill + steps * ("births.npy" not in files), steps):
        raise header.error("decode_steps", excess)
    if verify:
        _check_hashes(path, {name: files[name] for name in _TIMELINE if name in files})
    timeline = _open_timeline(path, prefill, steps, files)
    if excess := too_large(layers, timeline.tokens, steps):
        raise header.error("decode_steps", excess)
    source, licence = header.text("source", default=""), header.text("licence", default="")
    if header.has("reads"):
        if header.raw("reads") != DENSE:
            raise header.error("reads", f"{DENSE!r}, or no such field, not {show(header.raw('reads'))}")
        if len(files) != sum(name in files for name in _TIMELINE):
            raise header.error("sha256", "no files of layers beside dense reads")
        header.done()
        return Trace.from_timeline(timeline, layers, source=source, licence=licence)
    shape = (steps, bits.row_bytes(timeline.tokens))
    rows, order, mass, experts = [], [], [], []
    for layer in range(layers):
        rows.append(_open(path, f"layer-{layer:03}.npy", files, np.uint8, shape))
        order.append(_open_order(path, layer, files, steps))
        name = f"mass-{layer:03}.npy"
        mass.append(_open(path, name, files, np.float16, (None,)) if name in files else None)
        if "experts-000.npy" in files:
            experts.append(_open_experts(path, layer, files, steps))
    named = [*_names(order, mass, experts), *(name for name in _TIMELINE if name in files)]
    if len(files) != len(named):
        raise header.error("sha256", f"the files of {layers} layers and no others")
    if verify:
        _check_hashes(path, {name: digest for name, digest in files.items() if name not in _TIMELINE})
        for layer in range(layers):
            check_layer(path, layer, timeline, rows[layer], order[layer], mass[layer])
    header.done()
    return Trace(
        prefill, tuple(rows), tuple(order), tuple(mass), source, licence,
        timeline=timeline, experts=tuple(experts),
    )  # fmt: skip


def write_trace(trace: Trace, path: Path | str) -> None:
    """Write a trace folder atomically; it replaces an earlier trace.

    Raises
    ------
    UsageError
        There is something other than a trace folder at `path`.
    """
    with new_folder(Path(path)) as folder:
        for layer in range(0 if trace.dense else trace.layers):
            _save(folder / f"layer-{layer:03}.npy", trace.rows[layer])
            order, mass = trace.order[layer], trace.mass[layer]
            if order is not None:
                _save(folder / f"order-{layer:03}.npy", order.ids)
                _save(folder / f"offsets-{layer:03}.npy", order.offsets)
            if mass is not None:
                _save(folder / f"mass-{layer:03}.npy", mass)
        write_experts(trace.experts, folder)
        write_header(folder, trace.layers, trace.timeline, trace.source, trace.licence, dense=trace.dense)


def write_experts(experts: Sequence[NDArray[np.uint8]], folder: Path) -> None:
    """Write the experts named in each layer, if any are, into a folder that is being filled."""
    for layer, named in enumerate(experts):
        _save(folder / f"experts-{layer:03}.npy", named)


def check_target(path: Path) -> None:
    """Check that a trace folder may be written at `path`.

    Raises
    ------
    UsageError
        There is something other than a trace folder, or `path` means standard output.
    OSError
        Nothing can be written there.
    """
    if str(path) == "-":
        raise UsageError("a trace is a folder and does not go to standard output")
    if path.exists() and not (path / HEADER).is_file() and not (path.is_dir() and not any(path.iterdir())):
        raise UsageError(f"{path} exists and is no trace folder")
    check_writable(path)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a folder to fill, which then replaces an earlier trace; raises as `check_target`."""
    check_target(path)
    with atomic_dir(
        path, owned=lambda entry: entry.name == HEADER or entry.suffix == ".npy", last=HEADER
    ) as new:
        yield new


def write_header(
    folder: Path,
    layers: int,
    timeline: Timeline,
    source: str = "",
    licence: str = "",
    *,
    dense: bool = False,
) -> None:
    """Write the timeline, hash the .npy files in `folder`, and write the header that makes it a trace.

    With `dense` every step reads all past tokens that exist, and there are no files of layers.
    """
    for name in timeline.given:
        np.save(folder / f"{name}.npy", getattr(timeline, name), allow_pickle=False)
    names = sorted(file.name for file in folder.glob("*.npy"))
    header = {
        "schema": SCHEMA, "layers": layers, "prefill_tokens": timeline.prefill_tokens,
        "decode_steps": timeline.steps, "source": source, "licence": licence,
        **({"reads": DENSE} if dense else {}),
        "sha256": file_hashes(folder, names),
    }  # fmt: skip
    (folder / HEADER).write_text(json.dumps(header, indent=1) + "\n", encoding="utf-8")


def file_hashes(folder: Path, names: list[str]) -> dict[str, str]:
    """SHA-256 (hex) of each file."""

    def digest(name: str) -> str:
        with (folder / name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    with ThreadPoolExecutor(_HASHING_THREADS) as pool:
        return dict(zip(names, pool.map(digest, names), strict=True))


_SIZES: Final = (
    ("layers", 1, MAX_LAYERS),
    ("prefill_tokens", 0, MAX_TOKENS),
    ("decode_steps", 1, MAX_TOKENS),
)


_TIMELINE: Final = tuple(f"{field}.npy" for field in FIELDS)


def _read_header(path: Path) -> Fields:
    file = path / HEADER
    if not file.exists():
        raise InputError(path, HEADER, "a trace folder with this file in it")
    header = Fields(read_json(file), file)
    if header.text("schema") != SCHEMA:
        raise header.error("schema", f"{SCHEMA!r}, not {header.text('schema')!r}")
    return header


def _open(
    path: Path, name: str, files: Mapping[str, str], dtype: Any, shape: tuple[int | None, ...]
) -> NDArray[Any]:
    """Open one array as a memory map after checking its type and shape; None stands for any length.

    Unlike np.load, open_memmap opens neither archives nor pickles.
    """
    if name not in files:
        raise InputError(path / HEADER, f"sha256.{name}", "the hash of this file, but it is missing")
    if not (path / name).exists():
        raise InputError(path, name, "this file, but it is missing")
    open_file(path / name).close()  # refuses pipes, at which NumPy would block
    try:
        array: NDArray[Any] = np.lib.format.open_memmap(path / name, mode="r")
    except (ValueError, OSError, EOFError, OverflowError, TokenError):  # everything NumPy's reader raises
        raise InputError(
            path / name, "", "a whole .npy file of numbers, but it is truncated or damaged"
        ) from None
    fits = array.ndim == len(shape) and all(b in (None, a) for a, b in zip(array.shape, shape, strict=True))
    if not fits or array.dtype != dtype or not array.flags.c_contiguous:
        found = f"{array.dtype} {array.shape}"
        raise InputError(path / name, "", f"{np.dtype(dtype)} of shape {shape} in C order, not {found}")
    return array


def _open_timeline(path: Path, prefill: int, steps: int, files: Mapping[str, str]) -> Timeline:
    fields: dict[str, Any] = {
        field: _open(path, name, files, np.int64, (None,))
        for field, name in zip(FIELDS, _TIMELINE, strict=True)
        if name in files
    }
    return Timeline.of(prefill, steps, **fields, file=path)


def _open_order(path: Path, layer: int, files: Mapping[str, str], steps: int) -> Order | None:
    names = f"order-{layer:03}.npy", f"offsets-{layer:03}.npy"
    if not any(name in files for name in names):
        return None
    return Order(
        _open(path, names[0], files, np.int32, (None,)), _open(path, names[1], files, np.int64, (steps + 1,))
    )


def _open_experts(path: Path, layer: int, files: Mapping[str, str], steps: int) -> NDArray[np.uint8]:
    name = f"experts-{layer:03}.npy"
    named = _open(path, name, files, np.uint8, (steps, None))
    if not is_width(named.shape[1]):
        raise InputError(path / name, "", f"rows of {WIDTHS}, not {named.shape[1]:,}")
    return named


def _names(
    order: list[Order | None],
    mass: list[NDArray[np.float16] | None],
    experts: Sequence[NDArray[np.uint8]],
) -> list[str]:
    names = [f"experts-{layer:03}.npy" for layer in range(len(experts))]
    for layer, (listed, weighed) in enumerate(zip(order, mass, strict=True)):
        kinds = ["layer"] + ["order", "offsets"] * (listed is not None) + ["mass"] * (weighed is not None)
        names += [f"{kind}-{layer:03}.npy" for kind in kinds]
    return names


def _check_hashes(path: Path, files: Mapping[str, str]) -> None:
    for name in files:
        if not (path / name).exists():
            raise InputError(path, name, "this file, but it is missing")
    for name, found in file_hashes(path, list(files)).items():
        if found != files[name]:
            raise InputError(
                path / name, "", f"the SHA-256 {files[name][:12]}... of the header, not {found[:12]}..."
            )


def _save(path: Path, array: NDArray[Any]) -> None:
    """Save an array as np.save does, but in blocks, so that a memory map is not loaded as a whole."""
    with path.open("wb") as file:
        header = np.lib.format.header_data_from_array_1_0(np.empty((0, *array.shape[1:]), array.dtype))
        np.lib.format.write_array_header_1_0(file, header | {"shape": array.shape})
        for block in bits.blocks(len(array), 1024 if array.ndim > 1 else 1 << 20):
            file.write(np.ascontiguousarray(array[block]).data)
