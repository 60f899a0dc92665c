"""A published study as data: its cells, its policies, and its numbers."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from kvbound.instance import Instance
from kvbound.report.sections import Section
from kvbound.report.study import headlines

STUDIES: Final = ("fang2025", "tiered2026")
"""Names of studies: each is a module of this package with a constant `STUDY`."""
POLICIES: Final = ("static", "belady")
"""Policies run under `physical` accounting, unless a study names others."""
SOLVERS: Final = {"pricing": 0.75, "anneal": 0.25}
"""Solvers, and their shares of a cell's time; pricing also proves the bound. A study may name others."""

Entry = Mapping[str, Any]
"""A policy's ``time_s``, ``hit_rate`` and ``note`` under a study's own accounting."""


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
        """Return the cell's instance under the study's accounting, or `physical` if that is no rule."""


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
        Cells of each table, in order; a cell may be in several, and a table that is a section has none.
    published
        Returns the study's numbers for a cell, given its name: seconds by policy, and ratios of two policies'
        times, named as ``static / best``.
    headline
        Returns the largest improvements among records of cells, and the one that the study claims.
    notes
        Returns notes that explain the numbers at a scale.
    entries
        Runs the policies on a cell, where their accounting is none of kvbound's rules; by default they are
        methods of kvbound.
    reference
        The policy to whose time the others are compared.
    schedules
        Policies run under `physical` accounting.
    solvers
        Solvers run under `physical` accounting, with their shares of a cell's time.
    headlines
        Returns the headline as sentences.
    sections
        Functions that make the sections that need no cells, by the name of their table.
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
    entries: Callable[[Any, Scale], Mapping[str, Entry]] | None = None
    reference: str = "best"
    schedules: tuple[str, ...] = POLICIES
    solvers: Mapping[str, float] = field(default_factory=lambda: SOLVERS)
    headlines: Callable[[Mapping[str, Any]], list[str]] = headlines
    sections: Mapping[str, Callable[[], Section]] = field(default_factory=dict)

    def cells(self, table: str | None = None) -> Iterator[Cell]:
        """Yield every cell of a table, or of all tables, once."""
        chosen = self.tables.values() if table is None else [self.tables[table]]
        yield from dict.fromkeys(cell for group in chosen for cell in group)


def load_study(name: str) -> Study:
    """Return the study of a name in `STUDIES`."""
    study: Study = importlib.import_module(f"kvbound.studies.{name}").STUDY
    return study
