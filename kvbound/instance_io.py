"""Reading, writing and assembling instances: files, library names, catalog entries, overrides."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from kvbound import workloads
from kvbound.blocks import most_bytes
from kvbound.consistency import ending_windows
from kvbound.errors import InputError
from kvbound.fields import Fields, did_you_mean, located, show
from kvbound.files import atomic_write
from kvbound.instance import LATENCY, SCHEMA, Instance
from kvbound.llm.formats import kv_sizes
from kvbound.llm.model import Llm
from kvbound.memory import Memory
from kvbound.objective import Objective
from kvbound.overrides import apply
from kvbound.reading import read_json
from kvbound.rules import Rules
from kvbound.trace import Trace, read_trace, write_trace
from kvbound.trace.timeline import FIELDS as TIMELINE
from kvbound.units import is_bare_fraction
from kvbound.weights import Chunks
from kvbound.workloads import Synthetic

LIBRARY = Path(str(resources.files("kvbound"))) / "instances"


def library() -> dict[str, Path]:
    """Return the library's instances by name."""
    files = sorted(LIBRARY.glob("*/*.json"))
    return {path.stem: path for path in files if not path.name.endswith(".schema.json")}


def read_instance(source: Path | str, *, overrides: Mapping[str, Any] | None = None) -> Instance:
    """Read an instance file, or one of the library by its name.

    Parameters
    ----------
    overrides
        Dotted path to value, set after those of the file, such as ``{"memory.resources.hbm": "3TB/s"}``.

    Raises
    ------
    InputError
        There is no such file, or it does not hold an instance; the message names file and field.
    """
    path = Path(source)
    if not os.path.isfile(path):  # false for names that no file can have, where Path raises
        known = library()
        if str(source) not in known:
            hint = did_you_mean(str(source), known)
            raise InputError(source, "", f"an instance file or a name from `kvbound instance list`{hint}")
        path = known[str(source)]
    return from_mapping(read_json(path), file=path, folder=path.parent, overrides=overrides)


def from_mapping(
    mapping: object,
    *,
    file: object = "instance",
    folder: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Instance:
    """Build an instance from the document of an instance file.

    Parameters
    ----------
    folder
        What relative trace paths start from; by default the current folder.
    overrides
        As for `read_instance`.
    """
    fields = Fields(mapping, file)
    if fields.text("schema") != SCHEMA:
        raise fields.error("schema", repr(SCHEMA))
    parts = {name: fields.raw(name, "a name or a table") for name in ("memory", "llm", "trace")}
    parts["rules"] = fields.raw("rules", default={})
    parts["formats"] = fields.raw("formats", default={})
    parts["objective"] = fields.raw("objective", default={})
    if fields.raw("latency", default=LATENCY) != LATENCY:
        raise fields.error("latency", f"{LATENCY!r}, the only meaning that latencies have, or no such field")
    changes = dict(_pairs(fields.raw("overrides", default={}), file))
    changes |= _pairs({} if overrides is None else overrides, file)
    name = fields.name("name")
    fields.done()
    return make_instance(name, **parts, overrides=changes, file=file, folder=folder)


def make_instance(
    name: str,
    *,
    memory: object,
    llm: object,
    trace: object,
    rules: object = None,
    formats: object = None,
    objective: object = None,
    overrides: object = None,
    capacity: str | float | np.number[Any] | None = None,
    file: object | None = None,
    folder: Path | None = None,
) -> Instance:
    """Assemble an instance.

    Parameters
    ----------
    memory, llm
        Catalog names, or tables as in an instance file; an llm also as the path of a JSON file, such as a
        model's ``config.json``.
    trace
        A path, a `Trace`, or a table: ``{"path"}``, ``{"reads", "prefill_tokens"}`` or ``{"synthetic"}``.
    formats
        Number formats of the KV in tiers, by name, where they differ from the llm's: a name of
        `kvbound.llm.formats`, ``{"k", "v"}`` or ``{"bytes"}``.
    objective
        An `Objective`, or a table ``{"time", "energy", "level", "point"}``; by default time alone.
    overrides
        Dotted path to value; list entries are addressed by name: ``"memory.tiers.hbm.capacity"``. A path that
        does not exist is refused.
    capacity
        Tier 0's capacity, a shorthand for that override.
    file, folder
        Where the parts come from, for messages, and what relative paths start from.

    Raises
    ------
    InputError
        A part is not as expected; the message names it.
    UsageError
        There is no such catalog name, and the parts do not come from a file.
    """
    raw: dict[str, Any] = {
        "memory": _entry("memory", memory, file),
        "llm": _entry("llm", _from_json(llm, folder), file),
    }
    file = file or name
    raw["rules"] = {} if rules is None else _copy(rules)
    raw["formats"] = {} if formats is None else _copy(formats)
    raw["objective"] = {} if objective is None else _copy(objective)
    if isinstance(trace, Mapping) and "synthetic" in trace:
        raw["trace"] = _copy(trace)
    _change(raw, overrides, file)
    if capacity is not None:
        for first in Fields(raw["memory"], file, "memory").items("tiers")[:1]:
            Fields(first, file, "memory.tiers.0")  # a table
            first["capacity"] = _copy(capacity)
    _refuse_fractions(raw["memory"], file)
    workload = _workload(raw.get("trace", trace), file, folder)
    allowed = Rules.from_mapping(raw["rules"], file, "rules")
    goal = Objective.from_mapping(raw["objective"], file, "objective")
    timeline = workload.timeline

    def kv_bytes(model: Llm, sizes: Sequence[int]) -> int:
        return most_bytes(timeline.by_layer(ending_windows(allowed, model)), sizes)

    routed = bool(workload.expert_counts)
    room, model, sizes = _hardware(raw, kv_bytes, file, allowed.granularity, routed=routed)
    with located(file):
        return Instance(name, room, model, allowed, workload, sizes, goal)


def read_hardware(
    memory: object, llm: object, tokens: int, *, overrides: object = None, file: object = "command line"
) -> tuple[Memory, Llm]:
    """Return a memory and a language model without a trace; arguments and errors as for `make_instance`.

    Parameters
    ----------
    tokens
        Tokens whose KV a capacity given as a share refers to.
    """
    named = _from_json(llm, None)
    raw: dict[str, Any] = {"memory": _entry("memory", memory, None), "llm": _entry("llm", named, None)}
    _change(raw, overrides, file)
    _refuse_fractions(raw["memory"], file)
    return _hardware(raw, lambda _, sizes: tokens * sum(sizes), file)[:2]


def _change(raw: dict[str, Any], overrides: object, file: object) -> None:
    """Apply overrides to tables in place."""
    changes = dict(_pairs({} if overrides is None else overrides, file))
    # whole ones first
    for path in sorted(changes, key=lambda path: path not in ("memory", "llm", "objective")):
        value = changes[path]
        apply(raw, path, _entry(path, value, file) if path in ("memory", "llm") else _copy(value), file)


def _hardware(
    raw: Mapping[str, Any],
    kv_bytes: Callable[[Llm, Sequence[int]], int],
    file: object,
    granularity: int | None = None,
    *,
    routed: bool = False,
) -> tuple[Memory, Llm, dict[str, tuple[int, ...]]]:
    """Return the memory, the language model, and the bytes of a token's KV in each layer by tier.

    Parameters
    ----------
    kv_bytes
        Returns the bytes of KV that a capacity given as a share refers to, for a language model and its
        bytes of a token's KV in tier 0 by layer.
    granularity
        Tokens per block, if weights that may be placed do not count as resident.
    routed
        Whether the trace names experts.
    """
    model = Llm.from_mapping(raw["llm"], file, "llm")
    formats = Fields(raw.get("formats", {}), file, "formats")

    def by_layer(tier: str) -> tuple[int, ...]:
        if not formats.has(tier):
            return model.kv_sizes
        return kv_sizes(formats, tier, model.kv_sizes, model.kv_format, model.config)

    def share_of(share: Fraction) -> int:
        kv, placeable = kv_bytes(model, by_layer(raw["memory"]["tiers"][0]["name"])), 0
        if granularity is not None:
            chunks = Chunks.of(model, granularity, routed=routed)
            placeable = int(chunks.bytes(model, granularity).sum())
        return model.room_for_share(share, kv, placeable)

    room = Memory.from_mapping(raw["memory"], file, "memory", share_of=share_of)
    sizes = {tier.name: by_layer(tier.name) for tier in room.tiers}
    formats.done()
    return room, model, sizes


def _entry(kind: str, value: object, file: object) -> Any:
    """Return a catalog entry or a table as nested dictionaries that overrides may change."""
    if isinstance(value, Memory):
        return value.to_mapping()
    if isinstance(value, Llm):  # formats of tiers follow from these two
        derived = {"kv_format": value.kv_format, "config": dict(value.config), "windows": list(value.windows)}
        return value.to_mapping() | derived | value.experts_mapping()
    if isinstance(value, str):
        from kvbound import catalog

        value = catalog.entry(catalog.Kind(kind), value, file=file, field=kind)
    return _copy(value)


def _copy(value: object) -> Any:
    """Copy nested tables and lists, with Python numbers for NumPy ones."""
    if isinstance(value, Rules | Objective):
        return value.to_mapping()
    if isinstance(value, Mapping):
        return {key: _copy(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_copy(entry) for entry in value]
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value.item() if isinstance(value, np.generic) else value


def _refuse_fractions(memory: object, file: object) -> None:
    """Refuse a capacity such as 0.3: it is a share without its percent sign, or a size without its unit."""
    tiers = memory.get("tiers") if isinstance(memory, Mapping) else None
    for n, tier in enumerate(tiers if isinstance(tiers, list) else ()):
        size = tier.get("capacity") if isinstance(tier, Mapping) else None
        if is_bare_fraction(size):
            field = f"memory.tiers.{tier.get('name', n)}.capacity"
            raise InputError(file, field, f"a share such as 30% or a size such as 0.3GB, not {show(size)}")


def _from_json(llm: object, folder: Path | None) -> object:
    """Return a language model read from a JSON file, or anything else as it is."""
    if not isinstance(llm, Path) and not (isinstance(llm, str) and llm.endswith(".json")):
        return llm
    from kvbound.llm.config import read_llm

    return read_llm((folder or Path()) / llm)


def _pairs(overrides: object, file: object) -> Iterator[tuple[str, Any]]:
    fields = Fields(overrides, file, "overrides")
    for path in fields:
        yield path, fields.raw(path)


def _workload(trace: object, file: object, folder: Path | None) -> Trace | Synthetic:
    if isinstance(trace, Trace | Synthetic):
        return trace
    if isinstance(trace, str | Path):
        return read_trace((folder or Path()) / trace)
    fields = Fields(trace, file, "trace")
    if fields.has("synthetic"):
        spec = fields.raw("synthetic")
        fields.done()
        return workloads.from_mapping(spec, file=file, field="trace.synthetic")
    if fields.has("path"):
        return _from_path(fields, folder)
    reads = fields.items("reads")
    prefill = fields.integer("prefill_tokens", 0, 2**31)
    given = {name: fields.raw(name, default=None) for name in (*TIMELINE, "experts")}
    fields.done()
    with located(file, "trace"):
        return Trace.from_lists(prefill, reads, **given, file=file)


def _from_path(fields: Fields, folder: Path | None) -> Trace:
    """Read the trace, and verify what an expanded instance says of it beside the path."""
    path = fields.text("path")
    claims = {key: fields.raw(key) for key in ("layers", "prefill_tokens", "decode_steps") if fields.has(key)}
    hashes, dense = fields.raw("sha256", default=None), fields.raw("dense", default=None)
    experts = fields.raw("experts_sha256", default=[])
    # an expanded instance, which has hashes, names all fields that are not at their defaults but the labels
    stated = [name for name in TIMELINE if (hashes is not None and name != "sequence") or fields.has(name)]
    given = {name: fields.raw(name, default=None) for name in stated}
    fields.done()
    trace = read_trace((folder or Path()) / path)
    for key, claimed in claims.items():
        if claimed != getattr(trace, key):
            raise fields.error(key, f"{getattr(trace, key)} as in {path}, not {show(claimed)}")
    known = trace.timeline.to_mapping() if given else {}
    for name, claimed in given.items():
        if claimed != known.get(name):
            raise fields.error(name, f"the {name} of {path}; it is another trace")
    if dense not in (None, trace.dense):
        raise fields.error("dense", f"{show(trace.dense)} as in {path}, not {show(dense)}")
    if hashes is not None and hashes != trace.row_hashes():
        raise fields.error("sha256", f"the hashes of the rows of {path}; it is another trace")
    if hashes is not None and experts != trace.expert_hashes():
        raise fields.error("experts_sha256", f"the hashes of the experts of {path}; it is another trace")
    return trace


def write_instance(instance: Instance, path: Path | str) -> None:
    """Write an instance file with every field explicit, and beside it the trace unless it is synthetic."""
    target = Path(path)
    if isinstance(instance.workload, Synthetic):
        trace: dict[str, Any] = {"synthetic": instance.workload.to_mapping()}
    else:
        folder = target.with_suffix(".trace")
        write_trace(instance.workload, folder)
        trace = {"path": folder.name}
    write_json(instance.document(trace), target)


def write_expanded(instance: Instance, path: Path | str) -> None:
    """Write the form that the checker reads, with the hashes of the trace's rows, and the trace beside it."""
    target = Path(path)
    folder = target.with_suffix(".trace")
    write_trace(instance.token_trace, folder)
    write_json(instance.expanded(folder.name), target)


def write_json(value: object, path: Path | str) -> None:
    """Write a JSON document atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")
