"""Extreme rays of the prices at which a byte costs the same at several tiers, in exact integers.

The time of a slot is a maximum over prices of the resources. It is attained at one of these rays, from which
`kvbound.cost.slot` makes its facets.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Integers = NDArray[np.int64]


def split_rays(load: NDArray[Any]) -> Array:
    """Return the extreme rays of the cells into which (load[k] - load[-1]) @ x = 0 divide x >= 0.

    x are prices per byte of the resources; on these hyperplanes a read costs the same at tier k as at the
    last one. A function that is concave, and linear on each cell, has its maximum over any slice at a ray.
    """
    flats: list[Integers] = [np.eye(load.shape[1]).astype(_exact(load))]
    for cut in _cuts(load):
        if cut.any():
            flats += [_on_plane(rays, cut) for rays in flats]
    return _normalised(np.vstack(flats))


def _cuts(load: NDArray[Any]) -> Integers:
    """Return the distinct differences between the loads and the last one."""
    if load.dtype == object:
        found = np.array(sorted({tuple(row) for row in (load[:-1] - load[-1]).tolist()}), object)
        return np.asarray(found // np.maximum(np.gcd.reduce(found, axis=1, keepdims=True), 1))
    return np.unique(load[:-1] - load[-1], axis=0).astype(np.int64).astype(_exact(load))


def spread_rays(*loads: NDArray[Any]) -> Array:
    """Return the extreme rays of the cells of min_k load[k] @ x, where bytes go to the cheapest tier.

    Slacks s_k >= 0 are the excess of tier k over the cheapest: load[k] @ x - s_k is the same for all k.
    """
    resources, tiers = loads[0].shape[1], [len(load) for load in loads]
    rays: Integers = np.eye(resources + sum(tiers)).astype(_exact(*loads))
    for n, load in enumerate(loads):
        slack, first = np.zeros((tiers[n], sum(tiers)), np.int64), sum(tiers[:n])
        slack[:, first : first + tiers[n]] = np.eye(tiers[n])
        system = np.hstack([load if load.dtype == object else load.astype(np.int64), -slack]).astype(
            rays.dtype
        )
        for row in system[1:]:
            rays = _on_plane(rays, row - system[0])
    prices = rays[:, :resources]
    return _normalised(prices[prices.any(axis=1)])


def _exact(*loads: NDArray[Any]) -> type:
    """Return the type of integers that do not overflow: Python's, unless all loads are 0 or 1."""
    if any(load.dtype == object for load in loads):
        return object
    return np.int64 if max(load.max() for load in loads) <= 1 else object


def _on_plane(rays: Integers, cut: Integers) -> Integers:
    """Return the extreme rays of the intersection of a cone, given by its rays, with cut @ x = 0.

    The cone is x >= 0 within some hyperplanes. The new rays are those in the plane, and the points where it
    cuts a face spanned by two adjacent rays, which no third ray's support is contained in (double description
    method). All numbers are integers, so that no ray is lost to rounding at extreme ratios of bandwidths.
    """
    value, support = rays @ cut, _packed(rays > 0)
    above, below = np.flatnonzero(value > 0), np.flatnonzero(value < 0)
    found = [rays[value == 0]]
    for n in above:
        outside = ~(support[n] | support[below])
        beyond = [np.bitwise_and.outer(out, own) != 0 for out, own in zip(outside.T, support.T, strict=True)]
        contained = np.count_nonzero(~np.logical_or.reduce(beyond), axis=1)
        adjacent = below[contained == 2]
        found.append(value[n] * rays[adjacent] - value[adjacent, None] * rays[n])
    cut_rays = np.vstack(found)
    return cut_rays // np.gcd.reduce(cut_rays, axis=1, keepdims=True)


def _packed(support: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Return rows of bits, shape (rays, words)."""
    padded = np.zeros((len(support), -(-support.shape[1] // 64) * 64), np.bool_)
    padded[:, : support.shape[1]] = support
    return np.packbits(padded, axis=1).view(np.uint64)


def _normalised(rays: Integers) -> Array:
    """Return the distinct rays, each scaled to sum 1, sorted."""
    return np.unique((rays / rays.sum(axis=1, keepdims=True)).astype(np.float64), axis=0)


def undominated(rows: Array) -> NDArray[np.intp]:
    """Return the indices of the rows that no other row dominates, in ascending order of the rows."""
    rows, first = np.unique(rows, axis=0, return_index=True)
    keep: list[int] = []
    kept = np.empty_like(rows)
    for n in np.argsort(-rows.sum(axis=1), kind="stable"):
        if not np.all(rows[n] <= kept[: len(keep)], axis=1).any():
            kept[len(keep)] = rows[n] * (1 + 1e-12)
            keep.append(int(n))
    return first[sorted(keep)]
