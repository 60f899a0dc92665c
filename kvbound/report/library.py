"""The instance library as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kvbound.library import Entry
from kvbound.report import numbers
from kvbound.report.tables import table

if TYPE_CHECKING:
    from rich.table import Table


def library_table(entries: Sequence[Entry]) -> Table:
    """Return the table of instances, one row each."""
    return table(
        ("set", "instance", ">layers", ">prompt + steps", ">best known", ">x bound"), map(_row, entries)
    )


def _row(entry: Entry) -> tuple[str, ...]:
    tokens = f"{entry.prefill_tokens:,} + {entry.decode_steps:,}"
    best = entry.best_known
    time, bound = (None, None) if best is None else (best.time_s, best.bound_s)
    over = time / bound if time and bound else None
    return entry.set, entry.name, f"{entry.layers:,}", tokens, numbers.seconds(time), numbers.ratio(over)
