"""Pairs of facets: minorants of slots that wait for a late tier, and of those that do not, at once."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvbound.cost.slot import SlotCost
from kvbound.cost.traffic import schedule_traffic
from kvbound.instance import Instance
from kvbound.solvers.lagrangian.bound import solve_dual
from kvbound.solvers.lagrangian.slots.facet_pairs import FacetPairs
from kvbound.solvers.lagrangian.slots.minorants import SlotMinorants
from tests.cost_cases import item_counts
from tests.latency_cases import four_tiers, seldom_waiting, waiting
from tests.solvers.lagrangian.cases import bound
from tests.strategies import layered_instances, random_schedule, tiny_instances

INSTANCES = tiny_instances(tiers=3) | tiny_instances(tiers=3, batch=True) | layered_instances()


def with_long_waits(instance: Instance, rng: np.random.Generator) -> Instance:
    """The same, but some of its tiers let slots wait for longer than their reads take."""
    latency = [0.0, *rng.choice([0.0, 1e3, 1e5], instance.tiers - 1, p=[0.2, 0.4, 0.4])]
    tiers = (replace(t, latency=float(x)) for t, x in zip(instance.memory.tiers, latency, strict=True))
    return replace(instance, memory=replace(instance.memory, tiers=tuple(tiers)))


@given(INSTANCES, st.integers(0, 2**32 - 1))
@settings(max_examples=300)
def test_never_above_the_slot_time_with_what_reads_at_late_tiers_add(instance: Instance, seed: int) -> None:
    rng = np.random.default_rng(seed)
    instance = with_long_waits(instance, rng)
    minorants, tiers = SlotMinorants.of(instance), instance.tiers
    facets, pairs = len(minorants.theta), len(minorants.behind)
    schedule = random_schedule(rng, instance)
    used = item_counts(instance, schedule) * (instance.units > 0)  # what takes no bytes lets nothing wait
    times = SlotCost.of(instance).times(instance.timed(schedule_traffic(instance, schedule).traffic, axis=1))
    values = minorants.at(used)[:pairs]
    added = np.zeros_like(values)
    for k, charges in zip(instance.memory.late_tiers, minorants.charges, strict=True):
        touched = instance.timed(used[k] + used[tiers + k]) > 0
        added = np.maximum(added, np.where(touched, charges, 0.0))
    assert np.all((values + added)[facets:] <= times * (1 + 1e-12))


def test_where_waits_are_longer_than_slots() -> None:
    for instance in (waiting(), waiting("inclusive", "on-read"), seldom_waiting(40, 16, 0.1)):
        assert SlotMinorants.of(instance).has_pairs
    for short in (four_tiers("exclusive", "prefetch"), four_tiers("inclusive", "on-read")):
        assert not SlotMinorants.of(short).has_pairs


def test_a_pair_has_the_prices_of_one_facet_and_at_the_late_tier_those_of_the_other() -> None:
    minorants, tiers, late = SlotMinorants.of(waiting()), 3, 2
    pairs = minorants.behind[len(minorants.theta) :]
    assert len(pairs) > 0
    for row, (idle, busy, tier) in enumerate(pairs.tolist(), len(minorants.theta)):
        assert tier == late
        beta, first, second = minorants.beta[[row, idle, busy]]
        assert second[late] > first[late]
        assert np.array_equal(beta[:late], first[:late])
        assert beta[[late, tiers + late]].tolist() == second[[late, tiers + late]].tolist()
        assert np.all(beta[tiers:] <= np.maximum(first, second)[tiers:])


@pytest.mark.parametrize(
    ("rules", "share"), [(("exclusive", "prefetch"), 0.9), (("inclusive", "on-read"), 0.5)]
)
def test_they_prove_what_single_facets_cannot(
    rules: tuple[str, str], share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance: Any = waiting(*rules)
    found = bound(instance, iterations=400)
    monkeypatch.setattr(FacetPairs, "of", lambda alpha, beta, *_: FacetPairs.none(1, alpha, beta))
    assert not SlotMinorants.of(instance).has_pairs
    assert bound(instance, iterations=400) < share * found


def test_under_another_objective_as_well() -> None:
    """A wait costs what its seconds do: twice as much, twice the bound."""
    instance = waiting(prompt=40, steps=12)
    double = instance.with_objective(time=2.0)
    assert SlotMinorants.of(double).has_pairs
    single, both = (solve_dual(each, iterations=200)[1].bound_s for each in (instance, double))
    assert both == pytest.approx(2 * single, rel=1e-6)
