"""The mixed-integer program as a file for any other solver."""

from __future__ import annotations

from pathlib import Path

from kvbound.errors import UsageError
from kvbound.files import atomic_write
from kvbound.instance import Instance
from kvbound.models import columns, formulation
from kvbound.solvers._model_files import Named, lp_lines, mps_lines

MOST_COLUMNS = 2_000_000
"""A file of more columns has gigabytes and is of no use to anyone."""
_LINES = {"mps": mps_lines, "lp": lp_lines}


def export_model(instance: Instance, path: Path | str, form: str = "mps") -> str:
    """Write an instance's program, the count cuts included.

    Parameters
    ----------
    form
        ``"mps"`` or ``"lp"``.

    Returns
    -------
    str
        Its size, and the seconds that a unit of its objective stands for.

    Raises
    ------
    UsageError
        The program would be too large, or the accounting has none.
    """
    size = columns(instance)
    if size > MOST_COLUMNS:
        most = f"more than the {MOST_COLUMNS:,} that make sense"
        raise UsageError(f"{instance.name}: the program has up to {size:,} columns, {most}")
    model = formulation(instance)
    unit = f"objective in units of {model.unit_s:.6g} s"
    with atomic_write(path) as temporary, temporary.open("w", encoding="ascii") as out:
        out.writelines(f"{line}\n" for line in _LINES[form](Named.of(model.matrix), unit))
    rows = len(model.matrix.row_lower)
    return f"{model.matrix.columns:,} columns, {rows:,} rows, {unit}"
