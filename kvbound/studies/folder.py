"""The folder of a reproduced study: its cells, and the tables that follow from them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from kvbound.errors import InputError
from kvbound.fields import Fields
from kvbound.files import atomic_write
from kvbound.instance_io import read_json, write_json
from kvbound.progress import Progress, silent
from kvbound.report import study
from kvbound.studies import fang2025
from kvbound.studies.record import Record, Settings, large_cell, read_record
from kvbound.studies.verify import verify_cell

SCHEMA: Final = "kvbound.study/1"
STUDY, TABLES, CELLS = "study.json", "tables.md", "cells.csv"


class Report(NamedTuple):
    """What a study's cells amount to: as JSON, as Markdown, as CSV."""

    document: dict[str, Any]
    markdown: str
    csv: str


def report(tables: Iterable[str], records: Mapping[str, Record], settings: Settings) -> Report:
    """Make the tables of these names from the records of the cells that there are."""
    names = {name: [cell.name for cell in fang2025.TABLES[name]] for name in tables}
    largest, remarks = fang2025.headline(records.values()), notes(settings)
    document = {
        "schema": SCHEMA, "study": "fang2025", "settings": settings.to_json(), "notes": remarks,
        "tables": names, "cells": list(records.values()), "headline": largest,
    }  # fmt: skip
    title = f"{fang2025.TITLE}: --scale {settings.scale.name}"
    return Report(
        document, study.markdown(title, remarks, names, records, largest), study.as_csv(records.values())
    )


def notes(settings: Settings) -> list[str]:
    """Return what a reader of the tables has to know."""
    return [
        *fang2025.notes(settings.scale),
        f"Solvers of a cell had {settings.time_limit:g} s together, seed {settings.seed}.",
    ]


def write_report(made: Report, folder: Path) -> None:
    """Write the tables, and last what they are of."""
    for name, text in ((TABLES, made.markdown), (CELLS, made.csv)):
        with atomic_write(folder / name) as place:
            place.write_text(text, encoding="utf-8", newline="")
    write_json(made.document, folder / STUDY)


def check_folder(folder: Path, progress: Progress = silent) -> dict[Path, list[str]]:
    """Verify every cell, and that the tables follow from the cells.

    Returns
    -------
    Per file one sentence for each false claim.

    Raises
    ------
    InputError
        A file is missing, damaged or not of a study.
    """
    names, settings = _read_study(folder / STUDY)
    known = {cell.name: cell for cell in fang2025.cells()}
    problems: dict[Path, list[str]] = {}
    records: dict[str, Record] = {}
    policies: dict[fang2025.Cell, Record] = {}
    places = sorted((folder / "cells").glob("*.json"))
    for number, place in enumerate(places):
        progress(number, len(places), f"{place.stem}: verified")
        record = records[place.stem] = read_record(place)
        if place.stem not in known:
            problems[place] = ["the study has no such cell"]
        elif record["settings"] != settings.to_json():
            told = f"its settings are {record['settings']}, but the study's are {settings.to_json()}"
            problems[place] = [told]
        else:
            cell = known[place.stem]
            problems[place] = verify_cell(cell, settings, record, place.parent, policies)
    if any(problems.values()):
        return problems
    wanted = dict.fromkeys(cell.name for name in names for cell in fang2025.TABLES[name])
    made = report(names, {name: records[name] for name in wanted if name in records}, settings)
    document = json.loads(json.dumps(made.document))
    problems[folder / STUDY] = [] if read_json(folder / STUDY) == document else [_OTHER]
    for name, text in ((TABLES, made.markdown), (CELLS, made.csv)):
        problems[folder / name] = [] if _text(folder / name) == text else [_OTHER]
    return problems


_OTHER = "it does not follow from the cells; reproduce makes it again"


def unproved(folder: Path) -> list[str]:
    """Return the cells whose schedules were too large to keep: the solvers' times are not replayed."""
    _, settings = _read_study(folder / STUDY)
    cells = [cell for cell in fang2025.cells() if (folder / "cells" / f"{cell.name}.json").exists()]
    return [cell.name for cell in cells if large_cell(cell, settings)]


def _read_study(place: Path) -> tuple[list[str], Settings]:
    """Return the names of the tables, and the settings."""
    fields = Fields(read_json(place), place)
    if fields.text("schema") != SCHEMA:
        raise fields.error("schema", f"{SCHEMA!r}, not {fields.raw('schema')!r:.60}")
    names = list(fields.child("tables"))
    if not names or not set(names) <= set(fang2025.TABLES):
        raise fields.error("tables", f"some of {', '.join(fang2025.TABLES)}, not {names!r:.60}")
    given = fields.child("settings")
    if given.text("scale") not in fang2025.SCALES:
        raise given.error("scale", f"one of {', '.join(fang2025.SCALES)}, not {given.raw('scale')!r:.60}")
    scale = fang2025.SCALES[given.text("scale")]
    limit = given.number("time_limit_s", 0)
    return names, Settings(scale, given.integer("seed"), limit)


def _text(place: Path) -> str:
    try:
        with place.open(encoding="utf-8", newline="") as file:
            return file.read()
    except OSError as error:
        raise InputError(place, "", f"a readable file: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(place, "", "UTF-8 text") from None
