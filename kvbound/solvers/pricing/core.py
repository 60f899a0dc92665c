"""The search of the program's core: of the states that the dual's prices leave open.

At good prices most blocks have one path that is clearly the cheapest. The core fixes the program's states
there, unless the best schedule so far has others, which are left open so that it stays feasible. It has a
fraction of the program's columns, and schedules close to the best.

Equations: "The core of the program" in docs/methods.md.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvbound.instance import Instance
from kvbound.models import formulation
from kvbound.models.sparse import Floats, Ints, Matrix
from kvbound.models.time_indexed import NONE, TimeIndexed
from kvbound.result import Measures, Reason, Termination
from kvbound.schedule import Schedule
from kvbound.solvers.lagrangian.ascent import Multipliers
from kvbound.solvers.lagrangian.reduced_costs import reduced_costs
from kvbound.solvers.mip.exact import Improved, improve

FEWEST_STATES = 10_000
"""States that are open at least."""
_GROWTH = 4
"""Factor by which more states are opened when a core has no better schedule."""


def improve_in_core(
    instance: Instance,
    known: tuple[Schedule, Measures],
    multipliers: Multipliers | None,
    *,
    end: float,
    gap: float,
    bound_s: float,
    **options: Any,
) -> Improved:
    """Search cores of the time-indexed program, the smallest first, or the interval form as a whole.

    Parameters
    ----------
    multipliers
        Multipliers that prove a good bound; without them there are no cores.
    bound_s
        A time lower bound of the instance; those of cores are none.
    options
        See `kvbound.solvers.mip.exact.improve`, as for all others.
    """
    options |= {"end": end, "gap": gap, "bound_s": bound_s}
    count, rejected, scopes = FEWEST_STATES, 0, _scopes(instance)
    try:
        program, states = formulation(instance), None
        if isinstance(program, TimeIndexed) and multipliers is not None:
            states = States.of(program, multipliers)
        while states is not None and count < len(states.columns):
            before = known[1].value
            for n, layers in enumerate(scopes):
                left = end - time.perf_counter()
                until = end - left * (1 - 1 / (len(scopes) - n))
                core = states.core(known[0], count, layers)
                found = improve(instance, known, program=core, complete=False, **options | {"end": until})
                known, rejected = found.known, rejected + found.rejected
                closed = known[1].value - bound_s <= gap * known[1].value
                if closed or found.termination.reason is Reason.INTERRUPTED or time.perf_counter() >= end:
                    return Improved(known, bound_s, found.termination, rejected)
            count *= 1 if known[1].value < (1 - gap) * before else _GROWTH
    except KeyboardInterrupt:  # `improve` ends at one by itself
        return Improved(known, bound_s, Termination(Reason.INTERRUPTED), rejected)
    found = improve(instance, known, program=program, **options)
    return found._replace(rejected=rejected + found.rejected)


def _scopes(instance: Instance) -> list[slice]:
    """Return the layers whose states a core opens: one after the other, then all together."""
    alone = [slice(layer, layer + 1) for layer in range(instance.layers)] if instance.layers > 1 else []
    return [*alone, slice(None)]


@dataclass(frozen=True, eq=False)
class States:
    """The states of a program at the dual's prices.

    Attributes
    ----------
    columns, layer
        The columns x of the program, each once, and their layers, (states,).
    cheapest
        Their values on the cheapest paths, (states,).
    margin
        What it costs at least to have the other value, in seconds, (states,).
    """

    program: TimeIndexed
    columns: Ints
    layer: Ints
    cheapest: Floats
    margin: Floats

    @classmethod
    def of(cls, program: TimeIndexed, multipliers: Multipliers) -> States:
        """Price the states of a program."""
        reduced = reduced_costs(program.instance, multipliers)
        tiers = np.arange(reduced.shape[-1] - 1)
        others = np.stack([np.delete(reduced, tier, axis=-1).min(axis=-1) for tier in tiers], axis=-1)
        known = program.x != NONE
        columns, first = np.unique(program.x[known], return_index=True)
        inside, outside = (each[known][first] for each in (reduced[..., :-1], others))
        layer = np.nonzero(known)[1][first]
        return cls(program, columns, layer, (inside < outside).astype(np.float64), np.abs(inside - outside))

    def core(self, schedule: Schedule, count: int, layers: slice) -> Core:
        """Return the program in which some layers' states are open if their margin is small.

        Parameters
        ----------
        schedule
            The best one so far, whose states stay possible: all others than the cheapest ones are open, too.
        count
            Number of states whose margin counts as small, in all layers.
        """
        columns, values = self.program.start(schedule)
        known = np.zeros(self.program.matrix.columns)
        known[columns] = values
        known = known[self.columns]
        closed = (self.margin > np.partition(self.margin, count)[count]) & (known == self.cheapest)
        closed |= ~np.isin(self.layer, np.arange(self.program.instance.layers)[layers])
        return Core.of(self.program, self.columns[closed], known[closed])


@dataclass(frozen=True, eq=False)
class Core:
    """A program without its fixed columns; see `kvbound.models.Formulation`.

    Attributes
    ----------
    fixed
        Values of the whole program's columns, 0 for those that the core keeps, (columns,).
    kept
        Columns of the whole program that the core keeps.
    """

    program: TimeIndexed
    matrix: Matrix
    fixed: Floats
    kept: Ints

    @classmethod
    def of(cls, program: TimeIndexed, columns: Ints, values: Floats) -> Core:
        """Fix some of a program's columns x."""
        whole = program.with_states(columns, values)
        matrix, kept = whole.without_fixed()
        fixed = whole.lower.copy()
        fixed[kept] = 0
        return cls(program, matrix, fixed, kept)

    @property
    def instance(self) -> Instance:
        """The instance of the whole program."""
        return self.program.instance

    @property
    def unit_s(self) -> float:
        """Seconds per unit of the objective."""
        return self.program.unit_s

    def schedule(self, values: Floats) -> Schedule:
        """Return the schedule of an integer solution, shape (columns,)."""
        whole = self.fixed.copy()
        whole[self.kept] = values
        return self.program.schedule(whole)

    def start(self, schedule: Schedule) -> tuple[NDArray[np.int32], Floats]:
        """Return the columns x that are kept, and their values for a schedule."""
        columns, values = self.program.start(schedule)
        position = np.searchsorted(self.kept, columns)
        found = np.append(self.kept, NONE)[position] == columns
        return position[found].astype(np.int32), values[found]
