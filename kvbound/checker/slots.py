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
    slope = _slopes(case)
    given = np.hstack([load, read[:, :-1]])
    best, left = np.empty(len(load)), np.arange(len(load))
    while left.size:
        first, *rest = left.tolist()
        best[first], basis = _optimum(case.bandwidth, slope, given[first])
        left = np.array(rest, np.intp)
        solved = given[left] @ basis.T
        diverted = np.clip(solved[:, :-1], 0, read[left, :-1])
        reached = ((load[left] + diverted @ slope) / case.bandwidth).max(axis=1)
        done = reached <= solved[:, -1] * (1 + _EQUAL)
        best[left[done]] = reached[done]
        left = left[~done]
    return best


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
