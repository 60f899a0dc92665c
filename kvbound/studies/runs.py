"""Run a study's cells one at a time, and keep each one as soon as it is done."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from pathlib import Path

from kvbound.errors import RejectedError, UsageError
from kvbound.progress import Progress, silent
from kvbound.studies.cells import run_cell
from kvbound.studies.record import Record, Settings, large_cell, read_record, store
from kvbound.studies.study import Cell
from kvbound.studies.verify import verify_cell


def run_cells(
    cells: Iterable[Cell], settings: Settings, folder: Path | None = None, progress: Progress = silent
) -> Iterator[Record]:
    """Yield the record of every cell; those that `folder` holds are verified, not run again.

    Parameters
    ----------
    folder
        Where ``cells/NAME.json`` are, and what proves them; None keeps nothing.

    Raises
    ------
    InputError, RejectedError, UsageError
        The folder holds something damaged, something that is not proved, or cells run with other settings.
    OSError
        A cell could not be written; its record has been yielded.
    KeyboardInterrupt
        The cell in work is lost, the others are kept.
    """
    todo = list(cells)
    places = [None if folder is None else folder / "cells" / f"{cell.name}.json" for cell in todo]
    known = _stored(todo, places, settings, progress)
    policies: dict[Hashable, Record] = {}
    for number, (cell, place, record) in enumerate(zip(todo, places, known, strict=True), 1):
        unsaved = None
        if record is None:
            report = _named(progress, f"{number}/{len(todo)} {cell.name}")
            ran = run_cell(cell, settings, report, policies.get(cell.as_published))
            record = ran.record
            try:
                record = record if place is None else store(ran, place)
            except OSError as error:
                unsaved = error
        policies[cell.as_published] = record[settings.study.accounting]
        yield record
        if unsaved is not None:
            raise unsaved


def _named(progress: Progress, name: str) -> Progress:
    """Say which cell is in work before what the solver says."""

    def report(done: float, total: float, note: str = "") -> None:
        progress(done, total, f"{name}: {note}")

    return report


def _stored(
    cells: Iterable[Cell], places: Iterable[Path | None], settings: Settings, progress: Progress
) -> list[Record | None]:
    """Read and verify the records that there are, before any cell is run."""
    found: list[tuple[Cell, Path | None, Record | None]] = []
    for cell, place in zip(cells, places, strict=True):
        record = None if place is None or not place.is_file() else read_record(place, settings.study)
        if record is not None and record["settings"] != settings.to_json():
            told = f"{place} was run with other settings, {record['settings']}"
            raise UsageError(f"{told}; take another --out")
        found.append((cell, place, record))
    policies: dict[Hashable, Record] = {}
    for number, (cell, place, record) in enumerate(found):
        if place is None or record is None:
            continue
        progress(number, len(found), f"{cell.name}: verified")
        problems = verify_cell(
            cell, settings, record, place.parent, policies, thorough=not large_cell(cell, settings)
        )
        if problems:
            raise RejectedError(f"{place}: {problems[0]}; delete it to run the cell again")
    return [record for _, _, record in found]
