"""The ideal of a slot, by the set of tiers that serve its reads."""

from __future__ import annotations

import itertools
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvbound.arithmetic import combine
from kvbound.cost.rays import spread_rays, undominated
from kvbound.cost.slot import Array, SlotCost, set_number
from kvbound.memory import Memory
from kvbound.objective import TIME, Prices
from kvbound.rules import Rules

_MOST_TIERS = 5
"""Tiers up to which exclusive reads and writes are spread together under any objective: cells multiply."""


class IdealCase(NamedTuple):
    """A slot's ideal time if only some tiers serve reads: every read may be split over these.

    This is the relaxation without constraints on placement. Of a row only the columns n_0 (all reads), e
    (weights), z_0 (births, at the cheapest tier) and z_last (write-through) have a meaning.

    Attributes
    ----------
    inside
        Whether each tier may serve reads, shape (K,).
    rows
        Rows like `SlotCost.facets`, shape (V, 3K): the time is the largest of rows @ q + wait.
    theta
        Weights over the resources behind each row, shape (V, R).
    wait, waits
        Seconds that the slot waits, by row, shape (V,), and that its resources wait, shape (R,).
    work
        Seconds per byte on each resource with each byte at the tier of least total work, shape (R, 3K). With
        serial timing this is the ideal split.
    """

    inside: NDArray[np.bool_]
    rows: Array
    theta: Array
    wait: Array
    waits: Array
    work: Array


def ideal_cases(cost: SlotCost) -> tuple[IdealCase, ...]:
    """Return a case for every set of tiers that may serve reads, that of all tiers first.

    A tier without a latency is in all of them.
    """
    return _cases(cost.memory, cost.rules, cost.unit_sizes, cost.prices)


@lru_cache(maxsize=16)
def _cases(
    memory: Memory, rules: Rules, unit_sizes: tuple[int, ...], prices: Prices
) -> tuple[IdealCase, ...]:
    cost = SlotCost(memory, rules, unit_sizes, prices)
    late = np.flatnonzero(cost.latency).tolist()
    sets = [set(left) for size in range(len(late) + 1) for left in itertools.combinations(late, size)]
    return tuple(_case(cost, np.array([k not in left for k in range(cost.tiers)])) for left in sets)


def _case(cost: SlotCost, inside: NDArray[np.bool_]) -> IdealCase:
    read, write = (cost.scaled(load) for load in (cost.memory.read_load, cost.memory.write_load))
    some = inside if inside.any() else ~inside  # without reads any tier will do
    # with inclusive copies births go to the last tier at any prices
    if cost.inclusive:
        rays = spread_rays(read[some])
    elif cost.prices == TIME or cost.tiers <= _MOST_TIERS:
        rays = spread_rays(read[some], write)
    else:  # any weights bound the ideal from below
        rays = np.vstack([spread_rays(read[some]), spread_rays(write)])
    theta = cost.weights_of(rays)
    held, written = (combine(theta, costs.T) for costs in (cost.read_costs, cost.write_costs))
    reads = np.broadcast_to(held[:, some].min(axis=1, keepdims=True), held.shape)
    rows = np.hstack([reads, held, written.min(axis=1, keepdims=True), written[:, 1:]])
    wait, waits = (cost.waits(each)[:, set_number(inside)] for each in (theta, np.eye(theta.shape[1])))
    needed = np.sort(undominated(np.column_stack([rows, wait])))
    total = np.where(some, cost.read_costs.sum(axis=1), np.inf)
    near = cost.read_costs[total.argmin()], cost.write_costs[cost.write_costs.sum(axis=1).argmin()]
    work = np.vstack([*[near[0]] * cost.tiers, cost.read_costs, near[1], cost.write_costs[1:]]).T
    return IdealCase(inside, rows[needed], theta[needed], wait[needed], waits, work)
