"""Sections of a report on a study: text, tables, figures beside the published ones, and curves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kvbound.report import numbers


@dataclass(frozen=True)
class Figure:
    """A number that a study states, beside ours.

    Attributes
    ----------
    what
        What it is, with its unit.
    published
        The study's number, None where it gives none.
    ours
        Computed here, None where it is not.
    verdict
        A few words on a claim.
    """

    what: str
    published: float | None
    ours: float | None
    verdict: str = ""

    @property
    def deviation(self) -> float | None:
        """Relative deviation of our number."""
        if self.published is None or self.ours is None or not self.published:
            return None
        return self.ours / self.published - 1


@dataclass(frozen=True)
class Table:
    """A table: its head, and rows of text of the same length."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Curves:
    """Lines of one figure over a common horizontal axis.

    Attributes
    ----------
    x, y
        Labels of the axes.
    lines
        Points (x, y) of each line, by its name.
    log
        Whether the vertical axis is logarithmic.
    """

    x: str
    y: str
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    log: bool = True


@dataclass(frozen=True)
class Section:
    """A part of the report that follows from formulas, without cells.

    Attributes
    ----------
    text
        Paragraphs before the tables.
    figures
        Numbers beside the published ones, a table of their own.
    tables
        Further tables.
    curves
        A figure to draw, or None.
    """

    text: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    curves: Curves | None = None

    def markdown(self) -> list[str]:
        """Return the paragraphs and tables."""
        parts = list(self.text)
        if self.figures:
            parts.append(_figures(self.figures))
        return parts + [grid(table.head, table.rows) for table in self.tables]

    def to_json(self) -> dict[str, Any]:
        """Return text, figures and tables as JSON values."""
        return {
            "text": list(self.text),
            "figures": [
                {
                    "what": figure.what, "published": figure.published, "ours": figure.ours,
                    "deviation": figure.deviation, "verdict": figure.verdict,
                }
                for figure in self.figures
            ],
            "tables": [
                {"head": list(table.head), "rows": [list(row) for row in table.rows]} for table in self.tables
            ],
        }  # fmt: skip


def _figures(figures: Sequence[Figure]) -> str:
    judged = any(figure.verdict for figure in figures)
    rows = [
        [
            figure.what, plain(figure.published), beside(figure.ours, figure.published),
            numbers.deviation(figure.deviation),
            *([figure.verdict] if judged else []),
        ]
        for figure in figures
    ]  # fmt: skip
    return grid(["what", "published", "ours", "deviation", *(["verdict"] if judged else [])], rows)


def plain(value: float | None, places: int | None = None) -> str:
    """Format a number in full, or with that many decimal places: ``1,011.8218808``."""
    if value is None:
        return numbers.UNKNOWN
    if places is None:
        places = _places(value)
    return f"{value:,.{places}f}"


def beside(value: float | None, published: float | None) -> str:
    """Format our number with the decimal places of the published one, at least one where it is not whole.

    Without a published number it has five significant digits.
    """
    if value is None or value == int(value):
        return plain(value, 0)
    if published is None:
        return plain(value, max(0, 5 - len(f"{abs(value):.0f}")))
    return plain(value, max(1, _places(published)))


def _places(value: float) -> int:
    """Return the decimal places with which Python writes a number."""
    return 0 if value == int(value) else len(f"{value!r}".partition(".")[2])


def grid(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return an aligned Markdown table: the first column left-aligned, the others right-aligned."""
    lines = [list(head), *map(list, rows)]
    widths = [max(3, *(len(line[n]) for line in lines)) for n in range(len(head))]
    rule = ["-" * widths[0], *(f"{'-' * (width - 1)}:" for width in widths[1:])]
    lines.insert(1, rule)
    return "\n".join(
        f"| {' | '.join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])} |"
        for line in lines
    )
