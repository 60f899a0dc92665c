"""Prices from each step's own optimum: what they prove, and where they apply."""

import dataclasses

import numpy as np
import pytest
from scipy.optimize import linprog

from kvbound.instance import Instance
from kvbound.llm.model import Llm
from kvbound.memory import Memory, Tier
from kvbound.rules import Rules
from kvbound.solvers.dense.step_prices import step_prices, supports
from kvbound.solvers.lagrangian.bound import maximize_dual
from kvbound.solvers.portfolio import solve
from kvbound.workloads import Dense

RATES = {"a": 1000e9, "b": 4000e9, "c": 60e9, "d": 20e9}
SIZE = 4096


def instance(rooms: tuple[float | None, ...], steps: int = 60, layers: int = 1, **rules: object) -> Instance:
    """Tiers of one resource each, with room for so many items beside the weights."""
    weights = 20 * SIZE
    sizes = [None if room is None else SIZE * room + weights * (k == 0) for k, room in enumerate(rooms)]
    names = list(RATES)[: len(rooms)]
    tiers = tuple(Tier(name, size, (name,), (name,)) for name, size in zip(names, sizes, strict=True))
    memory = Memory("m", {name: RATES[name] for name in names}, tiers)
    llm = Llm("l", layers, SIZE, weights, weights / layers)
    given = Rules(copies="exclusive", migration="prefetch", overlap="step", **rules)  # type: ignore[arg-type]
    return Instance("some", memory, llm, given, Dense(layers, 10, steps))


def least(case: Instance, items: int) -> float:
    """The least seconds in which the tiers serve that many items beside the weights, as a linear program."""
    rates = case.memory.bandwidths / SIZE
    rooms = [(0, None if room is None else room) for room in case.capacity_units]
    busy = np.column_stack([np.diag(1 / rates), -np.ones(len(rates))]) * 1e9
    before = np.zeros(len(rates))
    before[0] = -case.weight_reads.sum() / SIZE / rates[0] * 1e9
    counts = np.append(np.ones(len(rates)), 0)[None]
    goal = np.append(np.zeros(len(rates)), 1e9)
    found = linprog(goal, busy, before, counts, [items], [*rooms, (0, None)])
    assert found.success
    assert found.fun is not None
    return float(found.fun) / 1e9


CASES = [(20, 3, 30, None), (20, 0, 30, 60), (5, None), (0, 4, None), (500, 3, None)]


@pytest.mark.parametrize("rooms", CASES)
@pytest.mark.parametrize("layers", [1, 3])
def test_prices_are_optimal_in_every_step(rooms: tuple[float | None, ...], layers: int) -> None:
    case = instance(tuple(None if room is None else room * layers for room in rooms), layers=layers)
    assert supports(case)
    found, tiers = step_prices(case), range(case.tiers)
    assert (found.capacity >= 0).all()
    assert found.resources.sum(axis=0) == pytest.approx(1)
    weights = case.weight_reads.sum() / case.memory.bandwidths[0]
    for step in range(0, case.decode_steps, 7):
        items, rent = layers * (10 + step), found.capacity[:, step * layers]
        reads = [found.resources[k, step] * SIZE / case.memory.bandwidths[k] + rent[k] for k in tiers]
        rents = sum(rent[k] * (case.capacity_units[k] or 0) for k in tiers)
        value = found.resources[0, step] * weights + items * min(reads) - rents
        assert value == pytest.approx(least(case, items), rel=1e-9)


def test_the_ascent_begins_near_the_optimum() -> None:
    case = instance((20, 3, 30, None), steps=200)
    first = maximize_dual(case, iterations=1).certificate.bound_s
    steps = sum(least(case, 10 + step) for step in range(case.decode_steps))
    assert first >= 0.97 * steps
    result = solve(case, "dual", work=300)
    assert str(result.bound.status) == "certified"
    assert (result.bound.time_s or 0) >= first
    schedule = solve(case, "pricing", work=100)
    assert schedule.time_s is not None
    assert (result.bound.time_s or 0) <= schedule.time_s


def test_where_they_apply() -> None:
    case = instance((20, 3, None))
    assert not supports(case.with_rules(copies="inclusive"))
    assert not supports(case.with_rules(timing="serial"))
    late = dataclasses.replace(case.memory.tiers[1], latency=1e-6)
    tiers = (case.memory.tiers[0], late, case.memory.tiers[2])
    assert not supports(dataclasses.replace(case, memory=dataclasses.replace(case.memory, tiers=tiers)))
    shared = dataclasses.replace(case.memory.tiers[1], reads=("a",))
    tiers = (case.memory.tiers[0], shared, case.memory.tiers[2])
    assert not supports(dataclasses.replace(case, memory=dataclasses.replace(case.memory, tiers=tiers)))
    assert not supports(instance((20, 3, None), layers=2).with_rules(overlap="slot"))
