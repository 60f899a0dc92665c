"""A published study as data: its cells, its policies, and its numbers."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from kvbound.instance import Instance

STUDIES: Final = ("fang2025",)
"""Names of studies: each is a module of this package with a constant `STUDY`."""


@dataclass(frozen=True)
class Scale:
    """The factors by which cells are smaller than the study's.

    Parameters
    ----------
    name
        Name for display.
    tokens
        Divisor of every token count, and of all bytes that do not follow from one.
    layers
        Divisor of the number of layers.
    time_limit
        Default time limit in seconds for all solvers of a cell together.
    """

    name: str
    tokens: int
    layers: int
    time_limit: float


class Cell(Protocol):
    """One setting of a study."""

    @property
    def name(self) -> str:
        """The cell's name, unique within the study."""

    @property
    def factors(self) -> Mapping[str, str | int]:
        """The values of the factors that the study varies."""

    @property
    def as_published(self) -> Hashable:
        """A key that cells share if the study's accounting does not distinguish them."""

    def instance(self, scale: Scale, seed: int = 0) -> Instance:
        """Return the cell's instance under the study's accounting."""


@dataclass(frozen=True)
class Study:
    """A published study as data.

    Attributes
    ----------
    name, title
        The names on the command line and in the tables.
    accounting
        The accounting of the study's own policies.
    policies
        The study's policies, with their options.
    scales
        Sizes at which it can be reproduced, by name.
    tables
        Cells of each table, in order; a cell may be in several.
    published
        Returns the study's numbers for a cell, given its name: seconds by policy, and ratios of two policies'
        times, named as ``static / best``.
    headline
        Returns the largest improvements among records of cells, and the one that the study claims.
    notes
        Returns notes that explain the numbers at a scale.
    """

    name: str
    title: str
    accounting: str
    policies: Mapping[str, Mapping[str, Any]]
    scales: Mapping[str, Scale]
    tables: Mapping[str, tuple[Cell, ...]]
    published: Callable[[str], Mapping[str, float]]
    headline: Callable[[Iterable[Mapping[str, Any]]], dict[str, Any]]
    notes: Callable[[Scale], list[str]]

    def cells(self, table: str | None = None) -> Iterator[Cell]:
        """Yield every cell of a table, or of all tables, once."""
        chosen = self.tables.values() if table is None else [self.tables[table]]
        yield from dict.fromkeys(cell for group in chosen for cell in group)


def load_study(name: str) -> Study:
    """Return the study of a name in `STUDIES`."""
    study: Study = importlib.import_module(f"kvbound.studies.{name}").STUDY
    return study
