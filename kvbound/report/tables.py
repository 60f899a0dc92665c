"""Plain aligned tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Return a table; a column whose name starts with ``>`` is right-aligned, as for numbers.

    On a narrow terminal text wraps between words, and numbers do not wrap at all.
    """
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    cells = [*rows]
    for n, column in enumerate(columns):
        right = column.startswith(">")
        column = column.removeprefix(">")
        texts = [*column.split("\n"), *(row[n] for row in cells)]
        pieces = texts if right else [word for text in texts for word in text.split()]
        made.add_column(
            column,
            justify="right" if right else "left",
            overflow="fold",
            min_width=max(map(len, pieces), default=0),
        )
    for row in cells:
        made.add_row(*row)
    return made


def pairs_table(pairs: Iterable[tuple[str, str]]) -> Table:
    """Return names and values in two columns; pairs without a value are left out."""
    from rich.table import Table

    made = Table.grid(padding=(0, 2))
    made.add_column(no_wrap=True, style="dim")
    made.add_column(overflow="fold")
    for name, value in pairs:
        if value:
            made.add_row(name, value)
    return made
