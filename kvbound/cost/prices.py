"""What bytes cost under an objective: the seconds they take on resources, and the energy of transfers."""

from __future__ import annotations

from fractions import Fraction
from math import lcm

import numpy as np
from numpy.typing import NDArray

from kvbound.cost.traffic import Columns
from kvbound.objective import TIME, Prices

Array = NDArray[np.float64]


def byte_costs(load: Array, bandwidths: Array, prices: Prices, *, serial: bool) -> Array:
    """Return what a byte at each tier costs on each resource, (K, R).

    With resources side by side the energy of a byte counts on all of them: whichever binds, it is spent.

    Parameters
    ----------
    load
        Bytes that each resource transfers, (K, R).
    """
    seconds: Array = load / bandwidths
    if prices == TIME:
        return seconds
    energy = load * (prices.byte or np.zeros(load.shape[1]))
    return prices.second * seconds + (energy if serial else energy.sum(axis=1, keepdims=True))


def exact_costs(load: Array, bandwidths: Array, prices: Prices) -> Array | NDArray[np.object_]:
    """Return what a byte of each load costs at prices x of time, per x, in Python integers, (K, R).

    For time alone these are the loads themselves. With weights theta = x * bandwidths of sum 1, a byte on
    resource r costs second * x_r + byte_r. Both terms are linear in x, byte_r times x @ bandwidths.

    Parameters
    ----------
    load
        Whole numbers.
    """
    if prices == TIME:
        return load
    second, byte = Fraction(prices.second), [Fraction(each) for each in prices.byte]
    rates, rows = [Fraction(rate) for rate in bandwidths.tolist()], []
    for row in load.tolist():
        whole = [int(each) for each in row]
        energy = sum((n * each for n, each in zip(whole, byte, strict=False) if n), Fraction(0))
        rows.append([second * n + energy * rate for n, rate in zip(whole, rates, strict=True)])
    unit = lcm(*(entry.denominator for row in rows for entry in row))
    return np.array([[int(entry * unit) for entry in row] for row in rows], object)


def least_price(costs: Array) -> float:
    """Return what a byte costs at the cheapest tier that costs anything, of costs (K, R); 1 if none does."""
    each = costs.max(axis=1)
    return float(each[each > 0].min()) if each.any() else 1.0


def from_cheaper_copies(traffic: Array, costs: Array) -> Array:
    """Return traffic in which reads have no choice where one of the two copies costs less.

    Parameters
    ----------
    traffic
        Bytes, (..., 3K), with inclusive copies.
    costs
        What a byte read at each tier costs, whatever else is read, (K,).
    """
    q, last = traffic.copy(), len(costs) - 1
    columns = Columns.of(q)
    equal = np.abs(costs[:last] - costs[last]) <= 1e-9 * costs[last]
    for tier in np.flatnonzero(~equal).tolist():
        columns.extra_reads[..., tier if costs[tier] < costs[last] else last] += columns.reads[..., tier]
        columns.reads[..., tier] = 0
    return q
