"""Instances, multipliers and times that the tests of pricing share."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from kvbound.bitsets.two_tier import TwoTierSchedule
from kvbound.cost.evaluate import evaluate_traffic
from kvbound.instance import Instance
from kvbound.rules import Copies, Migration
from kvbound.schedule import Schedule
from kvbound.solvers.lagrangian.ascent import Multipliers
from kvbound.solvers.lagrangian.slots.minorants import SlotMinorants
from tests.strategies import layered_instances, tiny_instances


def simple() -> st.SearchStrategy[Instance]:
    """Single tokens between two inclusive tiers, also with other births than one in a step, and ends."""
    rules: dict[str, Any] = {"tiers": 2, "copies": Copies.INCLUSIVE, "granularity": 1}
    on_read = tiny_instances(migration=Migration.ON_READ, **rules)
    prefetch = tiny_instances(migration=Migration.PREFETCH, **rules)
    batch = tiny_instances(migration=Migration.ON_READ, batch=True, **rules)
    return on_read | prefetch | batch | tiny_instances(migration=Migration.PREFETCH, batch=True, **rules)


def differing() -> st.SearchStrategy[Instance]:
    """The same in layers that differ."""
    rules: dict[str, Any] = {"tiers": 2, "copies": Copies.INCLUSIVE, "granularity": 1}
    on_read = layered_instances(migration=Migration.ON_READ, **rules)
    return on_read | layered_instances(migration=Migration.PREFETCH, **rules)


def untuned(instance: Instance, seed: int) -> Multipliers:
    """Random multipliers, of capacity for tier 0."""
    rng, rows = np.random.default_rng(seed), SlotMinorants.of(instance)
    weights = rng.random(rows.alpha.shape) + 1e-9
    capacity = np.zeros((2, 1 + instance.slots))
    capacity[0] = rng.exponential(rows.beta.max(), 1 + instance.slots)
    return Multipliers(weights / weights.sum(axis=0), capacity)


def cost(instance: Instance, schedule: TwoTierSchedule | Schedule | None) -> float:
    assert isinstance(schedule, TwoTierSchedule)
    return evaluate_traffic(instance, schedule.traffic(instance)).time_s
