"""Records of a study's cells as JSON, with the certificates and schedules that prove them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from kvbound.errors import InputError
from kvbound.fields import Fields
from kvbound.instance_io import write_json
from kvbound.reading import read_json
from kvbound.residency import exceeds_event_limit
from kvbound.studies.study import Cell, Scale, Study
from kvbound.version import __version__

SCHEMA: Final = "kvbound.study-cell/2"

Record = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """The settings that a record depends on, apart from its cell."""

    study: Study
    scale: Scale
    seed: int = 0
    time_limit: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the fields that must match those of a stored record."""
        return {
            "scale": self.scale.name,
            "seed": self.seed,
            "time_limit_s": self.time_limit,
            "kvbound_version": __version__,
        }


def large_cell(cell: Cell, settings: Settings) -> bool:
    """Whether the schedules of a cell are too large to keep."""
    return exceeds_event_limit(cell.instance(settings.scale, settings.seed))


class CellRun(NamedTuple):
    """The outcome of a cell: its record, and a writer for each proof, by file name."""

    record: Record
    proofs: Mapping[str, Callable[[Path], None]]


def certificate_name(cell: str) -> str:
    """Return the name of the file with the certificate of a cell's bound."""
    return f"{cell}.certificate.npz"


def schedule_name(cell: str, solver: str) -> str:
    """Return the name of the file with a solver's schedule."""
    return f"{cell}.{solver}.schedule.npz"


def store(run: CellRun, place: Path) -> Record:
    """Write a cell's proofs, and then at `place` the record with their hashes; return it as written."""
    for name, write in run.proofs.items():
        write(place.parent / name)
    record = run.record | {"files": {name: file_hash(place.parent / name) for name in run.proofs}}
    record["sha256"] = digest(record)
    write_json(record, place)
    return record


def read_record(place: Path, study: Study) -> Record:
    """Read a record that `store` wrote, without verifying its claims.

    Raises
    ------
    InputError
        It does not have the form of a record, or it or one of its files has been changed.
    """
    record: Record = read_json(place)
    fields = Fields(record, place)
    if fields.text("schema") != SCHEMA:
        raise fields.error(
            "schema", f"{SCHEMA!r}, not {fields.raw('schema')!r:.60}; delete it to run the cell"
        )
    if fields.text("cell") != place.stem:
        raise fields.error("cell", f"the file's name, {place.stem!r}")
    _settings(fields.child("settings"))
    factors = fields.child("factors")
    for name, value in next(study.cells()).factors.items():
        read = factors.text if isinstance(value, str) else factors.integer
        read(name)
    factors.done()
    shape = fields.child("instance")
    for name in ("layers", "prefill_tokens", "decode_steps", "reads", "room_blocks"):
        shape.integer(name)
    shape.done()
    for rules, names in (
        (study.accounting, study.policies),
        ("physical", (*study.schedules, *study.solvers)),
    ):
        entries = fields.child(rules)
        for name in names:
            _entry(entries.child(name))
        entries.done()
    for name in ("ideal_s", "bound_s", "gap", "static_over_best_found", "static_over_bound"):
        _or_null(fields, name)
    for name in ("bound_status", "best_found"):
        if fields.raw(name) is not None:
            fields.text(name)
    for number, line in enumerate(fields.items("published")):
        _published(Fields(line, place, f"published.{number}"))
    _files(fields, place, study)
    fields.done()
    return record


def _settings(fields: Fields) -> None:
    for name in ("scale", "kvbound_version"):
        fields.text(name)
    fields.integer("seed")
    fields.number("time_limit_s", 0)
    fields.done()


def _entry(fields: Fields) -> None:
    _or_null(fields, "time_s", 0)
    _or_null(fields, "hit_rate", 0, 1)
    note = fields.raw("note")
    if not isinstance(note, str) or not note.isprintable():
        raise fields.error("note", f"printable text, not {note!r:.60}")
    fields.done()


def _published(fields: Fields) -> None:
    fields.text("what")
    fields.number("published", 0)
    _or_null(fields, "ours", 0)
    _or_null(fields, "deviation")
    fields.done()


def _or_null(fields: Fields, name: str, *limits: float) -> None:
    if fields.raw(name, "a number, or null") is not None:
        fields.number(name, *limits)


def _files(fields: Fields, place: Path, study: Study) -> None:
    """Verify that the record and its proofs have not been changed."""
    cell, files = place.stem, fields.child("files")
    for name in [certificate_name(cell), *(schedule_name(cell, solver) for solver in study.solvers)]:
        if not files.has(name):
            continue
        try:
            found = file_hash(place.parent / name)
        except OSError as error:
            raise InputError(place.parent / name, "", f"a readable file: {error.strerror}") from None
        if found != files.text(name):
            raise InputError(place.parent / name, "", f"the file that belongs to {place}; it is damaged")
    files.done()
    record = {name: fields.raw(name) for name in fields}
    if fields.text("sha256") != digest(record):
        raise fields.error("sha256", "the hash of the fields; the file is damaged or edited")


def digest(record: Mapping[str, Any]) -> str:
    """Return the SHA-256 (hex) of a record's fields, apart from the hash itself."""
    body = {name: value for name, value in record.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def file_hash(path: Path) -> str:
    """Return the SHA-256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def ratios(times: Mapping[str, float | None], bound: float | None) -> dict[str, Any]:
    """Return the fastest method, its gap, and the time of static relative to it and to the bound."""
    known = {name: time for name, time in times.items() if time}
    winner, static = min(known, key=known.__getitem__, default=None), known.get("static")
    best = None if winner is None else known[winner]
    return {
        "best_found": winner,
        "gap": None if best is None or bound is None else 1 - bound / best,
        "static_over_best_found": None if static is None or best is None else static / best,
        "static_over_bound": None if static is None or not bound else static / bound,
    }


def compare_published(cell: Cell, settings: Settings, policies: Record) -> list[dict[str, Any]]:
    """Return published numbers and ours: ratios at any scale, seconds only at full size."""
    rows = []
    for what, published in settings.study.published(cell.name).items():
        one, _, other = what.partition(" / ")
        if not other and settings.scale.tokens > 1:
            continue
        time, unit = policies[one]["time_s"], policies[other]["time_s"] if other else 1.0
        own = None if time is None or not unit else time / unit
        deviation = None if own is None else own / published - 1
        rows.append({"what": what, "published": published, "ours": own, "deviation": deviation})
    return rows
