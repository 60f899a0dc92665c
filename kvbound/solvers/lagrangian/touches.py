"""Shares of waits: what the dual charges a block for being read at a tier that lets the slot wait.

A slot that reads anything at a tier with a latency waits for it, however little it reads. Prices of counts
cannot say so: at them, half of all reads there pay for half a wait. A share charges each block on its own, so
that a slot saves half of the wait only if half of *every* block is read elsewhere.

Equations: "Shares of waits" in docs/methods.md.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvbound.arithmetic import log
from kvbound.bitsets.lanes import Lanes
from kvbound.cost.transitions import Transitions
from kvbound.instance import Instance
from kvbound.rules import Migration
from kvbound.solvers.lagrangian.parameters import SoftmaxWeights
from kvbound.solvers.lagrangian.paths.traffic import Step
from kvbound.solvers.lagrangian.slots.minorants import SlotMinorants

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Bytes = NDArray[np.uint8]

MOST_CELLS = 10_000_000
"""Blocks times steps times late tiers up to which every block has shares of its own."""
_SOONEST = 1e-2
"""Steps that count for a block that the step before has read, or that the step does not read."""


def supports(instance: Instance) -> bool:
    """Whether blocks can have shares of waits, and there are waits to share."""
    late = len(instance.memory.late_tiers)
    cells = late * instance.decode_steps * instance.layers * instance.blocks
    return late > 0 and cells <= MOST_CELLS and not instance.chunks.ids


class TouchShares:
    """Shares of all blocks in the waits of every slot, weights that are the same at all late tiers.

    Parameters
    ----------
    given
        Shares to start from in seconds, (late tiers, steps, layers, blocks); without them blocks share in
        proportion to the steps since they were last read.

    Attributes
    ----------
    seconds
        The shares under the weights last priced, as `given`.
    """

    def __init__(self, instance: Instance, minorants: SlotMinorants, given: Floats | None = None) -> None:
        self._instance, self._tiers, tiers = instance, instance.memory.late_tiers, instance.tiers
        self._waits = minorants.charges
        self._lanes = lanes = Lanes.all_of(instance, slice(None))
        steps = [Step.of(instance, lanes, step) for step in range(instance.decode_steps)]
        keeps = (instance.units > 0)[:, None]
        self._read = np.stack([(step.read > 0) & keeps for step in steps])
        self._carried = np.stack([(step.carried > 0) & keeps for step in steps])
        self._charged = np.zeros((tiers + 1, tiers + 1), np.bool_)  # what begins or leaves does not move
        self._charged[:tiers, :tiers] = Transitions.of(instance).charged
        moves = instance.rules.migration is Migration.PREFETCH
        self._may = self._read | self._carried if moves else self._read
        self._axes = (-2, -1) if instance.by_step else (-1,)
        start = self._idle() if given is None else self._padded(given.max(axis=0))
        self._parts = SoftmaxWeights(log(np.maximum(start, 1e-300)), self._axes, self._may)
        self.seconds = np.zeros((len(self._tiers), *self._may.shape))

    def price(self, weights: Floats) -> Floats:
        """Return the price of touches, (steps, layers, lanes, K), under the weights of minorants."""
        self._wait = np.stack([(weights[: len(each)] * each).sum(axis=0) for each in self._waits])
        self._part = self._parts.weights()
        self.seconds = self._wait[..., None] * self._part
        return touch_prices(self._instance, self._lanes, self.seconds)

    def ascend(self, tiers: Bytes, share: float) -> Floats:
        """Step towards the blocks that touch late tiers.

        Parameters
        ----------
        tiers
            See `Demand.tiers`.

        Returns
        -------
        What facets and pairs charge for these touches, in seconds, (V, steps, layers or 1).
        """
        before, after = tiers[:-1], tiers[1:]
        touched = self._read | (self._carried & self._charged[before, after])
        paid, charged = np.zeros(self._may.shape), np.zeros(self._waits.shape[1:])
        longest = np.maximum(self._wait.max(axis=0), 1e-300)
        for k, wait, waits in zip(self._tiers, self._wait, self._waits, strict=True):
            here = touched & (before == k)
            paid += here * (wait / longest)[..., None]
            charged += waits * (self._part * here).sum(axis=self._axes, keepdims=True)[..., 0]
        self._parts.ascend(self._part, paid, share)
        return charged

    def _idle(self) -> Floats:
        """Return the steps since each block was last read, (steps, layers, lanes)."""
        steps, last = np.full(self._read.shape, _SOONEST), np.full(self._read.shape[1:], -1)
        for step, read in enumerate(self._read):
            steps[step] = np.where(read, np.maximum(step - last - 1, _SOONEST), _SOONEST)
            last[read] = step
        return steps

    def _padded(self, given: Floats) -> Floats:
        """Return shares of blocks as those of lanes."""
        return np.pad(given, [(0, 0), (0, 0), (0, self._may.shape[-1] - given.shape[-1])])


def touch_prices(instance: Instance, lanes: Lanes, shares: NDArray[Any]) -> Floats:
    """Return the price of touches of the lanes, (steps, layers, lanes, K), from those of late tiers."""
    blocks = shares.shape[-1]
    prices = np.zeros((len(lanes.rows), *lanes.blocks.shape, instance.tiers))
    for k, each in zip(instance.memory.late_tiers, shares[:, :, lanes.layers], strict=True):
        prices[:, :, :blocks, k] = each
    return prices
