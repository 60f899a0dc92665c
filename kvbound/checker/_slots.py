"""The least time of a slot, found by trying every vertex of the split between the copies.

Inclusive reads may come from the item's tier or from the last one. With u_k bytes diverted from tier k,
the time is the maximum of linear functions of u (parallel) or one such function (serial) over a box, so its
minimum lies where some u_k stand at a bound and the free ones make resources equally busy. The same vertices
suffice with latencies: a tier is left untouched exactly on the face u_k = all, whose minimum is among them.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, product

import numpy as np

from kvbound.checker._inputs import Case
from kvbound.checker._report import Floats

MOST_TIERS = 6  # the vertices to try grow like 3 to the power of the tiers


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

    def time(served: Floats) -> Floats:
        share = ((served + extra) @ case.reads + written @ case.writes) / case.bandwidth
        busy = share.max(axis=1) if case.rules["timing"] == "parallel" else share.sum(axis=1)
        touched = (served + extra + written) > 0
        return np.asarray(busy + touched @ case.latency)

    best = time(read)
    if case.rules["copies"] == "inclusive":
        for diverted in _vertices(case, read, extra @ case.reads + written @ case.writes):
            kept = read[:, :-1] - diverted
            best = np.minimum(best, time(np.column_stack([kept, read[:, -1] + diverted.sum(axis=1)])))
    return np.asarray(best[back.ravel()])


def _vertices(case: Case, read: Floats, fixed: Floats) -> Iterator[Floats]:
    """Yield ``(slots, tiers - 1)`` diverted bytes: every place where the least time may be."""
    slope = case.reads[-1] - case.reads[:-1]  # what one diverted byte adds to each resource
    full = read[:, :-1]
    scale = case.bandwidth / case.bandwidth.max()
    for corner in product((0.0, 1.0), repeat=len(slope)):
        yield full * corner
    if case.rules["timing"] == "serial":
        return  # one linear function: some corner is best
    for bounds in product((0.0, 1.0, np.nan), repeat=len(slope)):
        free = np.flatnonzero(np.isnan(bounds))
        point = full * np.nan_to_num(bounds)
        load = read @ case.reads + fixed + point @ slope
        for busy in map(list, combinations(range(len(scale)), free.size + 1)):
            # load_r + sum_k slope_kr u_k = T scale_r for each busy resource r, unknown u (free k) and T
            matrix = np.column_stack([slope[free][:, busy].T, -scale[busy]])
            if free.size and np.linalg.cond(matrix) < 1e12:
                solved = point.copy()
                solved[:, free] = (-load[:, busy] @ np.linalg.inv(matrix).T)[:, :-1]
                yield np.clip(solved, 0, full)
