"""Energy and mixes in every method, against brute force, and each bound and claim against the checker."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import kvbound as kv
from kvbound.checker import check_result
from kvbound.cost.evaluate import evaluate
from kvbound.cost.ideal_cases import ideal_cases
from kvbound.cost.slot import SlotCost
from kvbound.cost.traffic import schedule_traffic
from kvbound.errors import InfeasibleError, InputError, UsageError
from kvbound.instance import Instance
from kvbound.memory import Memory, Tier
from kvbound.objective import Objective, Prices
from kvbound.result import BoundStatus, Result, Status
from kvbound.rules import Copies, Migration, Rules, Timing
from kvbound.solvers.reference.brute_force import Optimum, find_optimum
from kvbound.solvers.reference.slot_times import slot_times
from tests.models.test_formulations import same_program
from tests.objective_cases import any_objective, cheap_last, swap, tiny_mix
from tests.strategies import tiny_instance, with_formats

LIMITS: dict[str, dict[str, Any]] = {
    "exact": {"gap": 1e-7, "time_limit": 30}, "relax": {"time_limit": 30}, "dual": {"work": 80},
    "pricing": {"work": 80}, "anneal": {"work": 200}, "belady": {}, "best": {},
}  # fmt: skip


def optimum_of(instance: Instance) -> Optimum:
    try:
        return find_optimum(instance)
    except (InfeasibleError, UsageError):
        pytest.skip("no optimum")


def problems(instance: Instance, result: Result) -> tuple[str, ...]:
    """What the checker finds wrong in a result and its files."""
    files = {"schedule": result.placement, "certificate": result.certificate, "proof": result.proof}
    reports = {name: kv.check(instance, file) for name, file in files.items() if file is not None}
    rows, labels = instance.token_trace.arrays, instance.workload.timeline.sequence
    claims = check_result(instance.expanded(), rows, result.to_json(), labels=labels, **reports)
    return (*(problem for report in reports.values() for problem in report.problems), *claims.problems)


def spent(result: Result) -> float:
    """The energy of transfers and static power."""
    measures = result.measures
    assert measures is not None
    assert measures.energy_j is not None
    return math.fsum(part or 0.0 for name, part in measures.energy_j.items() if name != "compute")


@pytest.mark.parametrize("seed", range(120))
def test_slots_cost_what_direct_minimisation_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    instance = tiny_instance(rng, tiers=2 + seed % 3)
    instance = with_formats(rng, instance) if seed % 4 == 0 else instance
    instance = any_objective(rng, instance)
    cost, tiers = SlotCost.of(instance), instance.tiers
    items = np.zeros((100, 3, tiers))
    items[:] = rng.integers(0, 20, items.shape) * (rng.random(items.shape) < 0.6)
    traffic = items.reshape(100, -1) * float(instance.item_bytes.max())
    costs = cost.times(traffic)
    loads = items * float(max(instance.llm.kv_sizes))
    expected = slot_times(instance, loads)
    assert costs == pytest.approx(expected, rel=1e-9, abs=1e-12)
    # the split that is reported costs as much
    split = cost.split(traffic)
    goal, memory = instance.objective, instance.memory
    joules = np.nan_to_num(memory.joules_per_byte())
    read, write = ((load * cost.format_ratio) @ joules for load in (memory.read_load, memory.write_load))
    time = cost.seconds(traffic)
    energy = (split[:, :tiers] + split[:, tiers : 2 * tiers]) @ read + split[:, 2 * tiers :] @ write
    value = goal.time * time + goal.energy * (energy + (memory.static_watts or 0.0) * time)
    assert value == pytest.approx(costs, rel=1e-8)


@pytest.mark.parametrize("seed", range(60))
def test_every_method_is_between_its_bound_and_the_optimum(seed: int) -> None:
    instance = tiny_mix(seed)
    optimum = optimum_of(instance)
    assert evaluate(instance, optimum.schedule).value == pytest.approx(optimum.time_s, rel=1e-9)
    for method, limits in LIMITS.items():
        result = kv.solve(instance, method, **limits)
        assert problems(instance, result) == (), method
        if result.bound.value is not None:
            assert result.bound.value <= optimum.time_s * (1 + 1e-7), method
            assert result.bound.time_s is None
        if result.value is not None:
            assert result.value >= optimum.time_s * (1 - 1e-9), method
            known = instance.objective.value(result.time_s or 0.0, spent(result))
            assert result.value == pytest.approx(known, rel=1e-7), method
        if method == "exact" and result.schedule is not None:
            assert result.status is Status.OPTIMAL
            assert result.value == pytest.approx(optimum.time_s, rel=1e-4)
        if method == "dual":
            assert result.bound.status is BoundStatus.CERTIFIED


@pytest.mark.parametrize("timing", list(Timing))
@pytest.mark.parametrize("migration", list(Migration))
@pytest.mark.parametrize("tiers", [2, 3])
def test_the_last_tier_may_be_the_cheaper_copy(timing: Timing, migration: Migration, tiers: int) -> None:
    """Charging reads where they are held would be too dear: the split takes the other copy."""
    diverted = 0
    for seed in range(6):
        rng = np.random.default_rng(seed)
        instance = tiny_instance(
            rng, tiers=tiers, copies=Copies.INCLUSIVE, timing=timing, migration=migration
        )
        memory = cheap_last(instance.memory)
        for goal in (Objective(0.0, 1.0), Objective(1.0, 1e9), Objective(1.0, 1e10)):
            mix = replace(instance, memory=memory, objective=goal)
            optimum = optimum_of(mix)
            result = kv.solve(mix, "exact", gap=1e-7)
            assert result.value == pytest.approx(optimum.time_s, rel=1e-4)
            assert problems(mix, result) == ()
            bound = kv.bound(mix, work=80)
            assert bound.value is not None
            assert bound.value <= optimum.time_s * (1 + 1e-9)
            assert result.schedule is not None
            traffic = schedule_traffic(mix, result.schedule).traffic
            held = SlotCost.of(mix.with_rules(copies=Copies.EXCLUSIVE)).times(traffic).sum()
            assert result.value <= held * (1 + 1e-9)
            diverted += result.value < 0.99 * held
    assert diverted


@pytest.mark.parametrize("seed", range(25))
def test_optima_relate(seed: int) -> None:
    mix = tiny_mix(seed)
    if not mix.objective.energy:
        return
    doubled = Objective(2 * mix.objective.time, 2 * mix.objective.energy)
    kinds = {"time": Objective(), "energy": Objective(0.0, 1.0), "doubled": doubled}
    goals = {name: replace(mix, objective=objective) for name, objective in kinds.items()}
    try:
        found = {name: optimum_of(goal) for name, goal in (goals | {"mix": mix}).items()}
    except InputError:
        pytest.skip("all energies are 0")
    fastest = evaluate(goals["energy"], found["time"].schedule)
    assert found["energy"].time_s <= fastest.value * (1 + 1e-9)
    frugal = evaluate(goals["time"], found["energy"].schedule)
    assert found["time"].time_s <= frugal.value * (1 + 1e-9)
    assert found["doubled"].time_s == pytest.approx(2 * found["mix"].time_s, rel=1e-9)
    least = mix.objective.value(found["time"].time_s, found["energy"].time_s)
    assert found["mix"].time_s >= least * (1 - 1e-9)


@pytest.mark.parametrize("seed", range(12))
def test_both_forms_of_the_program_agree(seed: int) -> None:
    same_program(tiny_mix(seed))


def test_energy_alone_takes_the_fastest_of_the_splits_of_least_energy() -> None:
    rng = np.random.default_rng(3)
    instance = tiny_instance(rng, tiers=2, copies=Copies.INCLUSIVE, timing=Timing.PARALLEL)
    resources = {"near": 4.0, "far": 2.0}
    tiers = [replace(tier, reads=(name,), writes=(name,), latency=0.0)
             for tier, name in zip(instance.memory.tiers, resources, strict=True)]  # fmt: skip
    energy = {name: {"device": {"mid": 1.0}} for name in resources}
    memory = replace(instance.memory, resources=resources, tiers=tuple(tiers), energy=energy)
    alone = replace(instance, memory=memory, objective=Objective(0.0, 1.0))
    traffic = np.array([[12.0, 0, 0, 0, 0, 0]])  # from either copy
    cost = SlotCost.of(alone)
    assert cost.seconds(traffic)[0] == pytest.approx(2.0)  # 8 bytes at 4 bytes/s, 4 at 2
    assert cost.times(traffic)[0] == pytest.approx(12 * 1e-12 * 8)


def test_the_same_seed_gives_the_same_bytes() -> None:
    mix = swap(time=1.0, energy=0.01)
    for method in ("anneal", "pricing"):
        one, other = (kv.solve(mix, method, work=30, seed=5) for _ in range(2))
        assert one.value == other.value
        found = [each.schedule.events for each in (one, other) if each.schedule is not None]
        assert all(np.array_equal(a.tier, b.tier) for a, b in zip(*found, strict=True))


def test_mixes_with_more_weight_of_energy_take_less_of_it() -> None:
    found = [
        kv.solve(swap(time=time, energy=energy), "exact", gap=1e-6)
        for time, energy in ((1.0, 1e-6), (1.0, 1e-3), (0.0, 1.0))
    ]
    energies, times = [spent(each) for each in found], [each.time_s or 0.0 for each in found]
    assert energies[0] >= energies[1] * (1 - 1e-5) >= energies[2] * (1 - 2e-5)
    assert times[0] <= times[2] * (1 + 1e-5)


@pytest.mark.parametrize("copies", list(Copies))
def test_the_ideal_of_many_tiers_is_no_more_than_any_placement_costs(copies: Copies) -> None:
    rng = np.random.default_rng(1)
    rates: dict[str, float] = {}
    tiers = []
    for k in range(6):
        named = [f"bus{k}"] if k == 0 else [f"bus{k}", f"down{k}", f"up{k}"]
        rates |= {name: float(10 ** rng.uniform(9, 12) / 3**k) for name in named}
        ways = [tuple(name for name in named if way not in name) for way in ("up", "down")]
        tiers.append(Tier(f"tier{k}", None if k == 5 else 1e9, ways[0], ways[1]))
    prices = Prices(1.0, tuple((10 ** rng.uniform(-13, -10, len(rates))).tolist()))
    cost = SlotCost(Memory("many", rates, tuple(tiers)), Rules(copies=copies), (), prices)
    case = ideal_cases(cost)[0]
    reads, births = 1e6 * rng.integers(1, 9, 40), 1e6 * rng.integers(0, 9, 40)
    least = np.zeros((40, 18))
    least[:, 0], least[:, 12 if copies is Copies.EXCLUSIVE else 17] = reads, births
    bound = (case.rows @ least.T).max(axis=0)
    for _ in range(50):
        shares, into = rng.dirichlet(np.full(6, 0.3), 40), rng.dirichlet(np.full(6, 0.3), 40)
        traffic = np.zeros((40, 18))
        traffic[:, :6] = reads[:, None] * shares
        if copies is Copies.EXCLUSIVE:
            traffic[:, 12:] = births[:, None] * into
        else:
            traffic[:, 17] = births
        assert np.all(bound <= cost.times(traffic) * (1 + 1e-9))


@pytest.mark.parametrize("off", [0.0, 1e-12, 1e-9, 1e-7, 1e-5, 1e-4, 1e-3, 3e-3, -1e-6, -1e-3])
def test_claims_hold_where_both_copies_nearly_cost_the_same(off: float) -> None:
    """A sweep of weights meets such ties: where time and energy of a byte at the other copy cancel out."""
    instance = kv.read_instance("b2-8b-h100-c25")
    memory = instance.memory
    joules = memory.read_load @ memory.joules_per_byte()
    near = float((memory.read_load[0] / memory.bandwidths).max())
    tie = near / float(joules[-1] - joules[0])
    made = instance.with_objective(time=1.0, energy=tie * (1 + off))
    for policy in ("lru", "static"):
        assert problems(made, kv.simulate(made, policy)) == ()
