"""The dual's item subproblem: the price of the items' cheapest paths, and the traffic of these paths."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from kvbound.cost.traffic import Columns
from kvbound.cost.transitions import Transitions
from kvbound.instance import Instance

Floats = NDArray[np.float64]
_Result = TypeVar("_Result")

BLOCKS_AT_ONCE, WORDS_AT_ONCE = 256, 16
"""Blocks, or words of 64 tokens, that the kernels work on together: their reads share cache lines, and their
values fit into the first-level cache."""


@dataclass(frozen=True, eq=False)
class Demand:
    """Traffic and occupancy of the items' cheapest paths: a supergradient of the items' part of the dual.

    Attributes
    ----------
    used
        Items read, read without a choice, and written, by tier; see `kvbound.cost.traffic.Columns`:
        (3K, steps, layers).
    held
        Units in each tier at the start and after every slot, (K, 1 + steps * layers).
    tiers
        Where touches have prices, the tiers of blocks at the start and after every slot, K where there is no
        block, (1 + steps, layers, blocks).
    """

    used: Floats
    held: Floats
    tiers: NDArray[np.uint8] | None = None


class ItemSubproblem(Protocol):
    """Some items of an instance, to be evaluated at different prices."""

    def evaluate(self, prices: Floats, capacity: Floats, demand: bool = True) -> tuple[float, Demand | None]:
        """Return the total cost of the items' cheapest paths, and their demand.

        Parameters
        ----------
        prices
            Prices of the counts in `Demand.used`, (3K, steps, layers).
        capacity
            Capacity price of a unit at the start and after every slot, (K, 1 + steps * layers).
        demand
            Whether to return the demand, too; None otherwise.
        """
        ...


def columns(counts: Floats) -> Columns:
    """Name the parts of counts or of their prices, (3K, ...), each a view of shape (K, ...)."""
    tiers = len(counts) // 3
    return Columns(counts[:tiers], counts[tiers : 2 * tiers], counts[2 * tiers :])


def limited_tiers(instance: Instance) -> NDArray[np.int64]:
    """Tiers with a capacity that can bind, (tiers,)."""
    tiers = Transitions.of(instance).limited
    return np.array([k for k in tiers if instance.capacity_units[k] is not None], np.int64)


def holding_prices(instance: Instance, capacity: Floats, layers: slice) -> tuple[Floats, Floats]:
    """Price of holding a unit in each tier from one slot of its layer to the next.

    Returns
    -------
    From each slot on, (K, steps, layers), and from the start to the first slot, (K, layers).
    """
    count, slots = instance.layers, instance.decode_steps * instance.layers
    sums = np.zeros((len(capacity), 1 + slots + count))
    np.cumsum(capacity, axis=1, out=sums[:, 1 : slots + 2])
    sums[:, slots + 2 :] = sums[:, slots + 1, None]  # nothing is held beyond the last slot
    hold = sums[:, 1 + count :] - sums[:, 1 : slots + 1]
    start = sums[:, 1 : count + 1]
    return hold.reshape(len(capacity), -1, count)[:, :, layers], start[:, layers]


def occupancy(instance: Instance, start: Floats, after: Floats, layers: slice) -> Floats:
    """Sum the units in tiers over layers.

    Parameters
    ----------
    start, after
        Units of each layer at the start, (K, layers), and after its own slots, (K, steps, layers).

    Returns
    -------
    Units at the start and after every slot, (K, 1 + steps * layers).
    """
    change = np.zeros((len(start), instance.decode_steps, instance.layers))
    change[:, :, layers] = np.diff(np.concatenate([start[:, None], after], axis=1), axis=1)
    first = start.sum(axis=1, keepdims=True)
    return np.concatenate([first, first + np.cumsum(change.reshape(len(start), -1), axis=1)], axis=1)


def map_ranges(
    function: Callable[[int, int], _Result], count: int, threads: int, multiple: int = 1
) -> list[_Result]:
    """Call a function on ranges first..last-1 that make up `count`, in threads; return the results.

    Parameters
    ----------
    multiple
        Every range but the last ends at a multiple of this.
    """
    if threads == 1:
        return [function(0, count)]
    ranges = 2 * threads
    edges = np.unique([*(count * np.arange(ranges) // ranges // multiple * multiple), count]).tolist()
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, edges[:-1], edges[1:]))
