"""A published study as data: its cells, its policies, and its numbers."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from kvbound.instance import Instance

STUDIES: Final = ("fang2025",)
"""Names that `kvbound reproduce` knows: each a module of this folder with a `STUDY`."""


@dataclass(frozen=True)
class Scale:
    """How much smaller than the study the cells are.

    Parameters
    ----------
    name
        For people.
    tokens
        What every token count and all bytes that do not follow from one are divided by.
    layers
        What the number of layers is divided by.
    time_limit
        Seconds that the solvers of a cell have together unless told otherwise.
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
        """The values of what the study varies."""

    @property
    def as_published(self) -> Hashable:
        """A key: cells with the same one are the same to the study's accounting."""

    def instance(self, scale: Scale, seed: int = 0) -> Instance:
        """Return the cell's instance under the study's accounting."""


@dataclass(frozen=True)
class Study:
    """A published study as data.

    Attributes
    ----------
    name, title
        As the command line and the tables have it.
    accounting
        The accounting of the study's own policies.
    policies
        The study's policies, with their options.
    scales
        Sizes at which it can be reproduced, by name.
    tables
        Cells of each table, in order; a cell may stand in several.
    published
        Returns the study's numbers of a cell, given its name: seconds by policy, and ratios of two policies'
        times, named ``static / best``.
    headline
        Returns the largest improvements among records of cells, beside the one that the study claims.
    notes
        Returns what a reader of the numbers at a scale has to know.
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
        """Yield every cell of a table, or of all of them, once."""
        chosen = self.tables.values() if table is None else [self.tables[table]]
        yield from dict.fromkeys(cell for group in chosen for cell in group)


def load_study(name: str) -> Study:
    """Return the study of a name in `STUDIES`."""
    study: Study = importlib.import_module(f"kvbound.studies.{name}").STUDY
    return study
