"""The front of time and energy."""

from __future__ import annotations

import pytest

import kvbound as kv
from kvbound.errors import InfeasibleError, InputError, UsageError
from kvbound.front import pareto
from kvbound.result import BoundStatus
from kvbound.solvers.reference.brute_force import find_optimum
from tests.objective_cases import swap, tiny_mix


def test_points_are_certified_and_in_order() -> None:
    instance = swap()
    front = pareto(instance, 5, "pricing", work=60)
    assert 2 <= len(front.points) <= 5
    times, energies = ([getattr(point, name) for point in front.points] for name in ("time_s", "energy_j"))
    assert times == sorted(times)
    assert front.points[0].objective.energy == 0
    assert front.points[-1].objective.time == 0
    assert energies[-1] <= min(energies) * (1 + 1e-9)
    for point in front.points:
        assert point.result.bound.status is BoundStatus.CERTIFIED
        assert point.result.gap is not None
        assert 0 <= point.result.gap < 0.1
        assert front.least_energy(point.time_s) <= point.energy_j * (1 + 1e-9)
        goal = instance.with_objective(time=point.objective.time, energy=point.objective.energy)
        assert point.result.placement is not None
        assert kv.check(goal, point.result.placement).ok
        assert point.result.certificate is not None
        assert kv.check(goal, point.result.certificate).ok
    least = [front.least_energy(time) for time in times]
    assert least == sorted(least, reverse=True)


@pytest.mark.parametrize("seed", range(12))
def test_no_schedule_is_below_the_proved_front(seed: int) -> None:
    mix = tiny_mix(seed)
    if not mix.objective.energy:
        return
    try:
        front = pareto(mix, 4, work=60)
        found = [find_optimum(mix.with_objective(time=1.0, energy=weight)) for weight in (0.0, 1e9, 1e11)]
    except (InfeasibleError, InputError, UsageError):
        pytest.skip("no front")
    for optimum in found:
        measures = kv.evaluate(mix, optimum.schedule)
        assert measures.energy_j is not None
        energy = sum(part or 0.0 for name, part in measures.energy_j.items() if name != "compute")
        assert energy >= front.least_energy(measures.time_s) * (1 - 1e-7)


def test_mistakes() -> None:
    with pytest.raises(UsageError, match="from 2 to 1000"):
        pareto(swap(), 1)
    with pytest.raises(InputError, match="energies known"):
        pareto(kv.read_instance("swap-2x48-c30-b64"))
    with pytest.raises(UsageError, match="finds no schedule"):
        pareto(swap(), 2, "dual", work=5)
