"""A reproduced study: its tables as Markdown and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kvbound.report import numbers
from kvbound.report.sections import Section, grid

Record = Mapping[str, Any]
Records = Mapping[str, Record]
"""Records by cell."""


def markdown(
    title: str,
    notes: Sequence[str],
    tables: Mapping[str, Sequence[str]],
    records: Records,
    headline: Sequence[str],
    accounting: str,
    reference: str = "best",
    sections: Mapping[str, Section] | None = None,
) -> str:
    """Return the tables of the cells that have a record, and the sections.

    Parameters
    ----------
    title, notes
        Heading and introductory paragraphs.
    tables
        Names of the cells of each table.
    headline
        Sentences on the largest ratios.
    accounting
        Name of the study's own accounting.
    reference
        The study's policy to whose time its others are compared.
    sections
        Sections by the names of their tables, whose cells follow.
    """
    sections = sections or {}
    unit = numbers.Unit.of(_times(records.values()), numbers.TIMES)
    parts = [f"# {title}", *notes]
    for name, cells in tables.items():
        rows = [records[cell] for cell in cells if cell in records]
        if rows or name in sections:
            parts.append(f"## {name}")
        if name in sections:
            parts += sections[name].markdown()
        if rows:
            parts += [_policies(rows, unit, accounting, reference), _schedules(rows, unit)]
            parts += _missing(rows, accounting)
    parts += _published(records.values())
    parts += ["## Headline", *headline]
    return "\n\n".join(parts) + "\n"


def headlines(headline: Record) -> list[str]:
    """Return a line for each of the largest ratios."""
    lines = []
    for where, key in (("On the study's link", "_at_450"), ("In all cells", "")):
        found, possible = headline[f"best_found{key}"], headline[f"bound{key}"]
        if found and possible:
            lines.append(
                f"{where} static takes up to {numbers.ratio(found['ratio'])} the best schedule found "
                f"({found['cell']}) and up to {numbers.ratio(possible['ratio'])} the certified time lower "
                f"bound ({possible['cell']}); the study says up to {headline['published']}x."
            )
    return lines


def _times(records: Iterable[Record]) -> Iterable[float | None]:
    return (entry["time_s"] for record in records for entry in record["physical"].values())


def _policies(rows: Sequence[Record], unit: numbers.Unit, accounting: str, reference: str) -> str:
    """Return the study's policies under its own accounting: time, and times that of its reference.

    Cells whose times equal those of the cell before, or are unknown, have no row.
    """
    names = list(rows[0][accounting])
    distinct = [
        row
        for before, row in zip([None, *rows], rows, strict=False)
        if (before is None or before[accounting] != row[accounting])
        and any(entry["time_s"] is not None for entry in row[accounting].values())
    ]

    def show(record: Record, name: str) -> str:
        time, best = (record[accounting][each]["time_s"] for each in (name, reference))
        over = f" ({numbers.ratio(time / best)})" if time and best and name != reference else ""
        return f"{unit.show(time)}{over}"

    head = [f"{accounting}, {unit.name} (x {reference})", *names]
    return grid(head, [[row["cell"], *(show(row, name) for name in names)] for row in distinct])


def _schedules(rows: Sequence[Record], unit: numbers.Unit) -> str:
    """Return schedules and bounds under `physical` accounting."""
    names = list(dict.fromkeys(name for row in rows for name in row["physical"]))
    head = [
        f"physical, {unit.name}", *names, "bound", "ideal", "gap", "bound / ideal", "static / found",
        "static / bound", "hits: static", "found",
    ]  # fmt: skip
    return grid(head, [_schedule_row(row, names, unit) for row in rows])


def _schedule_row(row: Record, names: Sequence[str], unit: numbers.Unit) -> list[str]:
    times = [row["physical"].get(name, {}).get("time_s") for name in names]
    bound, ideal = row["bound_s"], row["ideal_s"]
    hits = [row["physical"].get(name, {}).get("hit_rate") for name in ("static", row["best_found"])]
    return [
        row["cell"], *map(unit.show, times), unit.show(bound), unit.show(ideal), numbers.gap(row["gap"]),
        numbers.ratio(bound / ideal if bound and ideal else None),
        numbers.ratio(row["static_over_best_found"]), numbers.ratio(row["static_over_bound"]),
        *map(numbers.share, hits),
    ]  # fmt: skip


def _missing(rows: Sequence[Record], accounting: str) -> list[str]:
    """Return one sentence for each reason why numbers are missing."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        for entries in (row[accounting], row["physical"]):
            for name, entry in entries.items():
                if entry["note"]:
                    reasons.setdefault(entry["note"], []).append(name)
    return [f"No number for {', '.join(dict.fromkeys(names))}: {why}." for why, names in reasons.items()]


def _published(records: Iterable[Record]) -> list[str]:
    rows = [
        [
            record["cell"], line["what"], *map(_plain, (line["published"], line["ours"])),
            numbers.deviation(line["deviation"]),
        ]
        for record in records for line in record["published"]
    ]  # fmt: skip
    table = grid(["cell", "seconds, or ratio", "published", "ours", "deviation"], rows)
    return ["## Beside the published numbers", table] if rows else []


def _plain(value: float | None) -> str:
    return numbers.UNKNOWN if value is None else f"{value:.4f}"


def as_csv(records: Iterable[Record], accounting: str) -> str:
    """Return one line per cell, SI units."""
    lines = [_flat(record, accounting) for record in records]
    text = io.StringIO()
    names = dict.fromkeys(name for line in lines for name in line)
    writer = csv.DictWriter(text, list(names), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _flat(record: Record, accounting: str) -> dict[str, Any]:
    single = (
        "ideal_s", "bound_s", "bound_status", "best_found", "gap",
        "static_over_best_found", "static_over_bound",
    )  # fmt: skip
    return {
        "cell": record["cell"],
        **record["factors"],
        **{
            f"{rules}_{name}_{what}": entry[what]
            for rules in (accounting, "physical")
            for name, entry in record[rules].items()
            for what in ("time_s", "hit_rate")
        },
        **{name: record[name] for name in single},
    }
