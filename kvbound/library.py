"""The contents of the instance library, read from its files without opening a trace."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvbound import workloads
from kvbound.files import atomic_write
from kvbound.instance_io import LIBRARY, library
from kvbound.reading import read_json

BEST_KNOWN = LIBRARY / "best_known.csv"


@dataclass(frozen=True)
class BestKnown:
    """One row of the table of best known values.

    Attributes
    ----------
    time_s
        Decode time of the best known schedule; under `fang2025` accounting that study's `best`.
    bound_s
        The highest known time lower bound; None if there is none.
    status
        As in results: "optimal", "feasible" or "unknown".
    method
        The method that found `time_s`.
    bound_by
        The method that proved `bound_s`; the certificate of "dual" is stored beside the instance. Empty
        without a bound.
    command
        The command that finds the row's values again.
    """

    set: str
    name: str
    time_s: float
    bound_s: float | None
    status: str
    method: str
    bound_by: str
    command: str


@dataclass(frozen=True)
class Entry:
    """One instance of the library."""

    set: str
    name: str
    layers: int
    prefill_tokens: int
    decode_steps: int
    accounting: str
    best_known: BestKnown | None

    def to_mapping(self) -> dict[str, Any]:
        """Return what JSON holds."""
        return dataclasses.asdict(self)


def entries() -> list[Entry]:
    """Return the library's instances, set by set."""
    known = best_known()
    found = (_entry(path, known.get(path.stem)) for path in library().values())
    return sorted(found, key=lambda entry: (entry.set, entry.name))


def best_known(path: Path = BEST_KNOWN) -> dict[str, BestKnown]:
    """Return the best known values by the instances' names."""
    with path.open(newline="", encoding="utf-8") as file:
        return {row["name"]: _best_known(**row) for row in csv.DictReader(file)}


def _best_known(*, time_s: str, bound_s: str, **text: str) -> BestKnown:
    return BestKnown(time_s=float(time_s), bound_s=float(bound_s) if bound_s else None, **text)


def write_best_known(rows: Iterable[BestKnown], path: Path = BEST_KNOWN) -> None:
    """Write the table, set by set; floats keep every digit."""
    columns = [field.name for field in dataclasses.fields(BestKnown)]
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(columns)
        for row in sorted(rows, key=lambda row: (row.set, row.name)):
            out.writerow([getattr(row, column) for column in columns])


def _entry(path: Path, best: BestKnown | None) -> Entry:
    document = read_json(path)
    rules = document.get("rules", {})
    shape = _shape(document["trace"], path.parent)
    return Entry(path.parent.name, document["name"], *shape, rules.get("accounting", "physical"), best)


def _shape(trace: dict[str, Any], folder: Path) -> tuple[int, int, int]:
    """Return layers, prompt tokens and decode steps."""
    if "synthetic" in trace:
        spec = workloads.from_mapping(trace["synthetic"])
        return spec.layers, spec.prefill_tokens, spec.decode_steps
    if "reads" in trace:
        reads = trace["reads"]
        return len(reads[0]), trace["prefill_tokens"], len(reads)
    header = json.loads((folder / trace["path"] / "header.json").read_text(encoding="utf-8"))
    return header["layers"], header["prefill_tokens"], header["decode_steps"]
