"""The time-indexed program as a Pyomo model, to be read, changed and extended with constraints.

It is the program of `kvbound.models.time_indexed` written constraint by constraint, with the same names; a
test compares the two.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyomo.environ as pyo

from kvbound.instance import Instance
from kvbound.models.coefficients import Coefficients, slot_cuts
from kvbound.rules import Migration

Index = tuple[int, ...]


def time_indexed_model(instance: Instance, *, cuts: bool = True) -> pyo.ConcreteModel:
    """Return the model over steps j, layers l, blocks b and tiers k.

    Parameters
    ----------
    instance
        Under physical accounting.
    cuts
        Add the count cuts.

    Returns
    -------
    pyomo.environ.ConcreteModel
        ``x[j, l, b, k]``: block b is in tier k < K-1 after slot (j, l), or at the start for j = -1.
        ``move[j, l, b, a, k]``: it moves from a to k in that slot. ``served``, ``extra`` and
        ``written[j, l, k]``: reads held in tier k, other reads, and writes, in items. ``time[j, l]``:
        time of the slot in units of ``unit_s`` seconds; ``total`` is their sum.
    """
    coefficients = Coefficients.of(instance)
    model = pyo.ConcreteModel(name=instance.name)
    model.unit_s = pyo.Param(initialize=coefficients.unit_s)
    _states(model, coefficients)
    _traffic(model, coefficients)
    _times(model, coefficients, cuts=cuts)
    _capacity(model, coefficients)
    model.total = pyo.Objective(expr=pyo.quicksum(model.time[slot] for slot in model.slots))
    return model


def _states(model: Any, coefficients: Coefficients) -> None:
    """The tiers of blocks after every slot, and their moves."""
    instance = coefficients.instance
    fast, no_moves = range(instance.tiers - 1), instance.rules.migration is Migration.NONE
    blocks, layers, born = range(instance.blocks), range(instance.layers), coefficients.grouping.born
    steps = range(-1, instance.decode_steps)
    keys = [
        (j, n, b, k)
        for j in steps for n in layers for b in blocks for k in fast
        if coefficients.placed[j + 1, n, b] and (born[b] == j or not no_moves)
    ]  # fmt: skip
    model.x = pyo.Var(keys, domain=pyo.Binary)
    if coefficients.prompt is not None:
        for j, n, b, k in keys:
            if j < 0:
                model.x[j, n, b, k].setlb(float(coefficients.prompt[n, b] == k))
                model.x[j, n, b, k].setub(float(coefficients.prompt[n, b] == k))

    def state(j: int, n: int, b: int, k: int) -> Any:
        """1 if block b is in tier k after slot (j, n), else 0, as an expression."""
        at = int(born[b]) if no_moves else j
        if k < instance.tiers - 1:
            return model.x[at, n, b, k]
        return 1 - pyo.quicksum(model.x[at, n, b, f] for f in fast)

    model.state = state
    if len(fast) > 1:
        places = sorted({key[:3] for key in keys})
        model.one = pyo.Constraint(
            places, rule=lambda m, j, n, b: pyo.quicksum(m.x[j, n, b, k] for k in fast) <= 1
        )
    if no_moves:
        return
    slots = [(j, n) for j in range(instance.decode_steps) for n in layers]
    moves = [(j, n, b, a, k) for j, n in slots for b in blocks for a, k in coefficients.legal_moves(j, n, b)]
    model.move = pyo.Var(moves, bounds=(0, 1))
    old = [(j, n, b) for j, n in slots for b in blocks if coefficients.grouping.movable[n, j, b]]
    legal = {key: coefficients.legal_moves(*key) for key in old}

    def keep(m: Any, j: int, n: int, b: int, k: int) -> Any:
        came = pyo.quicksum(m.move[j, n, b, a, c] for a, c in legal[j, n, b] if c == k)
        left = pyo.quicksum(m.move[j, n, b, a, c] for a, c in legal[j, n, b] if a == k)
        return m.x[j, n, b, k] == m.x[j - 1, n, b, k] + came - left

    def leave(m: Any, j: int, n: int, b: int, k: int) -> Any:
        left = pyo.quicksum(m.move[j, n, b, a, c] for a, c in legal[j, n, b] if a == k)
        return left <= state(j - 1, n, b, k)

    model.keep = pyo.Constraint([(*key, k) for key in old for k in fast], rule=keep)
    sources = range(instance.tiers - 1 if instance.inclusive and len(fast) == 1 else instance.tiers)
    model.leave = pyo.Constraint([(*key, k) for key in old for k in sources], rule=leave)


def _traffic(model: Any, coefficients: Coefficients) -> None:
    """The traffic of every slot, in items of the layer with the largest ones."""
    instance, transitions, sizes = (
        coefficients.instance,
        coefficients.transitions,
        coefficients.sizes.tolist(),
    )
    tiers, grown, carried = range(instance.tiers), coefficients.grouping.grown, coefficients.carried
    model.slots = pyo.Set(
        initialize=list(np.ndindex(*coefficients.ideal.shape)),
        dimen=2,
        ordered=True,
    )
    model.served = pyo.Var(model.slots, tiers, domain=pyo.NonNegativeReals)
    model.extra = pyo.Var(model.slots, tiers, domain=pyo.NonNegativeReals)
    model.written = pyo.Var(model.slots, tiers, domain=pyo.NonNegativeReals)

    def serve(m: Any, j: int, period: int, k: int) -> Any:
        return m.served[j, period, k] == pyo.quicksum(
            sizes[n] * int(coefficients.reads[j, n, b]) * m.state(j - 1, n, int(b), k)
            for n in coefficients.layers_of(period)
            for b in np.flatnonzero(coefficients.reads[j, n])
        )

    def charged(j: int, n: int) -> list[tuple[int, int, int]]:
        if instance.rules.migration is Migration.NONE:
            return []
        moves = [(b, a, k) for b in range(instance.blocks) for a, k in coefficients.legal_moves(j, n, b)]
        return [(b, a, k) for b, a, k in moves if transitions.charged[a, k]]

    def extra_of(m: Any, j: int, n: int, k: int) -> Any:
        unread = coefficients.unread[j, n]
        moved = [int(unread[b]) * m.move[j, n, b, a, c] for b, a, c in charged(j, n) if a == k and unread[b]]
        weights = coefficients.weights[n] if k == 0 else 0
        return weights + sizes[n] * pyo.quicksum(moved)

    def written_of(m: Any, j: int, n: int, k: int) -> Any:
        # a birth into any tier may be written through to this one
        through = bool(transitions.birth_writes[:, k].all())
        births = [
            int(grown[j, b]) * (1 if through else m.state(int(coefficients.joined[j, n, b]), n, int(b), k))
            for b in np.flatnonzero(grown[j])
        ]
        moved = [int(carried[n, j, b]) * m.move[j, n, b, a, c] for b, a, c in charged(j, n) if c == k]
        return sizes[n] * (pyo.quicksum(births) + pyo.quicksum(moved))

    def extra(m: Any, j: int, period: int, k: int) -> Any:
        layers = coefficients.layers_of(period)
        return m.extra[j, period, k] == pyo.quicksum(extra_of(m, j, n, k) for n in layers)

    def write(m: Any, j: int, period: int, k: int) -> Any:
        layers = coefficients.layers_of(period)
        return m.written[j, period, k] == pyo.quicksum(written_of(m, j, n, k) for n in layers)

    model.sum_served = pyo.Constraint(model.slots, tiers, rule=serve)
    model.sum_extra = pyo.Constraint(model.slots, tiers, rule=extra)
    model.sum_written = pyo.Constraint(model.slots, tiers, rule=write)


def _times(model: Any, coefficients: Coefficients, *, cuts: bool) -> None:
    """The time of a slot is at least each facet of the slot cost, and the count cuts."""
    tiers, size = range(coefficients.instance.tiers), coefficients.instance.tiers
    last = size - 1
    model.time = pyo.Var(model.slots, bounds=lambda m, j, n: (float(coefficients.ideal[j, n]), None))
    has_latency = coefficients.has_waits
    if has_latency:
        _latencies(model, coefficients)

    def served(m: Any, j: int, n: int, k: int) -> Any:
        if not has_latency:
            return m.served[j, n, k]
        if k < last:
            return m.served[j, n, k] - m.diverted[j, n, k]
        return m.served[j, n, k] + pyo.quicksum(m.diverted[j, n, f] for f in range(last))

    def facet(m: Any, j: int, n: int, v: int) -> Any:
        row = coefficients.facets[v]
        traffic = pyo.quicksum(
            row[k] * served(m, j, n, k)
            + row[size + k] * m.extra[j, n, k]
            + row[2 * size + k] * m.written[j, n, k]
            for k in tiers
        )
        late = np.flatnonzero(coefficients.waits[v]).tolist() if has_latency else []
        wait = pyo.quicksum(float(coefficients.waits[v, k]) * m.touched[j, n, k] for k in late)
        return m.time[j, n] >= traffic + wait

    model.facet = pyo.Constraint(model.slots, range(len(coefficients.facets)), rule=facet)
    model.cut = pyo.ConstraintList()
    if cuts and not has_latency and size == 2:
        for j, n in model.slots:
            kinds = model.served, model.extra, model.written
            traffic = [kind[j, n, k] for kind in kinds for k in tiers]
            for row, constant in slot_cuts(coefficients, j, n):
                cut = pyo.quicksum(float(row[c]) * traffic[c] for c in np.flatnonzero(row))
                model.cut.add(model.time[j, n] >= constant + cut)


def _latencies(model: Any, coefficients: Coefficients) -> None:
    """A tier that serves reads is touched, and the last tier may serve the reads of others."""
    instance = coefficients.instance
    tiers, last = range(instance.tiers), instance.tiers - 1
    model.touched = pyo.Var(model.slots, tiers, domain=pyo.Binary)
    model.diverted = pyo.Var(model.slots, tiers, domain=pyo.NonNegativeReals)

    def touch(m: Any, j: int, n: int, k: int) -> Any:
        away = m.diverted[j, n, k] if k < last else -pyo.quicksum(m.diverted[j, n, f] for f in range(last))
        return m.served[j, n, k] - away <= coefficients.most_reads(j, n, k)[0] * m.touched[j, n, k]

    def touch_extra(m: Any, j: int, n: int, k: int) -> Any:
        return m.extra[j, n, k] <= coefficients.most_reads(j, n, k)[1] * m.touched[j, n, k]

    def divert(m: Any, j: int, n: int, k: int) -> Any:
        return m.diverted[j, n, k] <= (m.served[j, n, k] if instance.inclusive and k < last else 0)

    model.touch = pyo.Constraint(model.slots, tiers, rule=touch)
    model.touch_extra = pyo.Constraint(model.slots, tiers, rule=touch_extra)
    model.divert = pyo.Constraint(model.slots, tiers, rule=divert)


def _capacity(model: Any, coefficients: Coefficients) -> None:
    """Capacities at the start and after every slot, when the layers up to this one are in their new state."""
    instance, born = coefficients.instance, coefficients.grouping.born
    units = instance.block_units
    no_moves, last = instance.rules.migration is Migration.NONE, instance.tiers - 1

    def existing(slot: int) -> list[tuple[int, int, int]]:
        step, layer = divmod(slot, instance.layers)
        now = [(step if n <= layer else step - 1, n) for n in range(instance.layers)]
        now = now if slot >= 0 else [(-1, n) for n in range(instance.layers)]
        return [(j, n, b) for j, n in now for b in range(instance.blocks) if coefficients.held[j + 1, n, b]]

    model.room = pyo.Constraint(pyo.Any)
    model.rest = pyo.Constraint(pyo.Any)
    for slot in range(-1, instance.slots):
        held = [(int(born[b]) if no_moves else j, n, b) for j, n, b in existing(slot)]
        total = sum(int(units[n, b]) for _, n, b in held)
        for tier in coefficients.transitions.limited:
            capacity = instance.capacity_units[tier]
            if capacity is None or total <= capacity:
                continue
            if tier < last:
                inside = pyo.quicksum(int(units[n, b]) * model.x[j, n, b, tier] for j, n, b in held)
                model.room[slot, tier] = inside <= capacity
            else:
                above = [int(units[n, b]) * model.x[j, n, b, k] for j, n, b in held for k in range(last)]
                model.rest[slot] = pyo.quicksum(above) >= total - capacity
