"""Cheapest paths are those of a separate enumeration, and cost what their schedule moves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvbound.bitsets.lanes import Floats, Lanes
from kvbound.blocks import Blocks
from kvbound.cost.traffic import schedule_traffic
from kvbound.initial import forced_tiers
from kvbound.instance import Instance
from kvbound.kernels import Kernel
from kvbound.rules import Copies, Initial, Migration
from kvbound.schedule import from_tiers
from kvbound.solvers.lagrangian.paths.multi_tier import MultiTierPaths
from tests.cost_cases import item_counts
from tests.strategies import layered_instances, tiny_instances


class Path:
    """The paths of one block of a layer, step by step, straight from docs/model.md."""

    def __init__(self, instance: Instance, layer: int, block: int, prices: Floats, capacity: Floats) -> None:
        blocks = instance.grouping
        tokens = blocks.members[block][blocks.members[block] >= 0]
        self.instance, self.layer, self.block, self.tokens = instance, layer, block, tokens.tolist()
        timeline = instance.timelines[layer]
        self.born, self.end = timeline.born[tokens], timeline.ends[tokens]
        self.last, self.capacity = int(self.end.max()), instance.units[layer] * capacity
        self.read, self.extra, self.write = prices.reshape(3, instance.tiers, *prices.shape[1:])[..., layer]

    def least(self) -> float:
        """The price of the cheapest path."""
        instance, first, tiers = self.instance, int(self.born[0]), range(self.instance.tiers)
        if self.last < 0:  # outside the layer's window
            return 0.0
        if first >= 0:
            return min(self._births(first, k) + self._after(first, k) for k in tiers)
        starts = [float(self.capacity[k, : 1 + self.layer].sum()) + self._from(0, k) for k in tiers]
        if instance.rules.initial is Initial.PREFILL_FIRST:
            return starts[int(forced_tiers(instance, np.array(self.block), np.array(self.layer)))]
        return min(starts)

    def _births(self, step: int, tier: int) -> float:
        last = self.instance.tiers - 1
        copy = self.instance.inclusive and tier < last
        price = self.write[tier, step] + (self.write[last, step] if copy else 0.0)
        return float(price * np.count_nonzero(self.born == step))

    def _after(self, step: int, tier: int) -> float:
        """Price from after the moves and births of a step on, in a tier."""
        if step == self.last:
            return 0.0
        slots, layers = self.instance.slots, self.instance.layers
        now = 1 + step * layers + self.layer
        until = now + layers if step < self.instance.decode_steps - 1 else 1 + slots
        return float(self.capacity[tier, now:until].sum()) + self._from(step + 1, tier)

    def _from(self, step: int, tier: int) -> float:
        """Price from before a slot on, in a tier."""
        if step == self.instance.decode_steps:
            return 0.0
        read = np.isin(self.tokens, self.instance.trace.reads(step, self.layer)) & (self.born < step)
        served = float(self.read[tier, step]) * np.count_nonzero(read)
        if step == self.last:
            return served + self._births(step, tier)
        carried = (self.born < step) & (step < self.end)
        prices = [self._births(step, tier) + self._after(step, tier)]
        for other in range(self.instance.tiers):
            migration = self.instance.rules.migration
            up_allowed = migration is Migration.PREFETCH or read.any()
            if other != tier and migration is not Migration.NONE and (other > tier or up_allowed):
                free = self.instance.rules.copies is Copies.INCLUSIVE and other == self.instance.tiers - 1
                charge = self.extra[tier, step] * np.count_nonzero(carried & ~read)
                charge += self.write[other, step] * np.count_nonzero(carried)
                later = self._births(step, other) + self._after(step, other)
                prices.append(later + (0.0 if free else float(charge)))
        return served + min(prices)


@pytest.mark.parametrize("kernel", ["numpy", "numba"])
@given(tiny_instances() | tiny_instances(batch=True) | layered_instances(), st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_cheapest_paths_are_those_of_an_enumeration(kernel: Kernel, instance: Instance, seed: int) -> None:
    rng = np.random.default_rng(seed)
    prices = 3 * rng.random((3 * instance.tiers, instance.decode_steps, instance.layers))
    capacity = 0.2 * rng.random((instance.tiers, 1 + instance.slots))
    paths = MultiTierPaths(instance, Lanes.all_of(instance, slice(None)), kernel)
    least = sum(
        Path(instance, layer, block, prices, capacity).least()
        for layer in range(instance.layers)
        for block in range(instance.blocks)
    )
    value, demand = paths.evaluate(prices, capacity)
    assert value == pytest.approx(least, rel=1e-12)
    assert demand is not None
    first, plan = paths.paths(prices, capacity)
    same_as_schedule(instance, first, plan[:, :, : instance.blocks], demand.used, demand.held)


def same_as_schedule(
    instance: Instance, first: np.ndarray, plan: np.ndarray, used: Floats, held: Floats
) -> None:
    """Compare the demand with the traffic of the schedule that the tiers of blocks make up."""
    blocks, tiers = instance.grouping, instance.tiers
    assert np.array_equal(plan < tiers, existing(blocks))
    initial = np.minimum(first, tiers - 1)[:, blocks.of[: instance.prefill_tokens]]  # or none
    schedule = from_tiers(initial, list(np.moveaxis(plan, 1, 0)), blocks)
    counted = schedule_traffic(instance, schedule)
    assert np.array_equal(item_counts(instance, schedule), used)
    change = counted.units.reshape(-1, tiers).cumsum(axis=0)
    limited = slice(tiers - instance.inclusive)
    assert np.array_equal(np.vstack([counted.start, counted.start + change]).T[limited], held[limited])


def existing(blocks: Blocks) -> np.ndarray:
    """Whether each block has a tier after each step: also one that ends in the step of its birth, then.

    Its shape is (steps, layers, blocks).
    """
    step = np.arange(blocks.timeline.steps)[:, None, None]
    begins = (blocks.born == step) & (step >= 0)
    return (blocks.born <= step) & (step < blocks.last) | begins
