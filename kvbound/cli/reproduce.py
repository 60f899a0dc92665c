"""``kvbound reproduce``: reproduce a published study and compare the numbers."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kvbound.cli import console, options, output
from kvbound.errors import MissingPackageError, UsageError, install_command
from kvbound.fields import did_you_mean

if TYPE_CHECKING:
    from kvbound.studies.record import Record, Settings


class ScaleName(StrEnum):
    """Sizes of a study."""

    QUICK = "quick"
    FULL = "full"


def reproduce(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="fang2025 (arXiv 2508.13231) or tiered2026.")],
    table: Annotated[str | None, typer.Option(metavar="NAME", help="Run only this table.")] = None,
    scale: Annotated[
        ScaleName, typer.Option(help="Quick: 1/64 of the tokens and fewer layers; takes minutes.")
    ] = ScaleName.QUICK,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Folder for tables, CSV, figures, and each finished cell."),
    ] = None,
    time_limit: Annotated[
        str | None,
        typer.Option(
            metavar="S",
            help="Time limit of the solvers in a cell; by default the study's for the scale.",
        ),
    ] = None,
    figures: Annotated[
        bool | None,
        typer.Option("--figures/--no-figures", help="By default with --out if matplotlib is installed."),
    ] = None,
    seed: options.Seed = 0,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Reproduce a published study.

    With --out, an interrupted run resumes after verifying the saved cells. 'kvbound check'
    verifies the folder.
    """
    from kvbound.studies import STUDIES, load_study
    from kvbound.studies.record import Settings

    if study not in STUDIES:
        raise UsageError(
            f"unknown study {study!r}{did_you_mean(study, STUDIES)} (known: {', '.join(STUDIES)})"
        )
    chosen = load_study(study)
    if table is not None and table not in chosen.tables:
        known = ", ".join(chosen.tables)
        raise UsageError(f"unknown table {table!r}{did_you_mean(table, chosen.tables)} (known: {known})")
    output.check_folder(out)
    drawn = _figures(figures, out, quiet=quiet)
    size = chosen.scales[scale]
    limit = size.time_limit if time_limit is None else options.seconds("--time-limit", time_limit)
    settings = Settings(chosen, size, seed, limit)
    records: dict[str, Record] = {}
    ended: KeyboardInterrupt | OSError | None = None
    try:
        _run(table, settings, out, records, quiet=quiet)
    except (KeyboardInterrupt, OSError) as error:
        ended = error
    tables = [name for name in chosen.tables if table in (None, name)]
    unsaved = _report(tables, records, settings, out, drawn=drawn, as_json=as_json)
    for failure in (ended, unsaved):
        if failure is not None:
            raise failure


def _figures(wanted: bool | None, out: Path | None, *, quiet: bool) -> bool:
    """Return whether to draw figures; refuse to if they are requested without matplotlib or without --out."""
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
    """Run the cells one after the other into `records`; without a terminal print a line for each."""
    from kvbound.report import numbers
    from kvbound.studies.runs import run_cells

    cells = list(settings.study.cells(table))
    with console.Bar(quiet=quiet) as bar:
        for record in run_cells(cells, settings, out, bar):
            records[record["cell"]] = record
            done = f"{len(records)}/{len(cells)} {record['cell']}: gap {numbers.gap(record['gap'])}"
            console.note(done, quiet=quiet or sys.stderr.isatty())


def _report(
    tables: Iterable[str], records: dict[str, Record], settings: Settings, out: Path | None,
    *, drawn: bool, as_json: bool,
) -> OSError | None:  # fmt: skip
    """Write and print the report on the cells so far; return the error of writing, if any."""
    from kvbound.report import study_plots
    from kvbound.studies import folder

    report = folder.report(tables, records, settings)

    def write() -> None:
        if out is None or not (records or report.sections):
            return
        folder.write_report(report, out)
        for name, section in report.sections.items() if drawn else ():
            if section.curves is not None:
                study_plots.draw_curves(name, section.curves, out / "figures")
        for name, cells in settings.study.tables.items() if drawn else ():
            rows = [records[cell.name] for cell in cells if name in tables and cell.name in records]
            if rows:
                study_plots.draw(name, rows, out / "figures")

    unsaved = output.attempt(write)
    if as_json:
        console.show_json(report.document)
    else:
        console.emit(report.markdown)
    return unsaved
