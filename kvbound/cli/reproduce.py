"""``kvbound reproduce``: a published study, our numbers beside the published ones."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvbound.cli import console, options, output
from kvbound.errors import MissingPackageError, UsageError, install_command
from kvbound.fields import did_you_mean

if TYPE_CHECKING:
    from kvbound.studies.cells import Record, Settings

SCHEMA = "kvbound.study/1"


class ScaleName(StrEnum):
    """Sizes of a study."""

    QUICK = "quick"
    FULL = "full"


def reproduce(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="fang2025: arXiv 2508.13231.")],
    table: Annotated[str | None, typer.Option(metavar="NAME", help="Only this table.")] = None,
    scale: Annotated[
        ScaleName, typer.Option(help="Quick is 1/64 of the tokens and 1/8 of the layers: minutes.")
    ] = ScaleName.QUICK,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Tables, CSV, figures, and each cell as it is done."),
    ] = None,
    time_limit: Annotated[
        str | None,
        typer.Option(metavar="S", help="The solvers' time in a cell; by default 5s or 5min."),
    ] = None,
    figures: Annotated[
        bool | None, typer.Option("--figures/--no-figures", help="By default with --out, if it can be.")
    ] = None,
    seed: options.Seed = 0,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Reproduce a published study.

    With --out a run that was stopped goes on where it was.
    """
    from kvbound.studies import STUDIES, fang2025
    from kvbound.studies.cells import Settings

    if study not in STUDIES:
        raise UsageError(
            f"unknown study {study!r}{did_you_mean(study, STUDIES)} (known: {', '.join(STUDIES)})"
        )
    if table is not None and table not in fang2025.TABLES:
        known = ", ".join(fang2025.TABLES)
        raise UsageError(f"unknown table {table!r}{did_you_mean(table, fang2025.TABLES)} (known: {known})")
    output.check_folder(out)
    drawn = _figures(figures, out, quiet=quiet)
    size = fang2025.SCALES[scale]
    limit = size.time_limit if time_limit is None else options.seconds("--time-limit", time_limit)
    settings = Settings(size, seed, limit)
    records: dict[str, Record] = {}
    interrupted = False
    try:
        _run(table, settings, out, records, quiet=quiet)
    except KeyboardInterrupt:
        interrupted = True
    tables = {
        name: [cell.name for cell in cells]
        for name, cells in fang2025.TABLES.items()
        if table in (None, name)
    }
    _report(tables, records, settings, out, drawn=drawn, as_json=as_json)
    if interrupted:
        raise KeyboardInterrupt


def _figures(wanted: bool | None, out: Path | None, *, quiet: bool) -> bool:
    """Whether to draw; asked for without matplotlib, or with nowhere to put them, is a mistake."""
    from kvbound.report import study_plots

    if wanted and out is None:
        raise UsageError("--figures needs --out")
    if wanted and not study_plots.available():
        raise MissingPackageError("plots")
    if wanted is None and out is not None and not study_plots.available():
        console.note(f"no figures without matplotlib: {install_command('plots')}", quiet=quiet)
    return out is not None and wanted is not False and study_plots.available()


def _run(
    table: str | None, settings: Settings, out: Path | None, records: dict[str, Record], *, quiet: bool
) -> None:
    """Run the cells one at a time into `records`; off a terminal a line for each says how far it is."""
    from kvbound.report import numbers
    from kvbound.studies import fang2025
    from kvbound.studies.cells import run_cells

    cells = list(fang2025.cells(table))
    with console.Bar(quiet=quiet) as bar:
        for record in run_cells(cells, settings, out, bar):
            records[record["cell"]] = record
            done = f"{len(records)}/{len(cells)} {record['cell']}: gap {numbers.gap(record['gap'])}"
            console.note(done, quiet=quiet or sys.stderr.isatty())


def _report(
    tables: Mapping[str, list[str]], records: dict[str, Record], settings: Settings, out: Path | None,
    *, drawn: bool, as_json: bool,
) -> None:  # fmt: skip
    from kvbound.instance_io import write_json
    from kvbound.report import study, study_plots
    from kvbound.studies import fang2025

    largest = fang2025.headline(records.values())
    document: dict[str, Any] = {
        "schema": SCHEMA, "study": "fang2025", "settings": settings.to_json(), "notes": _notes(settings),
        "tables": tables, "cells": list(records.values()), "headline": largest,
    }  # fmt: skip
    title = f"{fang2025.TITLE}: --scale {settings.scale.name}"
    text = study.markdown(title, _notes(settings), tables, records, largest)
    if out is not None and records:
        out.mkdir(parents=True, exist_ok=True)
        (out / "tables.md").write_text(text, encoding="utf-8")
        study.write_csv(records.values(), out / "cells.csv")
        write_json(document, out / "study.json")
    if drawn:
        for name, cells in tables.items():
            rows = [records[cell] for cell in cells if cell in records]
            if rows and out is not None:
                study_plots.draw(name, rows, out / "figures")
    if as_json:
        console.show_json(document)
    else:
        console.emit(text)


def _notes(settings: Settings) -> list[str]:
    """Return what a reader of the tables has to know."""
    from kvbound.studies import fang2025

    return [
        *fang2025.notes(settings.scale),
        f"Solvers of a cell had {settings.time_limit:g} s together, seed {settings.seed}.",
    ]
