"""The interval form as a Pyomo model, to be read, changed and extended with constraints.

It is the program of `kvbound.models.intervals` written constraint by constraint, with the same names; a test
compares the two.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyomo.environ as pyo

from kvbound.instance import Instance
from kvbound.models.coefficients import Coefficients
from kvbound.models.integer_hull import affine, hulls
from kvbound.models.intervals import LayerClasses, classes


def intervals_model(instance: Instance, *, cuts: bool = True) -> pyo.ConcreteModel:
    """Return the model over classes v of layers l, and slots (j, l).

    Parameters
    ----------
    instance
        One for which `kvbound.models.intervals.supports` is true.
    cuts
        Bound the time of each slot by its integer hull instead of its facets.

    Returns
    -------
    pyomo.environ.ConcreteModel
        ``stay[l, v]``: how many items of the class stay in tier 0 until their next read.
        ``promote[l, v]``: how many of them enter tier 0 for that. ``hits``, ``enter``, ``held`` and
        ``time[j, l]``: reads from tier 0, entries into it, items in it after the slot
        (``held[-1, L-1]`` at the start), and time in units of ``unit_s`` seconds; ``total`` is the sum
        of the times. ``model.classes[l]``: the classes and their items.
    """
    coefficients = Coefficients.of(instance)
    model = pyo.ConcreteModel(name=instance.name)
    model.unit_s = pyo.Param(initialize=coefficients.unit_s)
    model.classes = [classes(coefficients, layer) for layer in range(instance.layers)]
    model.slots = pyo.Set(
        initialize=[(j, n) for j in range(instance.decode_steps) for n in range(instance.layers)],
        dimen=2,
        ordered=True,
    )
    _intervals(model, coefficients)
    _slots(model, coefficients)
    _occupancy(model, coefficients)
    _times(model, coefficients, cuts=cuts)
    model.total = pyo.Objective(expr=pyo.quicksum(model.time[slot] for slot in model.slots))
    return model


def _keys(model: Any) -> list[tuple[int, int]]:
    return [(n, v) for n, of_layer in enumerate(model.classes) for v in range(len(of_layer.event))]


def _intervals(model: Any, coefficients: Coefficients) -> None:
    """How many items of each class stay, and how many of them are promoted."""
    groups: list[LayerClasses] = model.classes
    keys = _keys(model)
    later = [(n, v) for n, v in keys if groups[n].event[v] >= 0]

    def bounds(_: Any, n: int, v: int) -> tuple[int, int]:
        forced = groups[n].event[v] < 0 and groups[n].until[v] == 0 and coefficients.prompt is not None
        size = int(groups[n].size[v])
        return (size if forced else 0), size

    model.stay = pyo.Var(keys, domain=pyo.Integers, bounds=bounds)
    model.promote = pyo.Var(later, bounds=lambda _, n, v: (0, int(groups[n].size[v])))
    came: dict[tuple[int, int], list[tuple[int, int]]] = {key: [] for key in later}
    for n, of_layer in enumerate(groups):
        for before, after in of_layer.follows:
            came[n, int(after)].append((n, int(before)))
    model.new = pyo.Constraint(
        later,
        rule=lambda m, n, v: m.promote[n, v] >= m.stay[n, v] - pyo.quicksum(m.stay[k] for k in came[n, v]),
    )


def _slots(model: Any, coefficients: Coefficients) -> None:
    """Hits are the intervals that end in a slot; what enters tier 0 is promoted or born there."""
    groups: list[LayerClasses] = model.classes
    model.hits = pyo.Var(
        model.slots, domain=pyo.Integers, bounds=lambda _, j, n: (0, int(coefficients.read_counts[j, n]))
    )
    model.enter = pyo.Var(model.slots, domain=pyo.NonNegativeReals)
    model.sum_hits = pyo.Constraint(
        model.slots,
        rule=lambda m, j, n: (
            m.hits[j, n] == pyo.quicksum(m.stay[n, int(v)] for v in np.flatnonzero(groups[n].until == j))
        ),
    )
    model.sum_enter = pyo.Constraint(
        model.slots,
        rule=lambda m, j, n: (
            m.enter[j, n] == pyo.quicksum(m.promote[n, int(v)] for v in np.flatnonzero(groups[n].event == j))
        ),
    )


def _occupancy(model: Any, coefficients: Coefficients) -> None:
    """Items in tier 0 after a slot: those before it, plus intervals that begin, less those that end."""
    instance, groups = coefficients.instance, model.classes
    last = instance.layers - 1
    inside, units = None, instance.units.tolist()
    if coefficients.prompt is not None:
        inside = np.count_nonzero(coefficients.prompt == 0, axis=1) * instance.units
    places = [(-1, last), *model.slots]
    model.held = pyo.Var(places, bounds=(0, instance.capacity_units[0]))

    def count(m: Any, j: int, n: int) -> Any:
        if j < 0:
            free = [key for key in _keys(m) if groups[key[0]].event[key[1]] < 0]
            return m.held[j, n] == (
                pyo.quicksum(units[key[0]] * m.stay[key] for key in free)
                if inside is None
                else int(inside.sum())
            )
        of_layer: LayerClasses = groups[n]
        begin, end = of_layer.event == j, of_layer.until == j
        leave = 0
        if inside is not None:
            # a forced fill takes its capacity until the first slot of its layer; what stays counts from there
            begin = begin | (of_layer.event < 0) if j == 0 else begin
            leave = int(inside[n]) if j == 0 else 0
        change = pyo.quicksum(m.stay[n, int(v)] for v in np.flatnonzero(begin))
        change -= pyo.quicksum(m.stay[n, int(v)] for v in np.flatnonzero(end))
        before = m.held[(j, n - 1) if n else (j - 1, last)]
        return m.held[j, n] == before + units[n] * change - leave

    model.count = pyo.Constraint(places, rule=count)


def _times(model: Any, coefficients: Coefficients, *, cuts: bool) -> None:
    """The time of a slot is at least its integer hull, or its facets."""
    model.time = pyo.Var(model.slots, bounds=lambda _, j, n: (float(coefficients.ideal[j, n]), None))
    hull, model.bound = hulls(*coefficients.slot_terms), pyo.ConstraintList()
    for j, n in model.slots:
        reads, births = int(coefficients.read_counts[j, n]), int(coefficients.instance.timeline.births[j])
        if cuts:
            rows = hull(n, reads, births, model.classes[n].entries(j))
        else:
            facets, weights, sizes = coefficients.slot_terms
            rows = affine(facets, float(weights[n]), float(sizes[n]), reads, births)
        misses, enter = reads - model.hits[j, n], model.enter[j, n]
        for least, miss, entry in rows:
            model.bound.add(model.time[j, n] >= least + miss * misses + entry * enter)
