"""A mixed-integer program as sparse arrays, built family by family without expression trees."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, compress

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Namer = Callable[[], Iterator[str]]


@dataclass(frozen=True, eq=False)
class Matrix:
    """Minimise cost @ x with row_lower <= A x <= row_upper, lower <= x <= upper, some x integer.

    Attributes
    ----------
    cost, lower, upper
        Shape (columns,).
    integer
        Which columns are integer, shape (columns,).
    rows
        A, compressed by rows, shape (rows, columns).
    row_lower, row_upper
        Shape (rows,).
    column_names, row_names
        Functions that generate the names, which only export and comparisons with Pyomo need.
    """

    cost: Floats
    lower: Floats
    upper: Floats
    integer: NDArray[np.bool_]
    rows: sparse.csr_array
    row_lower: Floats
    row_upper: Floats
    column_names: Namer
    row_names: Namer

    @property
    def columns(self) -> int:
        """Number of columns."""
        return len(self.cost)

    def with_rows(self, columns: Sequence[Ints], values: Sequence[Floats], lower: Floats) -> Matrix:
        """Return the program with more rows values @ x[columns] >= lower, named ``cut[n]``."""
        ends = np.cumsum([0, *map(len, columns)])
        entries = np.concatenate(values), np.concatenate(columns), ends
        more = sparse.csr_array(entries, shape=(len(lower), self.columns))
        return dataclasses.replace(
            self,
            rows=sparse.csr_array(sparse.vstack([self.rows, more])),
            row_lower=np.concatenate([self.row_lower, lower]),
            row_upper=np.concatenate([self.row_upper, np.full(len(lower), np.inf)]),
            row_names=lambda: chain(self.row_names(), (f"cut[{n}]" for n in range(len(lower)))),
        )

    def with_fixed(self, columns: NDArray[np.integer], values: Floats) -> Matrix:
        """Return the program with some columns fixed to values."""
        lower, upper = self.lower.copy(), self.upper.copy()
        lower[columns] = upper[columns] = values
        return dataclasses.replace(self, lower=lower, upper=upper)

    def without_fixed(self) -> tuple[Matrix, Ints]:
        """Return the program without columns that are fixed and cost nothing, and the columns that it keeps.

        Rows without any other column are left out.
        """
        kept = (self.lower < self.upper) | (self.cost != 0)
        fixed = self.rows @ np.where(kept, 0.0, self.lower)
        rows = sparse.csr_array(self.rows[:, kept])
        used = np.diff(rows.indptr) > 0
        reduced = Matrix(
            cost=self.cost[kept],
            lower=self.lower[kept],
            upper=self.upper[kept],
            integer=self.integer[kept],
            rows=sparse.csr_array(rows[used]),
            row_lower=(self.row_lower - fixed)[used],
            row_upper=(self.row_upper - fixed)[used],
            column_names=lambda: compress(self.column_names(), kept),
            row_names=lambda: compress(self.row_names(), used),
        )
        return reduced, np.flatnonzero(kept)


@dataclass(eq=False)
class Builder:
    """Collects columns and rows in families that share a name."""

    _columns: list[tuple[str, Ints, Floats, Floats, Floats, bool]] = field(default_factory=list)
    _rows: list[tuple[str, Ints, Floats, Floats]] = field(default_factory=list)
    _at: list[tuple[Ints, Ints, Floats]] = field(default_factory=list)
    columns: int = 0
    rows: int = 0

    def add_columns(
        self,
        name: str,
        keys: ArrayLike,
        *,
        lower: ArrayLike = 0.0,
        upper: ArrayLike = np.inf,
        cost: ArrayLike = 0.0,
        integer: bool = False,
    ) -> Ints:
        """Add one column per key, keys of shape (columns, indices); return their positions."""
        index = np.atleast_2d(np.asarray(keys, np.int64))
        bounds = [np.broadcast_to(np.asarray(v, np.float64), len(index)) for v in (lower, upper, cost)]
        self._columns.append((name, index, bounds[0], bounds[1], bounds[2], integer))
        self.columns += len(index)
        return np.arange(self.columns - len(index), self.columns)

    def add_rows(
        self, name: str, keys: ArrayLike, *, lower: ArrayLike = -np.inf, upper: ArrayLike = np.inf
    ) -> Ints:
        """Add one empty row per key; return their positions."""
        index = np.atleast_2d(np.asarray(keys, np.int64))
        bounds = [np.broadcast_to(np.asarray(v, np.float64), len(index)) for v in (lower, upper)]
        self._rows.append((name, index, bounds[0], bounds[1]))
        self.rows += len(index)
        return np.arange(self.rows - len(index), self.rows)

    def put(self, rows: ArrayLike, columns: ArrayLike, values: ArrayLike) -> None:
        """Add coefficients; entries at the same place add up."""
        r, c, v = np.broadcast_arrays(
            np.asarray(rows, np.int64), np.asarray(columns, np.int64), np.asarray(values, np.float64)
        )
        self._at.append((r.ravel(), c.ravel(), v.ravel()))

    def build(self) -> Matrix:
        """Return the program."""
        rows, columns, values = (np.concatenate(parts) for parts in zip(*self._at, strict=True))
        matrix = sparse.csr_array((values, (rows, columns)), shape=(self.rows, self.columns))
        matrix.sum_duplicates()
        matrix.eliminate_zeros()
        return Matrix(
            cost=np.concatenate([family[4] for family in self._columns]),
            lower=np.concatenate([family[2] for family in self._columns]),
            upper=np.concatenate([family[3] for family in self._columns]),
            integer=np.concatenate([np.full(len(f[1]), f[5]) for f in self._columns]),
            rows=matrix,
            row_lower=np.concatenate([family[2] for family in self._rows]),
            row_upper=np.concatenate([family[3] for family in self._rows]),
            column_names=_namer([(f[0], f[1]) for f in self._columns]),
            row_names=_namer([(f[0], f[1]) for f in self._rows]),
        )


def _namer(families: list[tuple[str, Ints]]) -> Namer:
    def names() -> Iterator[str]:
        for name, keys in families:
            for key in keys:
                yield f"{name}[{','.join(map(str, key))}]"

    return names
