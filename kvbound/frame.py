"""`kvbound.compare`: several methods in one table, a DataFrame that is printed in full."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from kvbound.instance import Instance
from kvbound.report import numbers
from kvbound.result import Result, ranked, ratio, title
from kvbound.solvers.portfolio import Methods, run_all

_HEADINGS: dict[str, tuple[str, str]] = {
    "method": ("", "method"), "status": ("", "status"), "time_s": ("", "time"), "bound_s": ("", "bound"),
    "ratio": ("times", "bound"), "share_of_bound": ("share of", "bound"), "tokens_per_s": ("tokens", "per s"),
    "hit_rate": ("tier-0", "hits"), "moved_up_bytes": ("moved", "up"), "moved_down_bytes": ("moved", "down"),
    "objective": ("", "objective"), "bound_objective": ("its", "bound"),
    "energy_j": ("", "energy"), "energy_per_token_j": ("energy", "/token"), "wall_s": ("", "wall"),
}  # fmt: skip
_PLAIN: dict[str, Callable[[float], str]] = {
    "ratio": numbers.ratio,
    "share_of_bound": numbers.share,
    "tokens_per_s": numbers.rate,
    "hit_rate": numbers.share,
    "objective": numbers.rate,
    "bound_objective": numbers.rate,
}
_OBJECTIVE = "objective", "bound_objective"
_ENERGY = "energy_j", "energy_per_token_j"
_UNITS = {"_s": numbers.TIMES, "_bytes": numbers.SIZES, "_j": numbers.ENERGIES}


class Comparison(pd.DataFrame):
    """A DataFrame in SI units whose text has every column, in readable units; energies only where known.

    DataFrames derived from it, such as selections, are plain ones.
    """

    def __repr__(self) -> str:
        """Return the whole table."""
        return str(_shown(self).to_string(sparsify=False))

    def _repr_html_(self) -> str:
        """Return the whole table for a notebook."""
        return str(_shown(self).to_html())


def compare(instance: Instance, methods: Methods | None = None, **options: Any) -> pd.DataFrame:
    """Run several methods and return one row each, fastest schedule first, bounds last.

    Parameters
    ----------
    methods, options
        As for `kvbound.solvers.run_all`.

    Returns
    -------
    pandas.DataFrame
        Columns in SI units; it is printed in full, in readable units.
    """
    results = run_all(instance, methods, **options)
    fast = instance.memory.tiers[0].name
    mixed = any(result.instance.objective for result in results)
    columns = [name for name in _HEADINGS if mixed or name not in _OBJECTIVE]
    return Comparison([_row(result, fast) for result in ranked(results)], columns=columns)


def _row(result: Result, fast: str) -> dict[str, Any]:
    found = result.measures
    return {
        "method": title(result),
        "status": str(result.status),
        "time_s": result.time_s,
        "bound_s": result.bound.time_s,
        "ratio": ratio(result),
        "share_of_bound": result.share_of_bound,
        "tokens_per_s": None if not result.time_s else result.instance.outputs / result.time_s,
        "hit_rate": None if found is None else found.hit_rate.get(fast),
        "moved_up_bytes": None if found is None else found.moved_bytes["up"],
        "moved_down_bytes": None if found is None else found.moved_bytes["down"],
        "objective": None if found is None else found.objective,
        "bound_objective": result.bound.objective,
        "energy_j": result.total_energy_j,
        "energy_per_token_j": result.energy_per_token_j,
        "wall_s": result.wall_s,
    }


def _shown(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table as text, each column in one unit, which its heading gives."""
    given = ((str(name), table.iloc[:, n]) for n, name in enumerate(table.columns))
    columns = [_column(*each) for each in given if each[0] not in _ENERGY or each[1].notna().any()]
    shown = pd.DataFrame({n: cells for n, (_, cells) in enumerate(columns)}, index=table.index)
    shown.columns = pd.MultiIndex.from_tuples([heading for heading, _ in columns])
    return shown


def _column(name: str, values: pd.Series[Any]) -> tuple[tuple[str, str], list[str]]:
    top, heading = _HEADINGS.get(name, ("", name))
    given = [None if pd.isna(value) else value for value in values]
    known = next(
        (_UNITS[end] for end in _UNITS if name in _HEADINGS and name not in _PLAIN and name.endswith(end)),
        None,
    )
    if known is None:
        show = _PLAIN.get(name, str)
        return (top, heading), [numbers.UNKNOWN if value is None else show(value) for value in given]
    unit = numbers.Unit.of(given, known)
    return (top, f"{heading} {unit.name}"), [unit.show(value) for value in given]
