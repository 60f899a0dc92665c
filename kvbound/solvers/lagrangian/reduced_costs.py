"""Reduced costs of states: how much dearer than its cheapest path a block's best path through a tier is.

Equations: "The core of the program" in docs/methods.md.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvbound.bitsets.lanes import PROMPT, Lanes
from kvbound.cost.transitions import Transitions
from kvbound.initial import forced_tiers
from kvbound.instance import Instance
from kvbound.rules import Initial
from kvbound.solvers.lagrangian.ascent import Multipliers
from kvbound.solvers.lagrangian.paths.multi_tier import PathPrices, best_moves, legal_moves
from kvbound.solvers.lagrangian.paths.traffic import Step
from kvbound.solvers.lagrangian.slots.minorants import SlotMinorants
from kvbound.solvers.lagrangian.subproblem import holding_prices
from kvbound.solvers.lagrangian.touches import touch_prices

Floats = NDArray[np.float64]


def reduced_costs(instance: Instance, multipliers: Multipliers) -> Floats:
    """Return the reduced cost in seconds of every state at some prices, (1 + steps, layers, blocks, K).

    A state is the tier of a block at the start or after a slot. Its reduced cost is 0 on a cheapest path and
    infinite if no path leads through it; where the block does not exist it has no meaning.
    """
    lanes, transitions = Lanes.all_of(instance, slice(None)), Transitions.of(instance)
    of_counts = SlotMinorants.of(instance).prices(multipliers.weights)
    shares = multipliers.shares
    touch = None if shares is None else touch_prices(instance, lanes, shares)
    prices = PathPrices.of(instance, lanes, of_counts, multipliers.capacity, touch)
    through = np.zeros((1 + instance.decode_steps, instance.tiers, *lanes.blocks.shape))
    _add_costs_to_go(through, instance, lanes, prices, transitions)
    _add_costs_so_far(through, instance, lanes, prices, transitions, _start(instance, lanes, multipliers))
    reduced = through[..., : instance.blocks]
    return np.moveaxis(reduced - reduced.min(axis=1, keepdims=True), 1, -1)


def _start(instance: Instance, lanes: Lanes, multipliers: Multipliers) -> Floats:
    """Return the cost of starting in each tier, (K, layers, lanes), infinite where the rules forbid it."""
    start = holding_prices(instance, multipliers.capacity, lanes.layers)[1][..., None] * lanes.units
    if instance.rules.initial is Initial.PREFILL_FIRST:
        forced = forced_tiers(instance, lanes.blocks, np.arange(instance.layers)[:, None])
        tier = np.arange(instance.tiers)[:, None, None]
        start[(tier != forced) & (lanes.born == PROMPT)] = np.inf
    return start


def _add_costs_to_go(
    through: Floats, instance: Instance, lanes: Lanes, prices: PathPrices, transitions: Transitions
) -> None:
    """Add the least cost of the path from each state on."""
    value = np.zeros(through.shape[1:])
    for step in range(instance.decode_steps - 1, -1, -1):
        now = Step.of(instance, lanes, step)
        value += prices.hold[:, step, :, None] * lanes.units
        value[:, lanes.last == step] = 0
        value += now.grown * prices.birth[:, step, :, None]
        through[step + 1] += value
        best_moves(transitions, value, prices, step, now, lanes.last > step)
        prices.add_reads(value, step, now)
    through[0] += value


def _add_costs_so_far(
    through: Floats,
    instance: Instance,
    lanes: Lanes,
    prices: PathPrices,
    transitions: Transitions,
    cost: Floats,
) -> None:
    """Add the least cost of the path up to each state; at the start it is `cost`."""
    through[0] += cost
    for step in range(instance.decode_steps):
        now = Step.of(instance, lanes, step)
        before = cost.copy()
        prices.add_reads(before, step, now)
        after, stays = before.copy(), lanes.last > step
        for source, target, may in legal_moves(transitions, now, stays):
            price = prices.moved(before[source], step, now, source, target)
            np.minimum(after[target], price, out=after[target], where=may)
        after[:, lanes.born == step] = 0
        through[step + 1] += after
        held = prices.hold[:, step, :, None] * (lanes.units * stays)
        cost = after + held + now.grown * prices.birth[:, step, :, None]
