"""Run a study's cells one after the other, and store each as soon as it is complete."""

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
    """Yield the record of every cell; those stored in `folder` are verified instead of run.

    Parameters
    ----------
    folder
        The folder of ``cells/NAME.json`` and the proofs; None stores nothing.

    Raises
    ------
    InputError, RejectedError, UsageError
        A stored cell is damaged, its claims are false, or it was run with other settings.
    OSError
        A cell could not be written; its record has been yielded.
    KeyboardInterrupt
        The current cell is lost; the earlier ones are stored.
    """
    todo = list(cells)
    places = [None if folder is None else folder / "cells" / f"{cell.name}.json" for cell in todo]
    known = _stored(todo, places, settings, progress)
    policies: dict[Hashable, Record] = {}
    for number, (cell, place, record) in enumerate(zip(todo, places, known, strict=True), 1):
        unsaved = None
        if record is None:
            report = _named(progress, f"{number}/{len(todo)} {cell.name}")
            run = run_cell(cell, settings, report, policies.get(cell.as_published))
            record = run.record
            try:
                record = record if place is None else store(run, place)
            except OSError as error:
                unsaved = error
        policies[cell.as_published] = record[settings.study.accounting]
        yield record
        if unsaved is not None:
            raise unsaved


def _named(progress: Progress, name: str) -> Progress:
    """Prefix progress notes with the name of the cell."""

    def report(done: float, total: float, note: str = "") -> None:
        progress(done, total, f"{name}: {note}")

    return report


def _stored(
    cells: Iterable[Cell], places: Iterable[Path | None], settings: Settings, progress: Progress
) -> list[Record | None]:
    """Read and verify the stored records; None for cells that are yet to run."""
    found: list[tuple[Cell, Path | None, Record | None]] = []
    for cell, place in zip(cells, places, strict=True):
        record = None if place is None or not place.is_file() else read_record(place, settings.study)
        if record is not None and record["settings"] != settings.to_json():
            message = f"{place} was run with other settings, {record['settings']}"
            raise UsageError(f"{message}; take another --out")
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
