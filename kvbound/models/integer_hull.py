"""The convex hull of a slot's time over integer numbers of misses and of entries into tier 0.

With two tiers and inclusive copies a slot's time T(m, z) is the maximum over facets of affine functions of
its misses m and entries z. Its convex hull over integer (m, z) lies above T wherever T bends between
integers: on a slow link one miss costs as much as tens of hits, and a relaxation by facets alone hides half
a miss in every slot. Equations: "Count cuts" in docs/methods.md.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.spatial import ConvexHull

from kvbound.arithmetic import combine
from kvbound.models.sparse import Floats

Hull = Callable[[int, int, int, int], Floats]

BEND = 1e-9
"""Bends and slopes below this share of the largest time are taken for rounding errors."""


def hulls(facets: Floats, weights: Floats, sizes: Floats) -> Hull:
    """Return a function from layer, reads, births and maximum entries of a slot to its hull, which it caches.

    Parameters
    ----------
    facets
        As in `kvbound.models.coefficients.Coefficients`, of two tiers, shape (V, 6).
    weights, sizes
        Weight reads of each layer in items, and size of its items, shape (layers,).

    Returns
    -------
    Hull
        Returns rows of shape (n, 3), with time >= row @ (1, misses, entries).
    """
    known: dict[tuple[float, float, int, int, int], Floats] = {}

    def hull(layer: int, reads: int, births: int, entries: int) -> Floats:
        key = float(weights[layer]), float(sizes[layer]), reads, births, entries
        if key not in known:
            known[key] = integer_hull(affine(facets, *key[:4]), reads, entries)
        return known[key]

    return hull


def affine(facets: Floats, weight: float, size: float, reads: int, births: int) -> Floats:
    """Return a slot's facets as rows of (1, misses, entries), shape (V, 3); births are written through."""
    weight_read, (hit, miss, _, _, entry, write_through) = facets[:, 2], facets.T * size
    least = hit * reads + weight_read * weight + write_through * births
    return np.column_stack([least, miss - hit, entry])


def integer_hull(rows: Floats, misses: int, entries: int) -> Floats:
    """Return the lower convex hull of max(rows @ (1, m, z)) over integers m <= misses and z <= entries.

    Returns
    -------
    ndarray
        Undominated rows of (1, m, z), shape (n, 3); none where the time is constant.
    """
    size = np.array([max(misses, 1), max(entries, 1)])
    points = _vertices(rows, *size.tolist())
    time = _times(rows, points)
    least, most = float(time.min()), float(time.max())
    if most - least <= BEND * most:
        return np.empty((0, 3))
    # scaled to the unit cube; points above all others give the hull a volume
    above = np.array([[0, 0, 2], [0, 1, 2], [1, 0, 2], [1, 1, 2]])
    body = np.vstack([np.column_stack([points / size, (time - least) / (most - least)]), above])
    planes = ConvexHull(body).equations
    planes = planes[planes[:, 2] < -BEND]
    slopes = -planes[:, :2] / planes[:, 2:3] * (most - least) / size
    slopes[slopes < BEND * most] = 0.0
    found = np.unique(np.round(slopes / most, 12), axis=0) * most
    found = found[found.any(axis=1)]
    # the largest constants that every integer point allows
    offset = (time - combine(found, points.T)).min(axis=1)
    return np.column_stack([offset, found])


def _vertices(rows: Floats, misses: int, entries: int) -> Floats:
    """Integer points at which the time bends along both axes; every vertex of the hull is among them."""
    m = np.arange(misses + 1.0)
    candidates = [np.zeros_like(m), np.full_like(m, entries)]
    for n, (a, b, c) in enumerate(rows):
        for other_a, other_b, other_c in rows[:n]:
            if abs(c - other_c) > BEND * abs(c + other_c):
                meet = np.clip(((a - other_a) + (b - other_b) * m) / (other_c - c), 0, entries)
                candidates += [np.floor(meet), np.ceil(meet)]
    points = np.unique(np.column_stack([np.tile(m, len(candidates)), np.concatenate(candidates)]), axis=0)
    time = _times(rows, points)
    for axis, end in ((0, misses), (1, entries)):
        step = np.eye(2)[axis]
        bend = _times(rows, points - step) + _times(rows, points + step) - 2 * time
        at_end = (points[:, axis] == 0) | (points[:, axis] == end)
        keep = at_end | (bend > BEND * time)
        points, time = points[keep], time[keep]
    return points


def _times(rows: Floats, points: Floats) -> Floats:
    times: Floats = (combine(rows[:, 1:], points.T) + rows[:, :1]).max(axis=0)
    return times
