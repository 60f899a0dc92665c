"""The folder of a reproduced study: its cells, and the tables computed from them."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from kvbound.errors import InputError
from kvbound.fields import Fields
from kvbound.files import atomic_write
from kvbound.instance_io import write_json
from kvbound.progress import Progress, silent
from kvbound.reading import read_json
from kvbound.report import study as study_tables
from kvbound.report.sections import Section
from kvbound.studies.record import Record, Settings, large_cell, read_record
from kvbound.studies.study import STUDIES, load_study
from kvbound.studies.verify import verify_cell

SCHEMA: Final = "kvbound.study/1"
STUDY, TABLES, CELLS = "study.json", "tables.md", "cells.csv"


class Report(NamedTuple):
    """The report on a study's cells, as JSON, as Markdown, as CSV, and its sections by name."""

    document: dict[str, Any]
    markdown: str
    csv: str
    sections: Mapping[str, Section]


def report(tables: Iterable[str], records: Mapping[str, Record], settings: Settings) -> Report:
    """Return the report on these tables from the records of cells, which may be incomplete."""
    study = settings.study
    names = {name: [cell.name for cell in study.tables[name]] for name in tables}
    largest, remarks = study.headline(records.values()), notes(settings)
    document = {
        "schema": SCHEMA, "study": study.name, "settings": settings.to_json(), "notes": remarks,
        "tables": names, "cells": list(records.values()), "headline": largest,
    }  # fmt: skip
    title = f"{study.title}: --scale {settings.scale.name}"
    made = {name: study.sections[name]() for name in names if name in study.sections}
    if made:
        document["sections"] = {name: section.to_json() for name, section in made.items()}
    lines = study.headlines(largest)
    text = study_tables.markdown(
        title, remarks, names, records, lines, study.accounting, study.reference, made
    )
    return Report(document, text, study_tables.as_csv(records.values(), study.accounting), made)


def notes(settings: Settings) -> list[str]:
    """Return notes that explain the tables."""
    return [
        *settings.study.notes(settings.scale),
        f"Solvers of a cell had {settings.time_limit:g} s together, seed {settings.seed}.",
    ]


def write_report(report: Report, folder: Path) -> None:
    """Write the tables, and then the JSON document."""
    for name, text in ((TABLES, report.markdown), (CELLS, report.csv)):
        with atomic_write(folder / name) as place:
            place.write_text(text, encoding="utf-8", newline="")
    write_json(report.document, folder / STUDY)


def check_folder(folder: Path, progress: Progress = silent) -> dict[Path, list[str]]:
    """Verify every cell, and that the tables follow from the cells.

    Returns
    -------
    For each file one sentence for each false claim.

    Raises
    ------
    InputError
        A file is missing, damaged, or not from a study.
    """
    names, settings = _read_study(folder / STUDY)
    known = {cell.name: cell for cell in settings.study.cells()}
    problems: dict[Path, list[str]] = {}
    records: dict[str, Record] = {}
    policies: dict[Hashable, Record] = {}
    places = sorted((folder / "cells").glob("*.json"))
    for number, place in enumerate(places):
        progress(number, len(places), f"{place.stem}: verified")
        record = records[place.stem] = read_record(place, settings.study)
        if place.stem not in known:
            problems[place] = ["the study has no such cell"]
        elif record["settings"] != settings.to_json():
            message = f"its settings are {record['settings']}, but the study's are {settings.to_json()}"
            problems[place] = [message]
        else:
            cell = known[place.stem]
            problems[place] = verify_cell(cell, settings, record, place.parent, policies)
    if any(problems.values()):
        return problems
    wanted = dict.fromkeys(cell.name for name in names for cell in settings.study.tables[name])
    expected = report(names, {name: records[name] for name in wanted if name in records}, settings)
    document = json.loads(json.dumps(expected.document))
    problems[folder / STUDY] = [] if read_json(folder / STUDY) == document else [_DIFFERS]
    for name, text in ((TABLES, expected.markdown), (CELLS, expected.csv)):
        problems[folder / name] = [] if _text(folder / name) == text else [_DIFFERS]
    return problems


_DIFFERS = "it does not follow from the cells; reproduce makes it again"


def unproved(folder: Path) -> list[str]:
    """Return the cells whose schedules were too large to keep, so that solvers' times are not replayed."""
    _, settings = _read_study(folder / STUDY)
    cells = [cell for cell in settings.study.cells() if (folder / "cells" / f"{cell.name}.json").exists()]
    return [cell.name for cell in cells if large_cell(cell, settings)]


def _read_study(place: Path) -> tuple[list[str], Settings]:
    """Return the names of the tables, and the settings."""
    fields = Fields(read_json(place), place)
    if fields.text("schema") != SCHEMA:
        raise fields.error("schema", f"{SCHEMA!r}, not {fields.raw('schema')!r:.60}")
    if fields.text("study") not in STUDIES:
        raise fields.error("study", f"one of {', '.join(STUDIES)}, not {fields.raw('study')!r:.60}")
    study, names = load_study(fields.text("study")), list(fields.child("tables"))
    if not names or not set(names) <= set(study.tables):
        raise fields.error("tables", f"some of {', '.join(study.tables)}, not {names!r:.60}")
    given = fields.child("settings")
    if given.text("scale") not in study.scales:
        raise given.error("scale", f"one of {', '.join(study.scales)}, not {given.raw('scale')!r:.60}")
    limit = given.number("time_limit_s", 0)
    return names, Settings(study, study.scales[given.text("scale")], given.integer("seed"), limit)


def _text(place: Path) -> str:
    try:
        with place.open(encoding="utf-8", newline="") as file:
            return file.read()
    except OSError as error:
        raise InputError(place, "", f"a readable file: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(place, "", "UTF-8 text") from None
