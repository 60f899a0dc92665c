"""Export of the mixed-integer program to a file for other solvers."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from kvbound.errors import UsageError
from kvbound.files import atomic_write
from kvbound.instance import Instance
from kvbound.models import columns, formulation
from kvbound.models.sparse import Matrix
from kvbound.solvers.mip.highs import SilentHighs, highs_program
from kvbound.temporaries import temporary

MAX_COLUMNS = 2_000_000
"""Columns above which a program is not exported: the file would take gigabytes."""
_PLAIN = str.maketrans({"[": "_", ",": "_", "]": "", "-": "m"})


class _Format(NamedTuple):
    """The prefix of comments and the last line of a file format."""

    comment: str
    end: str


_FORMATS = {"mps": _Format("*", "ENDATA\n"), "lp": _Format("\\", "end\n")}
_SECTIONS = {"bin\n": "binaries\n", "gen\n": "generals\n", "semi\n": ""}
"""Section names of LP files in HiGHS, and as all readers know them: CBC reads ``bin`` as a column."""


def export_model(instance: Instance, path: Path | str, form: str = "mps") -> str:
    """Write the program of an instance, with cuts.

    Parameters
    ----------
    form
        ``"mps"`` or ``"lp"``.

    Returns
    -------
    str
        The size of the program, and the seconds per unit of its objective.

    Raises
    ------
    UsageError
        The program would be too large, or the accounting is not physical.
    OSError
        The file could not be written.
    """
    size = columns(instance)
    if size > MAX_COLUMNS:
        most = f"more than the {MAX_COLUMNS:,} that make sense"
        raise UsageError(f"{instance.name}: the program has up to {size:,} columns, {most}")
    model = formulation(instance)
    unit = f"objective in units of {model.unit_s:.6g}{' s' if instance.objective.time_alone else ''}"
    write_model(model.matrix, Path(path), form, unit)
    rows = len(model.matrix.row_lower)
    return f"{model.matrix.columns:,} columns, {rows:,} rows, {unit}"


def write_model(matrix: Matrix, path: Path, form: str, comment: str) -> None:
    """Write a program with HiGHS, with a comment added and section names that all readers know.

    Raises
    ------
    OSError
        The file could not be written.
    """
    highs, content = SilentHighs(), highs_program(matrix, integer=True)
    content.col_names_ = plain(matrix.column_names())
    content.row_names_ = plain(matrix.row_names())
    highs.passModel(content)
    # HiGHS chooses the format by the suffix
    with atomic_write(path) as place, temporary(place.parent, suffix=f".{form}") as written:
        highs.writeModel(str(written))
        with written.open(encoding="ascii") as source, place.open("w", encoding="ascii") as target:
            target.writelines(_revised(source, _FORMATS[form], comment))


def _revised(lines: Iterable[str], form: _Format, comment: str) -> Iterator[str]:
    """Yield the lines of HiGHS, with a comment after the first, and check that the file is complete."""
    line = ""
    for number, line in enumerate(lines):
        yield _SECTIONS.get(line, line)
        if number == 0:
            yield f"{form.comment} {comment}\n"
    if line != form.end:  # HiGHS reports success for a file truncated by a full disk
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def plain(names: Iterable[str]) -> list[str]:
    """Return names that every format allows: x_0_m1 for x[0,-1]."""
    return [name.translate(_PLAIN) for name in names]
