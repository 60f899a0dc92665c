"""The mixed-integer program as a file for any other solver."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from pathlib import Path

import highspy

from kvbound.errors import UsageError
from kvbound.files import atomic_write
from kvbound.instance import Instance
from kvbound.models import columns, formulation
from kvbound.solvers._highs import Quiet, program
from kvbound.temporaries import temporary

MOST_COLUMNS = 2_000_000
"""A file of more columns has gigabytes and is of no use to anyone."""
_PLAIN = str.maketrans({"[": "_", ",": "_", "]": "", "-": "m"})


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
    highs, content = Quiet(), program(model.matrix, whole=True)
    content.col_names_ = _plain(model.matrix.column_names())
    content.row_names_ = _plain(model.matrix.row_names())
    ok = highspy.HighsStatus.kOk
    with atomic_write(path) as place, temporary(place.parent, suffix=f".{form}") as written:
        # HiGHS goes by the name's ending
        if highs.passModel(content) != ok or highs.writeModel(str(written)) != ok or not _whole(written):
            raise OSError(errno.EIO, "the program was not written whole; is there room for it?", str(path))
        written.replace(place)
    rows = len(model.matrix.row_lower)
    return f"{model.matrix.columns:,} columns, {rows:,} rows, objective in units of {model.unit_s:.6g} s"


def _plain(names: Iterable[str]) -> list[str]:
    """x[0,-1] as x_0_m1, which every format takes."""
    return [name.translate(_PLAIN) for name in names]


def _whole(path: Path) -> bool:
    """Whether the last line is there; HiGHS calls a file written that a full disk cut off."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 16))
        return file.read().split()[-1:] in ([b"ENDATA"], [b"end"])
