"""The least time of a slot, whatever part of its reads the last tier's copies serve.

Inclusive reads may come from the item's tier or from the last one. Serial time is linear in the bytes
diverted from each tier, so that all or none of them go. Parallel time is a small linear program. It is
solved in exact fractions, as bandwidths may differ by many orders of magnitude; the basis it ends with
then costs all slots for which it is optimal too: those where what it reaches equals what it proves. With
latencies the least over the sets of tiers that are left alone is taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import product

import numpy as np

from kvbound.checker._inputs import Case
from kvbound.checker._report import Floats

MOST_TIERS = 8
"""The sets of tiers to leave alone double with each tier."""
_NEAR = 1e5
"""Ratio of bandwidths up to which the split between two copies is known to ten digits."""
_EQUAL = 1e-12
"""Relative: a time this near to what is proved is the least one."""

Line = list[Fraction]


def slot_times(case: Case, read: Floats, extra: Floats, written: Floats) -> Floats:
    """Return the seconds each slot takes.

    Parameters
    ----------
    case
        Tiers, resources and rules.
    read
        ``(slots, tiers)`` KV bytes read whose item is in the tier when the slot begins.
    extra
        ``(slots, tiers)`` further bytes read there and nowhere else: weights, unread items that move.
    written
        ``(slots, tiers)`` bytes written.
    """
    tiers = len(case.names)
    loads, back = np.unique(np.hstack([read, extra, written]), axis=0, return_inverse=True)
    read, extra, written = loads[:, :tiers], loads[:, tiers : 2 * tiers], loads[:, 2 * tiers :]
    parallel = case.rules["timing"] == "parallel"
    best = np.full(len(loads), np.inf)
    for served in _served(case, read):
        load = (served + extra) @ case.reads + written @ case.writes
        busy = _balanced(case, load, served) if parallel else (load / case.bandwidth).sum(axis=1)
        touched = (served + extra + written) > 0
        best = np.minimum(best, busy + touched @ case.latency)
    return np.asarray(best[back.ravel()])


def busy_times(case: Case, read: Floats, extra: Floats, written: Floats, times: Floats) -> Floats | None:
    """Return the seconds each resource works in all slots together, or None where that is not certain.

    Of the splits of the least time that of the least work counts. It is certain with one copy, and between
    two tiers without latencies whose bandwidths are not so far apart that rounding moves it.

    Parameters
    ----------
    case, read, extra, written
        As for `slot_times`.
    times
        ``(slots,)`` what that returned.
    """
    load = (read + extra) @ case.reads + written @ case.writes
    if case.rules["copies"] == "inclusive":
        far = case.bandwidth.max() > _NEAR * case.bandwidth.min()
        if len(case.names) > 2 or case.latency.any() or far:
            return None
        near, last = (case.reads / case.bandwidth).sum(axis=1)
        slope, full = case.reads[1] - case.reads[0], read[:, 0]
        part = full if last < near else np.zeros_like(full)
        if case.rules["timing"] == "parallel":
            limits = slope > 0 if last < near else slope < 0
            ends = (times[:, None] * case.bandwidth[limits] - load[:, limits]) / slope[limits]
            ends = np.column_stack([ends, part])
            part = np.clip(ends.min(axis=1) if last < near else ends.max(axis=1), 0, full)
        load = load + part[:, None] * slope
    return np.asarray((load / case.bandwidth).sum(axis=0))


def _served(case: Case, read: Floats) -> Iterator[Floats]:
    """Yield ``(slots, tiers)`` bytes read where some tiers serve nothing and the last one stands in."""
    may = np.zeros(read.shape[1] - 1, bool)
    if case.rules["copies"] == "inclusive":
        # where no latency is saved, a part may be diverted as well as all
        may |= (case.latency[:-1] > 0) | (case.rules["timing"] == "serial")
    for alone in product(*((0.0, 1.0) if free else (0.0,) for free in may)):
        diverted = read[:, :-1] * alone
        yield np.column_stack([read[:, :-1] - diverted, read[:, -1] + diverted.sum(axis=1)])


def _balanced(case: Case, load: Floats, read: Floats) -> Floats:
    """Return the seconds of the busiest resource, the reads split between both copies as suits best."""
    if case.rules["copies"] == "exclusive":
        return np.asarray((load / case.bandwidth).max(axis=1))
    slope = case.reads[-1] - case.reads[:-1]  # what one diverted byte adds to each resource
    asked = np.hstack([load, read[:, :-1]])
    best, left = np.empty(len(load)), np.arange(len(load))
    while left.size:
        first, *rest = left.tolist()
        best[first], basis = _optimum(case.bandwidth, slope, asked[first])
        left = np.array(rest, np.intp)
        solved = asked[left] @ basis.T
        diverted = np.clip(solved[:, :-1], 0, read[left, :-1])
        reached = ((load[left] + diverted @ slope) / case.bandwidth).max(axis=1)
        done = reached <= solved[:, -1] * (1 + _EQUAL)
        best[left[done]] = reached[done]
        left = left[~done]
    return best


def _optimum(bandwidth: Floats, slope: Floats, asked: Floats) -> tuple[float, Floats]:
    """Minimise T with load + slope.T @ u <= T bandwidth and 0 <= u <= full, by the simplex method.

    Returns
    -------
    The least T, and the matrix that turns ``asked`` = (load, full) into (u, T) in the optimal basis: T is
    then below any that is possible.
    """
    tiers, resources = slope.shape
    rate, given = bandwidth.tolist(), asked.tolist()
    # variables: u, T, then the slacks; a line says what one of them is, given those that are 0
    zero = list(range(tiers + 1))
    lines: dict[int, Line] = {}
    for r in range(resources):
        drawn = [Fraction(-step) for step in slope[:, r].tolist()]
        lines[tiers + 1 + r] = [*drawn, Fraction(rate[r]), -Fraction(given[r])]
    for k in range(tiers):
        drawn = [Fraction(-(k == other)) for other in range(tiers)]
        lines[tiers + 1 + resources + k] = [*drawn, Fraction(0), Fraction(given[resources + k])]
    # with nothing diverted T is that of the busiest resource
    busiest = max(range(resources), key=lambda r: Fraction(given[r]) / Fraction(rate[r]))
    leaving, column = tiers + 1 + busiest, tiers
    while True:
        _exchange(lines, zero, leaving, column)
        # always the first of several candidates, so that it never cycles (Bland's rule)
        gains = [(zero[j], j) for j, gain in enumerate(lines[tiers][:-1]) if gain < 0]
        if not gains:
            break
        column = min(gains)[1]
        falling = [
            (line[-1] / -line[column], n) for n, line in lines.items() if n != tiers and line[column] < 0
        ]  # T stays, as nothing makes it less than 0
        leaving = min(falling)[1]
    basis = np.zeros((tiers + 1, resources + tiers))
    for n in range(tiers + 1):
        for j, slack in enumerate(zero if n in lines else ()):
            if slack > tiers:
                sign = 1 if slack <= tiers + resources else -1
                basis[n, slack - tiers - 1] = sign * lines[n][j]
    return float(lines[tiers][-1]), basis


def _exchange(lines: dict[int, Line], zero: list[int], leaving: int, column: int) -> None:
    """Let the variable of a column enter the basis in place of one that becomes 0."""
    line = lines.pop(leaving)
    entering, zero[column] = zero[column], leaving
    pivot = line[column]
    solved = [-value / pivot for value in line]
    solved[column] = 1 / pivot
    for n, other in lines.items():
        if factor := other[column]:
            other[column] = Fraction(0)
            lines[n] = [value + factor * more for value, more in zip(other, solved, strict=True)]
    lines[entering] = solved
