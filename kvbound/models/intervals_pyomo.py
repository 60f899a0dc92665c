"""The strong form as a Pyomo model: how many items alike stay in tier 0 from one read to the next.

It is the program of `kvbound.models.intervals` written out constraint by constraint, with the same names;
a test holds the two to the same matrix.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyomo.environ as pyo

from kvbound.instance import Instance
from kvbound.models.coefficients import Facts
from kvbound.models.integer_hull import affine, hulls
from kvbound.models.intervals import LayerStays, classes


def stays_model(instance: Instance, *, cuts: bool = True) -> pyo.ConcreteModel:
    """Return the model over classes v of layers l, and slots (j, l).

    Parameters
    ----------
    instance
        One that `kvbound.models.intervals.supports` to.
    cuts
        Bound each slot's time by its hull over whole counts, not by its facets.

    Returns
    -------
    pyomo.environ.ConcreteModel
        ``stay[l, v]``: how many items of the class stay until their next read. ``promote[l, v]``: how
        many of them come into tier 0 for it. ``hits``, ``enter``, ``held`` and ``time[j, l]``: reads
        served from tier 0, writes into it, items in it after the slot (``held[-1, L-1]`` at the
        start), time in units of ``unit_s`` seconds; ``total`` is their sum. ``model.classes[l]``
        says which items a class holds.
    """
    facts = Facts.of(instance)
    model = pyo.ConcreteModel(name=instance.name)
    model.unit_s = pyo.Param(initialize=facts.unit_s)
    model.classes = [classes(facts, layer) for layer in range(instance.layers)]
    model.slots = pyo.Set(
        initialize=[(j, n) for j in range(instance.decode_steps) for n in range(instance.layers)],
        dimen=2,
        ordered=True,
    )
    _stays(model, facts)
    _slots(model, facts)
    _room(model, facts)
    _times(model, facts, cuts=cuts)
    model.total = pyo.Objective(expr=pyo.quicksum(model.time[slot] for slot in model.slots))
    return model


def _keys(model: Any) -> list[tuple[int, int]]:
    return [(n, v) for n, stays in enumerate(model.classes) for v in range(len(stays.event))]


def _stays(model: Any, facts: Facts) -> None:
    """How many of each class stay, and how many of them have to be promoted."""
    groups: list[LayerStays] = model.classes
    keys = _keys(model)
    later = [(n, v) for n, v in keys if groups[n].event[v] >= 0]

    def bounds(_: Any, n: int, v: int) -> tuple[int, int]:
        at_once = groups[n].event[v] < 0 and groups[n].until[v] == 0 and facts.prompt is not None
        size = int(groups[n].size[v])
        return (size if at_once else 0), size

    model.stay = pyo.Var(keys, domain=pyo.Integers, bounds=bounds)
    model.promote = pyo.Var(later, bounds=lambda _, n, v: (0, int(groups[n].size[v])))
    came: dict[tuple[int, int], list[tuple[int, int]]] = {key: [] for key in later}
    for n, stays in enumerate(groups):
        for before, after in stays.follows:
            came[n, int(after)].append((n, int(before)))
    model.new = pyo.Constraint(
        later,
        rule=lambda m, n, v: m.promote[n, v] >= m.stay[n, v] - pyo.quicksum(m.stay[k] for k in came[n, v]),
    )


def _slots(model: Any, facts: Facts) -> None:
    """Hits are the stays that end in a slot; what enters tier 0 is promoted or born there."""
    groups: list[LayerStays] = model.classes
    model.hits = pyo.Var(
        model.slots, domain=pyo.Integers, bounds=lambda _, j, n: (0, int(facts.counts[j, n]))
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


def _room(model: Any, facts: Facts) -> None:
    """Items in tier 0 after a slot: those before it, and the layer's stays that begin less those that end."""
    instance, groups = facts.instance, model.classes
    last = instance.layers - 1
    inside = None if facts.prompt is None else np.count_nonzero(facts.prompt == 0, axis=1)
    places = [(-1, last), *model.slots]
    model.held = pyo.Var(places, bounds=(0, instance.capacity_blocks[0]))

    def count(m: Any, j: int, n: int) -> Any:
        if j < 0:
            free = [key for key in _keys(m) if groups[key[0]].event[key[1]] < 0]
            return m.held[j, n] == (
                pyo.quicksum(m.stay[key] for key in free) if inside is None else int(inside.sum())
            )
        stays: LayerStays = groups[n]
        begin, end = stays.event == j, stays.until == j
        leave = 0
        if inside is not None:
            # a forced fill holds its room until its layer's first slot; what stays is counted from there
            begin = begin | (stays.event < 0) if j == 0 else begin
            leave = int(inside[n]) if j == 0 else 0
        change = pyo.quicksum(m.stay[n, int(v)] for v in np.flatnonzero(begin))
        change -= pyo.quicksum(m.stay[n, int(v)] for v in np.flatnonzero(end))
        before = m.held[(j, n - 1) if n else (j - 1, last)]
        return m.held[j, n] == before + change - leave

    model.count = pyo.Constraint(places, rule=count)


def _times(model: Any, facts: Facts, *, cuts: bool) -> None:
    """A slot takes at least what each facet, or the hull over whole counts, says of its traffic."""
    model.time = pyo.Var(model.slots, bounds=lambda _, j, n: (float(facts.ideal[j, n]), None))
    hull, model.bound = hulls(facts.facets, facts.weights), pyo.ConstraintList()
    for j, n in model.slots:
        reads = int(facts.counts[j, n])
        if cuts:
            rows = hull(n, reads, model.classes[n].entries(j))
        else:
            rows = affine(facts.facets, float(facts.weights[n]), reads)
        misses, enter = reads - model.hits[j, n], model.enter[j, n]
        for least, miss, entry in rows:
            model.bound.add(model.time[j, n] >= least + miss * misses + entry * enter)
