"""A program as text, LP or MPS, of which every solver reads the same.

Readers do not agree on short forms (CBC takes the section ``bin`` for a column), nor on the bounds of whole
columns where none are written. So sections have their long names, whole columns their bounds, rows one side
each; names are letters, digits and underscores, and lines are short.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from scipy import sparse

from kvbound.models.matrix import Floats, Matrix

_PLAIN = str.maketrans({"[": "_", ",": "_", "]": "", "-": "m"})
_TERMS = 6
"""Terms in a line."""
_SENSES = {"G": ">=", "E": "=", "L": "<="}


@dataclass(frozen=True, eq=False)
class Named:
    """A program with its names, and every row with one side.

    Attributes
    ----------
    columns, names
        Names of the columns and rows.
    senses
        G, E or L of each row.
    rows, sides
        What stands on the left, shape (rows, columns), and on the right.
    """

    matrix: Matrix
    columns: list[str]
    names: list[str]
    senses: list[str]
    rows: sparse.csr_array
    sides: Floats

    @classmethod
    def of(cls, matrix: Matrix) -> Named:
        """Name everything; a row between two values becomes two."""
        lower, upper = matrix.row_lower, matrix.row_upper
        least, most = np.isfinite(lower), np.isfinite(upper) & (lower != upper)
        row = np.concatenate([np.flatnonzero(least), np.flatnonzero(most)])
        top = np.arange(len(row)) >= np.count_nonzero(least)
        order = np.argsort(row, kind="stable")
        row, top = row[order], top[order]
        given = plain(matrix.row_names())
        return cls(
            matrix,
            plain(matrix.column_names()),
            [given[r] + "_most" * bool(t and least[r]) for r, t in zip(row, top, strict=True)],
            ["L" if t else "E" if lower[r] == upper[r] else "G" for r, t in zip(row, top, strict=True)],
            sparse.csr_array(matrix.rows[row]),
            np.where(top, upper[row], lower[row]),
        )


def plain(names: Iterable[str]) -> list[str]:
    """x[0,-1] as x_0_m1, which every format takes."""
    return [name.translate(_PLAIN) for name in names]


def lp_lines(program: Named, remark: str) -> Iterator[str]:
    """Yield a program in CPLEX's LP format, line by line."""
    matrix, columns, rows = program.matrix, program.columns, program.rows
    yield f"\\ {remark}"
    yield "Minimize"
    costly = np.flatnonzero(matrix.cost)
    yield from _sum("obj", columns, costly, matrix.cost[costly], "")
    yield "Subject To"
    for row, (name, sense, side) in enumerate(zip(program.names, program.senses, program.sides, strict=True)):
        entries = slice(rows.indptr[row], rows.indptr[row + 1])
        end = f" {_SENSES[sense]} {_number(side)}"
        yield from _sum(name, columns, rows.indices[entries], rows.data[entries], end)
    yield "Bounds"
    binary = matrix.integer & (matrix.lower == 0) & (matrix.upper == 1)
    for n in np.flatnonzero(~binary & ((matrix.lower != 0) | np.isfinite(matrix.upper))):
        yield _range(columns[n], matrix.lower[n], matrix.upper[n])
    for section, members in (("Binaries", binary), ("Generals", matrix.integer & ~binary)):
        if members.any():
            yield section
            yield from (f" {columns[n]}" for n in np.flatnonzero(members))
    yield "End"


def _sum(name: str, columns: list[str], index: Iterable[int], values: Floats, end: str) -> Iterator[str]:
    terms = [
        f" {'-' if value < 0 else '+'} {_number(abs(value))} {columns[n]}"
        for n, value in zip(index, values, strict=True)
    ]
    lines = ["".join(terms[first : first + _TERMS]) for first in range(0, len(terms), _TERMS)]
    lines[0] = f" {name}:{lines[0]}"
    lines[-1] += end
    yield from lines


def _range(name: str, lower: float, upper: float) -> str:
    if lower == upper:
        return f" {name} = {_number(lower)}"
    if np.isinf(upper):
        return f" {name} free" if np.isinf(lower) else f" {name} >= {_number(lower)}"
    return f" {'-inf' if np.isinf(lower) else _number(lower)} <= {name} <= {_number(upper)}"


def mps_lines(program: Named, remark: str) -> Iterator[str]:
    """Yield a program in free MPS format, line by line."""
    matrix, columns = program.matrix, program.columns
    by_column = sparse.csc_array(program.rows)
    yield "NAME kvbound"
    yield f"* {remark}"
    yield "ROWS"
    yield " N obj"
    yield from (f" {sense} {name}" for sense, name in zip(program.senses, program.names, strict=True))
    yield "COLUMNS"
    for whole, group in groupby(range(matrix.columns), lambda n: bool(matrix.integer[n])):
        if whole:
            yield "    MARKER                 'MARKER'                 'INTORG'"
        for n in group:
            entries = slice(by_column.indptr[n], by_column.indptr[n + 1])
            if matrix.cost[n]:  # CBC refuses a zero
                yield f" {columns[n]} obj {_number(matrix.cost[n])}"
            for row, value in zip(by_column.indices[entries], by_column.data[entries], strict=True):
                yield f" {columns[n]} {program.names[row]} {_number(value)}"
        if whole:
            yield "    MARKER                 'MARKER'                 'INTEND'"
    yield "RHS"
    for name, side in zip(program.names, program.sides, strict=True):
        if side != 0:
            yield f" RHS {name} {_number(side)}"
    yield "BOUNDS"
    for n, name in enumerate(columns):
        yield from _mps_range(name, matrix.lower[n], matrix.upper[n], whole=bool(matrix.integer[n]))
    yield "ENDATA"


def _mps_range(name: str, lower: float, upper: float, *, whole: bool) -> Iterator[str]:
    if lower == upper:
        yield f" FX BND {name} {_number(lower)}"
        return
    if np.isinf(lower):
        yield f" MI BND {name}"
    elif lower != 0 or whole:
        yield f" LO BND {name} {_number(lower)}"
    if np.isfinite(upper):
        yield f" UP BND {name} {_number(upper)}"
    elif whole:
        yield f" PL BND {name}"


def _number(value: float) -> str:
    return repr(float(value)).removesuffix(".0")
