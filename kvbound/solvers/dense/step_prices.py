"""Prices for dense reads from each step's own optimum, where moves cost little: a start for the ascent.

Every step reads all items. Were it free to place them anew, it would take the least time in which the tiers
serve them, each at its bandwidth and with its room: every tier that is not read as a whole is busy to the
end. The prices of that program in every step are the multipliers.

Equations: "Dense reads" in docs/methods.md.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvbound.instance import Instance
from kvbound.rules import Timing
from kvbound.solvers.dense.items import layers_differ_in_weights_at_most
from kvbound.solvers.lagrangian.ascent import Multipliers
from kvbound.solvers.lagrangian.slots.minorants import SlotMinorants

Floats = NDArray[np.float64]

SHARE = 0.05
"""Share of the ascent's full learning rates after such a start, which is near the best prices."""


class StepPrices(NamedTuple):
    """Prices of resources and of room."""

    resources: Floats
    """Weights of the resources, (R, steps), sum 1."""
    capacity: Floats
    """Capacity price of a unit in seconds, at the start and after every slot, (K, 1 + steps * layers)."""


def supports(instance: Instance) -> bool:
    """Whether each step is timed as a whole and each tier's reads load a resource of its own."""
    tiers = instance.memory.tiers
    own = all(len(tier.reads) == 1 for tier in tiers) and len({tier.reads for tier in tiers}) == len(tiers)
    timed = instance.rules.timing is Timing.PARALLEL and (instance.by_step or instance.layers == 1)
    plain = instance.objective.time_alone and not instance.memory.late_tiers
    same = len(set(instance.unit_sizes)) == 1
    return (
        own
        and timed
        and plain
        and same
        and not instance.inclusive
        and layers_differ_in_weights_at_most(instance)
    )


def step_prices(instance: Instance) -> StepPrices:
    """Return the prices of every step's own optimum, for an instance that is supported."""
    size, layers = instance.unit_sizes[0], instance.layers
    names = list(instance.memory.resources)
    read = [names.index(tier.reads[0]) for tier in instance.memory.tiers]
    rates = instance.memory.bandwidths[read] / size  # items per second
    items = layers * instance.token_timelines[0].live[:-1].astype(np.float64)
    room = np.array([np.inf if limit is None else limit for limit in instance.capacity_units], np.float64)
    before = np.zeros(instance.tiers)
    before[0] = instance.weight_reads.sum() / size
    busy, seconds = _busy(items, room, rates, before)
    per_item = 1 / np.maximum((busy * rates[:, None]).sum(axis=0), rates.min())
    alone = seconds * rates[0] < before[0]  # reading the weights takes longest: items cost nothing
    weights = np.zeros((len(names), instance.decode_steps))
    weights[read] = np.where(alone, 0, busy * rates[:, None] * per_item)
    weights[read[0]][alone] = 1
    capacity = np.zeros((instance.tiers, 1 + instance.slots))
    rent = np.where(np.isfinite(room)[:, None] & ~alone, ~busy * per_item, 0)
    capacity[:, : instance.slots : layers] = rent
    return StepPrices(weights, capacity)


def multipliers(instance: Instance, minorants: SlotMinorants) -> Multipliers | None:
    """Return these prices as a start of the ascent; None where no facet stands for a resource in use."""
    found = step_prices(instance)
    weights = np.full(minorants.alpha.shape, 1e-9)
    for resource, row in enumerate(found.resources):
        alone = np.flatnonzero((minorants.theta == np.eye(minorants.theta.shape[1])[resource]).all(axis=1))
        if len(alone):
            weights[alone[0]] += row[:, None]
        elif row.any():
            return None
    return Multipliers(weights / weights.sum(axis=0), found.capacity)


def _busy(items: Floats, room: Floats, rates: Floats, before: Floats) -> tuple[NDArray[np.bool_], Floats]:
    """Return the tiers that a step reads to its end, (K, steps), and its seconds; it reads others as a whole.

    Parameters
    ----------
    before
        Items for which the weights stand that each tier reads, (K,).
    """
    busy, seconds = np.ones((len(rates), len(items)), np.bool_), np.zeros(len(items))
    for _ in rates:
        whole = np.where(busy, 0, np.where(np.isinf(room), 0, room)[:, None]).sum(axis=0)
        work = items - whole + (busy * before[:, None]).sum(axis=0)
        seconds = work / np.maximum((busy * rates[:, None]).sum(axis=0), rates.min())
        busy &= room[:, None] > seconds * rates[:, None] - before[:, None]
        busy[-1] |= ~busy.any(axis=0)
    return busy, seconds
