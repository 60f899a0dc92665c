"""The mixed-integer program as a file for any other solver."""

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
from kvbound.solvers.mip.highs import Quiet, program
from kvbound.temporaries import temporary

MOST_COLUMNS = 2_000_000
"""A file of more columns has gigabytes and is of no use to anyone."""
_PLAIN = str.maketrans({"[": "_", ",": "_", "]": "", "-": "m"})


class _Format(NamedTuple):
    """How a file format begins a comment and what its last line is."""

    comment: str
    end: str


_FORMATS = {"mps": _Format("*", "ENDATA\n"), "lp": _Format("\\", "end\n")}
_SECTIONS = {"bin\n": "binaries\n", "gen\n": "generals\n", "semi\n": ""}
"""Sections of LP files as HiGHS names them, and as every reader does: CBC takes ``bin`` for a column."""


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
    OSError
        It could not be written.
    """
    size = columns(instance)
    if size > MOST_COLUMNS:
        most = f"more than the {MOST_COLUMNS:,} that make sense"
        raise UsageError(f"{instance.name}: the program has up to {size:,} columns, {most}")
    model = formulation(instance)
    unit = f"objective in units of {model.unit_s:.6g} s"
    write_model(model.matrix, Path(path), form, unit)
    rows = len(model.matrix.row_lower)
    return f"{model.matrix.columns:,} columns, {rows:,} rows, {unit}"


def write_model(matrix: Matrix, path: Path, form: str, remark: str) -> None:
    """Write a program by HiGHS, with a remark and with section names that every reader knows.

    Raises
    ------
    OSError
        It could not be written.
    """
    highs, content = Quiet(), program(matrix, whole=True)
    content.col_names_ = plain(matrix.column_names())
    content.row_names_ = plain(matrix.row_names())
    highs.passModel(content)
    # HiGHS goes by the name's ending
    with atomic_write(path) as place, temporary(place.parent, suffix=f".{form}") as written:
        highs.writeModel(str(written))
        with written.open(encoding="ascii") as source, place.open("w", encoding="ascii") as target:
            target.writelines(_revised(source, _FORMATS[form], remark))


def _revised(lines: Iterable[str], form: _Format, remark: str) -> Iterator[str]:
    """Yield HiGHS's lines, a remark after the first, and make sure that none is missing."""
    line = ""
    for number, line in enumerate(lines):
        yield _SECTIONS.get(line, line)
        if number == 0:
            yield f"{form.comment} {remark}\n"
    if line != form.end:  # HiGHS calls a file written that a full disk cut off
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def plain(names: Iterable[str]) -> list[str]:
    """x[0,-1] as x_0_m1, which every format takes."""
    return [name.translate(_PLAIN) for name in names]
