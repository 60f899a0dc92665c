"""The cheapest paths of all blocks of a small instance, where some states are closed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from kvbound.bitsets.lanes import PROMPT, Lanes
from kvbound.certificate import Certificate
from kvbound.cost.transitions import Transitions
from kvbound.initial import forced_tiers
from kvbound.instance import Instance
from kvbound.rules import Initial
from kvbound.solvers.lagrangian.paths.multi_tier import PathPrices, legal_moves
from kvbound.solvers.lagrangian.paths.traffic import Step
from kvbound.solvers.lagrangian.subproblem import holding_prices


class ClosedPaths:
    """All blocks of an instance and what they do in every step."""

    def __init__(self, instance: Instance) -> None:
        self._instance, self._transitions = instance, Transitions.of(instance)
        self._lanes = lanes = Lanes.all_of(instance, slice(None))
        self._steps = [Step.of(instance, lanes, step) for step in range(instance.decode_steps)]
        self._forced = None
        if instance.rules.initial is Initial.PREFILL_FIRST:
            self._forced = forced_tiers(instance, lanes.blocks, np.arange(instance.layers)[:, None])

    def cost(self, certificate: Certificate, closed: Mapping[int, Sequence[tuple[int, int, int]]]) -> float:
        """Return the total price of the cheapest paths in units, infinite if a block has none.

        Parameters
        ----------
        closed
            By step, -1 for the start: layer, block and tier of states that no path may lead through.
        """
        lanes, capacity = self._lanes, certificate.capacity.astype(np.float64)
        prices = PathPrices.of(self._instance, lanes, certificate.prices.astype(np.float64), capacity)
        value = np.zeros((self._instance.tiers, *lanes.blocks.shape))
        totals = []
        for step in range(self._instance.decode_steps - 1, -1, -1):
            now = self._steps[step]
            value += prices.hold[:, step, :, None] * lanes.units
            value[:, lanes.last == step] = 0
            value += now.grown * prices.birth[:, step, :, None]
            for layer, block, tier in closed.get(step, ()):
                value[tier, layer, block] = np.inf
            totals.append(value[:, lanes.born == step].min(axis=0))
            after = value.copy()
            for source, target, may in legal_moves(self._transitions, now, lanes.last > step):
                price = prices.moved(after[target], step, now, source, target)
                np.minimum(value[source], price, out=value[source], where=may)
            prices.add_reads(value, step, now)
        for layer, block, tier in closed.get(-1, ()):
            value[tier, layer, block] = np.inf
        value += holding_prices(self._instance, capacity, lanes.layers)[1][..., None] * lanes.units
        if self._forced is None:
            first = value.min(axis=0)
        else:
            forced = np.minimum(self._forced, len(value) - 1).astype(np.int64)
            first = np.take_along_axis(value, forced[None], axis=0)[0]
        totals.append(first[lanes.born == PROMPT])
        return math.fsum(np.concatenate(totals))
