"""Reduced costs of states: what forcing a block through one adds to the price of its cheapest path."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvbound.bitsets.lanes import Lanes
from kvbound.instance import Instance
from kvbound.solvers.lagrangian.ascent import Multipliers
from kvbound.solvers.lagrangian.paths.multi_tier import MultiTierPaths
from kvbound.solvers.lagrangian.reduced_costs import reduced_costs
from kvbound.solvers.lagrangian.slots.minorants import SlotMinorants
from kvbound.solvers.lagrangian.touches import touch_prices
from tests.strategies import layered_instances, tiny_instances

FORBIDDEN = 1e5
"""A price of capacity that no path pays if it can do otherwise."""


@given(tiny_instances() | tiny_instances(batch=True) | layered_instances(), st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_they_are_what_it_costs_to_forbid_all_other_tiers(instance: Instance, seed: int) -> None:
    """At any moment, summed over the blocks of a layer, as a price of capacity can forbid tiers."""
    rng, tiers, layers = np.random.default_rng(seed), instance.tiers, instance.layers
    minorants = SlotMinorants.of(instance)
    weights = np.moveaxis(rng.dirichlet(np.ones(len(minorants.alpha)), minorants.alpha.shape[1:]), -1, 0)
    scale = float(minorants.beta.max()) / layers
    multipliers = Multipliers(weights, scale * rng.exponential(0.3, (tiers, 1 + instance.slots)))
    reduced, prices = reduced_costs(instance, multipliers), minorants.prices(weights)
    step, layer, tier = rng.integers(-1, instance.decode_steps), rng.integers(layers), rng.integers(tiers)
    if not instance.units[layer]:  # what takes no room pays no price of capacity
        return
    moment = 1 + step * layers + layer if step >= 0 else 0
    paths = MultiTierPaths(instance, Lanes.all_of(instance, slice(layer, layer + 1)), "numpy")
    forced = multipliers.capacity.copy()
    forced[np.arange(tiers) != tier, moment] += FORBIDDEN * scale
    least, more = (paths.evaluate(prices, each, False)[0] for each in (multipliers.capacity, forced))
    held = (instance.grouping.born <= step) & (step < instance.grouping.last[layer])
    expected = reduced[step + 1, layer, held, tier].sum()
    if expected < FORBIDDEN * scale / 2:
        assert more - least == pytest.approx(expected, rel=1e-7, abs=1e-8 * (scale + abs(least)))
    else:
        assert more - least > FORBIDDEN * scale / 2


@given(tiny_instances() | layered_instances(), st.integers(0, 2**32 - 1))
@settings(max_examples=30)
def test_cheapest_paths_have_none(instance: Instance, seed: int) -> None:
    rng = np.random.default_rng(seed)
    minorants = SlotMinorants.of(instance)
    weights = np.moveaxis(rng.dirichlet(np.ones(len(minorants.alpha)), minorants.alpha.shape[1:]), -1, 0)
    capacity = float(minorants.beta.max()) * rng.exponential(0.3, (instance.tiers, 1 + instance.slots))
    shape = len(instance.memory.late_tiers), instance.decode_steps, instance.layers, instance.blocks
    shares = float(minorants.beta.max()) * rng.exponential(1.0, shape)
    reduced = reduced_costs(instance, Multipliers(weights, capacity, shares))
    lanes = Lanes.all_of(instance, slice(None))
    touch = touch_prices(instance, lanes, shares)
    first, plan = MultiTierPaths(instance, lanes, "numpy", touch=touch).paths(
        minorants.prices(weights), capacity
    )
    tiers = np.concatenate([first[None], plan])[..., : instance.blocks]
    there = tiers < instance.tiers
    at = np.take_along_axis(reduced, np.minimum(tiers, instance.tiers - 1)[..., None].astype(int), -1)[..., 0]
    assert at[there] == pytest.approx(0, abs=1e-9 * float(minorants.beta.max()) * instance.slots)
    assert np.all(reduced >= 0)
