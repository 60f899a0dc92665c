"""Waits charged by a ramp: the way from costs that moves of single items see to those of the model.

A latency is a fixed charge. Of the items that a slot reads from a late tier, all but the last may be moved
elsewhere without any gain, so that a search by single moves neither empties a slot nor gathers reads in few
slots. A ramp charges sqrt(n / width) of the latency for n items, up to all of it. It rises everywhere, and
steepest at the bottom: what is nearly empty is emptied, and what is full takes a few more at little cost. A
cycle of annealing begins with a wide ramp and narrows it, until the waits are those of the model.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from kvbound.arithmetic import power
from kvbound.solvers.annealing.chains import Chains, marginal_ticks, slot_ticks
from kvbound.solvers.annealing.layout import Ints, SearchData

WIDEST = 64.0
"""Number of items for which the whole latency is charged when a cycle begins."""
RAMPED_SHARE = 0.9
"""Share of a cycle after which the waits are those of the model."""


def width(share: float) -> float:
    """Return the width of the ramp when a share of a cycle is over: it narrows geometrically, down to 1."""
    if share >= RAMPED_SHARE:
        return 1.0
    return WIDEST * float(power(1 / WIDEST, share / RAMPED_SHARE))


def ramp(width: float) -> NDArray[np.float64]:
    """Return the share of a latency that is charged for 0, 1, ... items, 1 from a width on."""
    items = np.arange(math.ceil(width) + 1)
    return np.minimum(np.sqrt(items / width), 1.0)


def charge_waits(data: SearchData, chains: Chains, width: float) -> SearchData:
    """Return the search data with a ramp of another width, and cost the chains' slots by it."""
    ramped = data._replace(ramp=ramp(width))
    if data.has_waits:
        layer = _layers(data)
        chains.ticks[:] = slot_ticks(ramped, chains.counts, layer)
        chains.marginal[:] = marginal_ticks(ramped, chains.counts, layer, chains.ticks)
    return ramped


def exact_totals(data: SearchData, chains: Chains) -> Ints:
    """Return the ticks of the schedule of each chain by the waits of the model, shape (chains,)."""
    return slot_ticks(data, chains.counts, _layers(data)).sum(axis=1)


def without_waits(data: SearchData, chains: Chains) -> Ints:
    """Return the marginal ticks of the first chain if nothing waited, shape (slots, 2)."""
    data, counts = data._replace(has_waits=False), chains.counts[0]
    return marginal_ticks(data, counts, _layers(data), slot_ticks(data, counts, _layers(data)))


def _layers(data: SearchData) -> Ints:
    return np.arange(data.timed_slots) % data.timed_layers
