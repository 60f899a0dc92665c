"""The simplex method in fractions, with Bland's rule, for linear programs of up to some hundred columns."""

from __future__ import annotations

from fractions import Fraction

Row = dict[int, Fraction]
"""Coefficients by column."""


class Program:
    """Minimise a cost over columns >= 0 under rows `coefficients . x <= limit`, `>=` as negated, and `==`."""

    def __init__(self) -> None:
        self.cost: list[Fraction] = []
        self.rows: list[tuple[Row, Fraction, bool]] = []

    def column(self, cost: Fraction = Fraction(0)) -> int:
        """Add a column >= 0 and return its number."""
        self.cost.append(cost)
        return len(self.cost) - 1

    def at_most(self, row: Row, limit: Fraction) -> None:
        """Add row . x <= limit."""
        self.rows.append((row, limit, False))

    def equal(self, row: Row, value: Fraction) -> None:
        """Add row . x == value."""
        self.rows.append((row, value, True))

    def minimum(self) -> Fraction | None:
        """Return the least cost, None if the rows have no solution; it must not be unbounded."""
        count = len(self.cost)
        table: list[tuple[Row, Fraction]] = []
        basis: list[int] = []
        artificial = count + sum(not equal for *_, equal in self.rows)
        slack, first = count, artificial
        for row, limit, equal in self.rows:
            entries = {n: value for n, value in row.items() if value}
            if not equal:
                entries[slack] = Fraction(1)
                slack += 1
            if limit < 0:
                entries, limit = {n: -value for n, value in entries.items()}, -limit
            if not equal and entries[slack - 1] == 1:
                basis.append(slack - 1)
            else:
                entries[artificial] = Fraction(1)
                basis.append(artificial)
                artificial += 1
            table.append((entries, limit))
        if _minimise({n: Fraction(1) for n in range(first, artificial)}, table, basis, artificial):
            return None
        # rows whose artificial column stays in the basis at 0 keep it there
        return _minimise(dict(enumerate(self.cost)), table, basis, first)


def _minimise(cost: Row, table: list[tuple[Row, Fraction]], basis: list[int], allowed: int) -> Fraction:
    """Pivot until no column below `allowed` improves; return the cost."""
    reduced, value = {n: each for n, each in cost.items() if each}, Fraction(0)
    for (row, limit), column in zip(table, basis, strict=True):
        if factor := reduced.get(column):
            _subtract(reduced, row, factor)
            value += factor * limit
    while True:
        entering = min((n for n, each in reduced.items() if each < 0 and n < allowed), default=None)
        if entering is None:
            return value
        ratios = []
        for n, (row, limit) in enumerate(table):
            each = row.get(entering, Fraction(0))
            if each > 0 or (each < 0 and basis[n] >= allowed):  # an artificial column must stay at 0
                ratios.append((limit / abs(each), basis[n], n))
        assert ratios, "unbounded"
        _, _, leaving = min(ratios)
        row, limit = table[leaving]
        pivot = row[entering]
        row, limit = {n: each / pivot for n, each in row.items()}, limit / pivot
        table[leaving], basis[leaving] = (row, limit), entering
        for n, (other, level) in enumerate(table):
            if n != leaving and (factor := other.get(entering)):
                _subtract(other, row, factor)
                table[n] = other, level - factor * limit
        factor = reduced[entering]
        _subtract(reduced, row, factor)
        value += factor * limit


def _subtract(row: Row, other: Row, factor: Fraction) -> None:
    for n, each in other.items():
        left = row.get(n, Fraction(0)) - factor * each
        if left:
            row[n] = left
        else:
            row.pop(n, None)
