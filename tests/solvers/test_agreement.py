"""Brute force and `exact` agree over latencies, overlap, objectives, and every other rule at once."""

from dataclasses import replace

import numpy as np
import pytest

import kvbound as kv
from kvbound.errors import InfeasibleError, UsageError
from kvbound.instance import Instance
from kvbound.result import BoundStatus
from kvbound.solvers.reference.brute_force import find_optimum
from tests.objective_cases import any_objective
from tests.strategies import tiny_instance, with_formats, with_layers, with_overlap

NUMBERS = 300


def drawn(number: int) -> Instance:
    """Return an instance of random rules: every second one has latencies, every third another objective."""
    rng = np.random.default_rng([30, number])
    instance = tiny_instance(rng, batch=bool(rng.integers(2)))
    if rng.random() < 0.5:
        instance = (with_formats if rng.random() < 0.5 else with_layers)(rng, instance)
    if number % 2:
        waits = rng.choice([0.0, 0.1, 1.0, 5.0], instance.tiers)
        tiers = zip(instance.memory.tiers, waits.tolist(), strict=True)
        late = tuple(replace(tier, latency=wait) for tier, wait in tiers)
        instance = replace(instance, memory=replace(instance.memory, tiers=late))
    return with_overlap(rng, any_objective(rng, instance) if number % 3 == 0 else instance)


@pytest.mark.slow
@pytest.mark.parametrize("tenth", range(10))
def test_the_optimum_of_brute_force_is_that_of_exact(tenth: int) -> None:
    closed = 0
    for number in range(tenth, NUMBERS, 10):
        instance = drawn(number)
        try:
            optimum = find_optimum(instance).time_s
        except (InfeasibleError, UsageError):
            closed += 1
            continue
        found = kv.solve(instance, "exact", gap=1e-7)
        assert found.value == pytest.approx(optimum, rel=1e-6, abs=1e-12), number
        assert found.bound.value is not None
        assert found.bound.value <= optimum * (1 + 1e-7), number
        closed += found.bound.status is BoundStatus.CERTIFIED and found.bound.value >= optimum * (1 - 2e-6)
    assert closed >= 0.9 * NUMBERS / 10
