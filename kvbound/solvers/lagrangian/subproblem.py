"""What the dual asks of items: the price of their best paths, and what these paths use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kvbound.bitsets.lanes import Floats
from kvbound.instance import Instance


@dataclass(frozen=True, eq=False)
class Demand:
    """What items use on their best paths: the slope of the dual function.

    Attributes
    ----------
    used
        Items read, read without choice, and written, by tier: (3K, steps, layers).
    held
        Blocks in each tier at the start and after every slot, (K, 1 + steps * layers).
    """

    used: Floats
    held: Floats


class ItemSubproblem(Protocol):
    """Some items of an instance, ready to be priced again and again."""

    def evaluate(self, prices: Floats, capacity: Floats, demand: bool = True) -> tuple[float, Demand | None]:
        """Price the items' best paths.

        Parameters
        ----------
        prices
            Of every item read, read without choice, and written, by tier: (3K, steps, layers).
        capacity
            Of a block's room at the start and after every slot, (K, 1 + steps * layers).
        demand
            Whether to find out what the paths use as well.
        """
        ...


def limited_tiers(instance: Instance) -> NDArray[np.int64]:
    """Tiers with a capacity that can bind, (tiers,): the last of inclusive tiers holds everything anyway."""
    tiers = range(instance.tiers - instance.inclusive)
    return np.array([k for k in tiers if instance.capacity_blocks[k] is not None], np.int64)


def holding_prices(instance: Instance, capacity: Floats, layers: slice) -> tuple[Floats, Floats]:
    """Price a block's stay from one slot of its layer to the next.

    Returns
    -------
    After each slot (K, steps, layers), and from the start to the first slot (K, layers).
    """
    count, slots = instance.layers, instance.decode_steps * instance.layers
    sums = np.zeros((len(capacity), 1 + slots + count))
    np.cumsum(capacity, axis=1, out=sums[:, 1 : slots + 2])
    sums[:, slots + 2 :] = sums[:, slots + 1, None]  # nobody stays beyond the end
    stay = sums[:, 1 + count :] - sums[:, 1 : slots + 1]
    start = sums[:, 1 : count + 1]
    return stay.reshape(len(capacity), -1, count)[:, :, layers], start[:, layers]


def occupancy(instance: Instance, start: Floats, after: Floats, layers: slice) -> Floats:
    """Add up blocks by tier over layers.

    Parameters
    ----------
    start, after
        Blocks of each layer at the start (K, layers) and after its own slots (K, steps, layers).

    Returns
    -------
    Blocks at the start and after every slot, (K, 1 + steps * layers).
    """
    change = np.zeros((len(start), instance.decode_steps, instance.layers))
    change[:, :, layers] = np.diff(np.concatenate([start[:, None], after], axis=1), axis=1)
    first = start.sum(axis=1, keepdims=True)
    return np.concatenate([first, first + np.cumsum(change.reshape(len(start), -1), axis=1)], axis=1)


CHUNK = 256
"""Blocks swept together: their reads share cache lines, their values stay in the first-level cache."""
