"""The least time of a slot over all splits of its reads between the two copies.

With inclusive copies a read may be served by the item's tier or by the last one. Serial time is linear in the
bytes diverted from each tier to the last, so that either all or none of them are diverted. Parallel time is
the optimum of a small linear program, solved in exact fractions because bandwidths may differ by many orders
of magnitude. The optimal basis is then reused for all slots for which it is optimal too: those where its
primal and dual values agree. With latencies, the minimum over the sets of tiers that serve no reads is taken,
and over whether the last tier serves any where nothing else is read from it. Only reads wait: on each of
their resources for the longest latency, or one after the other if timing is serial.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import product

import numpy as np
from numpy.typing import NDArray

from kvbound.checker.inputs import Case
from kvbound.checker.report import Floats

MOST_TIERS = 8
"""The number of sets of tiers that serve no reads doubles with each tier."""
_MOST_RATIO = 1e5
"""Ratio of bandwidths up to which the split between two copies is known to ten digits."""
_EQUAL = 1e-12
"""Relative difference up to which primal and dual values of the linear program agree."""

_CLEAR = 1e-4
"""Relative difference from which on two copies surely do not cost the same."""

Row = list[Fraction]
"""Coefficients of the nonbasic variables, then the constant."""


def slot_times(case: Case, read: Floats, extra: Floats, written: Floats) -> Floats:
    """Return the time of each slot in seconds, ``(slots,)``.

    Parameters
    ----------
    case
        Tiers, resources and rules.
    read
        ``(slots, tiers)`` KV bytes read of items that are in the tier when the slot begins.
    extra
        ``(slots, tiers)`` further bytes read that no other tier can serve: weights, unread items that move.
    written
        ``(slots, tiers)`` bytes written.
    """
    tiers = len(case.names)
    loads, back = np.unique(np.hstack([read, extra, written]), axis=0, return_inverse=True)
    read, extra, written = loads[:, :tiers], loads[:, tiers : 2 * tiers], loads[:, 2 * tiers :]
    parallel = case.rules["timing"] == "parallel"
    divided = parallel and case.rules["copies"] == "inclusive"
    best = np.full(len(loads), np.inf)
    if divided:  # the linear program may use the last tier, which costs its latency: or nothing is diverted
        load, serving = (read + extra) @ case.reads + written @ case.writes, (read + extra) > 0
        whole = (load / case.bandwidth + _waits(case, serving)).max(axis=1)
        best[~serving[:, -1]] = whole[~serving[:, -1]]
    for served in _served(case, read):
        load, serving = (served + extra) @ case.reads + written @ case.writes, (served + extra) > 0
        if parallel:
            serving[:, -1] |= divided & (read[:, :-1] > 0).any(axis=1)
            # a wait counts like the bytes that would be transferred in the meantime
            busy = _balanced(case, load + _waits(case, serving) * case.bandwidth, served)
        else:
            busy = (load / case.bandwidth).sum(axis=1) + serving @ case.latency
        best = np.minimum(best, busy)
    return np.asarray(best[back.ravel()])


def slot_costs(
    case: Case, read: Floats, extra: Floats, written: Floats
) -> tuple[Floats, Floats, Floats, bool]:
    """Return what slots cost under an objective with energy, and of the splits that cost it one's times.

    Parameters
    ----------
    case, read, extra, written
        As for `slot_times`.

    Returns
    -------
    Costs and seconds, ``(slots,)``, the bytes that each resource transfers in all slots, ``(resources,)``,
    and whether no other split costs as little.
    """
    parallel, inclusive = case.rules["timing"] == "parallel", case.rules["copies"] == "inclusive"
    second, slope = float(case.objective.second), _slopes(case)
    costs, times = np.full(len(read), np.inf), np.zeros(len(read))
    loads = np.zeros((len(read), len(case.bandwidth)))

    def offer(cost: Floats, load: Floats, serving: NDArray[np.bool_]) -> None:
        """Keep the slots that cost less than before."""
        better, waits = cost < costs, _waits(case, serving)
        busy = load / case.bandwidth
        time = (busy + waits).max(axis=1) if parallel else busy.sum(axis=1) + serving @ case.latency
        costs[better], times[better], loads[better] = cost[better], time[better], load[better]

    load, serving = (read + extra) @ case.reads + written @ case.writes, (read + extra) > 0
    whole = (_priced(case, load) / case.bandwidth + second * _waits(case, serving)).max(axis=1)
    if parallel:
        idle = ~serving[:, -1] | (not inclusive)
        offer(np.where(idle, whole, np.inf), load, serving)
    for served in _served(case, read):
        load, serving = (served + extra) @ case.reads + written @ case.writes, (served + extra) > 0
        if not parallel:
            cost = (_priced(case, load) / case.bandwidth).sum(axis=1) + second * (serving @ case.latency)
            offer(cost, load, serving)
        elif inclusive:
            charged = serving.copy()
            charged[:, -1] |= (read[:, :-1] > 0).any(axis=1)
            waiting = second * _waits(case, charged) * case.bandwidth
            cost, diverted = _divided(case, _priced(case, load) + waiting, served, _priced(case, slope))
            kept = served[:, :-1] - diverted > _EQUAL * served[:, :-1]
            serving[:, :-1] = kept | (extra[:, :-1] > 0)
            serving[:, -1] |= (diverted > 0).any(axis=1)
            offer(cost, load + diverted @ slope, serving)
    return costs, times, loads.sum(axis=0), _is_one_split(case)


def _priced(case: Case, load: Floats) -> Floats:
    """Return bytes that take as many seconds as the loads cost, ``(..., resources)``.

    The energy of all loads is added to each of parallel resources, so that the one that binds decides.
    """
    second, byte = float(case.objective.second), np.array(case.objective.byte or 0, float)
    if case.rules["timing"] == "serial":
        return np.asarray(load * (second + byte * case.bandwidth))
    return np.asarray(second * load + (load * byte).sum(axis=-1, keepdims=True) * case.bandwidth)


def _is_one_split(case: Case) -> bool:
    """Whether slots surely have a single split of least cost."""
    if case.rules["copies"] == "exclusive":
        return True
    byte = np.array([float(each) for each in case.objective.byte])
    slope = _slopes(case)
    energy, time = slope @ byte, float(case.objective.second) * slope / case.bandwidth
    if not case.objective.second:
        whole = np.abs(slope) @ byte
        return bool(np.all(np.abs(energy) > _CLEAR * whole))
    if len(case.names) > 2 or case.latency.any():
        return False
    if case.rules["timing"] == "serial":
        each, whole = time.sum() + energy, np.abs(time).sum() + np.abs(slope) @ byte
    else:
        each, whole = time + energy[:, None], np.abs(time) + (np.abs(slope) @ byte)[:, None]
    return bool(np.all(np.abs(each) > _CLEAR * whole))


def _waits(case: Case, serving: NDArray[np.bool_]) -> Floats:
    """Return the seconds that each resource waits for the tiers that serve reads, ``(slots, resources)``."""
    late = np.where(case.reads > 0, case.latency[:, None], 0.0)  # (tiers, resources)
    return np.asarray((serving[:, :, None] * late).max(axis=1))


def busy_times(case: Case, read: Floats, extra: Floats, written: Floats, times: Floats) -> Floats | None:
    """Return the seconds each resource is busy in all slots together, or None where they are not unique.

    Among the splits of least time the one of least total work is used. It is determined with one copy, and
    between two tiers without latencies whose bandwidths do not differ so much that rounding changes it.

    Parameters
    ----------
    case, read, extra, written
        As for `slot_times`.
    times
        What `slot_times` returned, ``(slots,)``.
    """
    load = (read + extra) @ case.reads + written @ case.writes
    if case.rules["copies"] == "inclusive":
        imprecise = case.bandwidth.max() > _MOST_RATIO * case.bandwidth.min()
        if len(case.names) > 2 or case.latency.any() or imprecise:
            return None
        near, last = (case.reads / case.bandwidth).sum(axis=1) * case.item_sizes
        slope, full = _slopes(case)[0], read[:, 0]
        part = full if last < near else np.zeros_like(full)
        if case.rules["timing"] == "parallel":
            limits = slope > 0 if last < near else slope < 0
            ends = (times[:, None] * case.bandwidth[limits] - load[:, limits]) / slope[limits]
            ends = np.column_stack([ends, part])
            part = np.clip(ends.min(axis=1) if last < near else ends.max(axis=1), 0, full)
        load = load + part[:, None] * slope
    return np.asarray((load / case.bandwidth).sum(axis=0))


def _served(case: Case, read: Floats) -> Iterator[Floats]:
    """Yield ``(slots, tiers)`` bytes read, for each set of tiers whose reads the last tier serves instead."""
    optional = np.zeros(read.shape[1] - 1, bool)
    if case.rules["copies"] == "inclusive":
        # where no latency is saved, the linear program decides what is diverted
        optional |= (case.latency[:-1] > 0) | (case.rules["timing"] == "serial")
    for unused in product(*((0.0, 1.0) if free else (0.0,) for free in optional)):
        diverted = read[:, :-1] * unused
        instead = diverted * _ratios(case)
        yield np.column_stack([read[:, :-1] - diverted, read[:, -1] + instead.sum(axis=1)])


def _ratios(case: Case) -> Floats:
    """Return the bytes read at the last tier instead of one byte at each other, ``(tiers - 1,)``."""
    return case.item_sizes[-1] / np.array(case.item_sizes[:-1], float)


def _slopes(case: Case) -> Floats:
    """Return what one diverted byte of each tier but the last adds to each resource."""
    return np.asarray(case.reads[-1] * _ratios(case)[:, None] - case.reads[:-1])


def _balanced(case: Case, load: Floats, read: Floats) -> Floats:
    """Return the time of the busiest resource with reads split best between both copies, ``(slots,)``."""
    if case.rules["copies"] == "exclusive":
        return np.asarray((load / case.bandwidth).max(axis=1))
    return _divided(case, load, read, _slopes(case))[0]


def _divided(case: Case, load: Floats, read: Floats, slope: Floats) -> tuple[Floats, Floats]:
    """Return the least value of the busiest resource, ``(slots,)``, and the bytes diverted for it.

    Parameters
    ----------
    slope
        What a diverted byte of each tier but the last adds to each resource, ``(tiers - 1, resources)``.
    """
    given = np.hstack([load, read[:, :-1]])
    best, left = np.empty(len(load)), np.arange(len(load))
    parts = np.zeros((len(load), len(slope)))
    while left.size:
        first, *rest = left.tolist()
        best[first], basis = _optimum(case.bandwidth, slope, given[first])
        parts[first] = np.clip(basis[:-1] @ given[first], 0, read[first, :-1])
        left = np.array(rest, np.intp)
        solved = given[left] @ basis.T
        diverted = np.clip(solved[:, :-1], 0, read[left, :-1])
        reached = ((load[left] + diverted @ slope) / case.bandwidth).max(axis=1)
        done = reached <= solved[:, -1] * (1 + _EQUAL)
        best[left[done]], parts[left[done]] = reached[done], diverted[done]
        left = left[~done]
    return best, parts


def _optimum(bandwidth: Floats, slope: Floats, given: Floats) -> tuple[float, Floats]:
    """Minimise T with load + slope.T @ u <= T bandwidth and 0 <= u <= full, by the simplex method.

    Returns
    -------
    The least T, and the matrix that turns ``given`` = (load, full) into (u, T) in the optimal basis. For any
    other ``given`` this T is a lower bound, as the basis stays dual feasible.
    """
    tiers, resources = slope.shape
    rate, constants = bandwidth.tolist(), given.tolist()
    # variables: u, T, then the slacks; a row gives a basic variable in terms of the nonbasic ones
    nonbasic = list(range(tiers + 1))
    rows: dict[int, Row] = {}
    for r in range(resources):
        terms = [Fraction(-step) for step in slope[:, r].tolist()]
        rows[tiers + 1 + r] = [*terms, Fraction(rate[r]), -Fraction(constants[r])]
    for k in range(tiers):
        terms = [Fraction(-(k == other)) for other in range(tiers)]
        rows[tiers + 1 + resources + k] = [*terms, Fraction(0), Fraction(constants[resources + k])]
    # the first basis diverts nothing, and T is the time of the busiest resource
    busiest = max(range(resources), key=lambda r: Fraction(constants[r]) / Fraction(rate[r]))
    leaving, column = tiers + 1 + busiest, tiers
    while True:
        _pivot(rows, nonbasic, leaving, column)
        # always the first of several candidates, to avoid cycling (Bland's rule)
        gains = [(nonbasic[j], j) for j, gain in enumerate(rows[tiers][:-1]) if gain < 0]
        if not gains:
            break
        column = min(gains)[1]
        falling = [
            (row[-1] / -row[column], n) for n, row in rows.items() if n != tiers and row[column] < 0
        ]  # T never leaves the basis, as it cannot fall below 0
        leaving = min(falling)[1]
    basis = np.zeros((tiers + 1, resources + tiers))
    for n in range(tiers + 1):
        for j, slack in enumerate(nonbasic if n in rows else ()):
            if slack > tiers:
                sign = 1 if slack <= tiers + resources else -1
                basis[n, slack - tiers - 1] = sign * rows[n][j]
    return float(rows[tiers][-1]), basis


def _pivot(rows: dict[int, Row], nonbasic: list[int], leaving: int, column: int) -> None:
    """Let the variable of a column enter the basis in place of `leaving`."""
    row = rows.pop(leaving)
    entering, nonbasic[column] = nonbasic[column], leaving
    pivot = row[column]
    solved = [-value / pivot for value in row]
    solved[column] = 1 / pivot
    for n, other in rows.items():
        if factor := other[column]:
            other[column] = Fraction(0)
            rows[n] = [value + factor * more for value, more in zip(other, solved, strict=True)]
    rows[entering] = solved
