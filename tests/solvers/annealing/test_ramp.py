"""The ramp of annealing: what waits cost under it, the same for both kernels, and what it finds."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

import kvbound as kv
from kvbound.kernels import Kernel
from kvbound.solvers.annealing import ramp
from kvbound.solvers.annealing.chains import Chains, schedule_of, slot_ticks
from kvbound.solvers.annealing.layout import DRAWS, EXACT, SearchData, search_data
from kvbound.solvers.annealing.solve import solve_annealing
from kvbound.solvers.annealing.tempering import Annealer, try_moves, typical_change
from tests.latency_cases import waiting
from tests.strategies import rule_combinations, tiny_instance, with_overlap

KERNELS: list[Kernel] = ["numpy", "numba"] if importlib.util.find_spec("numba") else ["numpy"]


def test_a_ramp_rises_ever_more_slowly_up_to_the_whole_latency() -> None:
    for wide in (1.5, 2.0, 9.3, 64.0):
        share = ramp.ramp(wide)
        assert share[0] == 0
        assert share[-1] == 1
        assert np.all(np.diff(share) > 0)
        assert np.all(np.diff(share, 2) < 0)
        assert share[1] == pytest.approx(wide**-0.5)
    assert ramp.ramp(1.0).tolist() == [0, 1]
    assert len(ramp.ramp(1.0)) == EXACT


def test_a_ramp_narrows_until_waits_are_those_of_the_model() -> None:
    widths = [ramp.width(n / 40) for n in range(40)]
    assert widths[0] == ramp.WIDEST
    assert np.all(np.diff(widths) <= 0)
    assert widths[-4:] == [1.0] * 4
    assert widths[-5] > 1


def moved(data: SearchData, kernel: Kernel, wide: float, start: kv.Schedule, instance: kv.Instance) -> Chains:
    """Chains after moves under a ramp."""
    chains = Chains.of(instance, data, [start] * 3)
    data = ramp.charge_waits(data, chains, wide)
    draws = np.random.default_rng(3).random((60, 3, DRAWS + 1))
    limits = np.floor(-0.5 * chains.ticks.mean() * np.log(draws[:, :, -1])).astype(np.int64)
    try_moves(data, chains, draws, limits, kernel)
    layer = np.arange(data.timed_slots) % data.timed_layers
    assert np.array_equal(chains.ticks, slot_ticks(data, chains.counts, layer))
    return chains


@pytest.mark.parametrize("rules", rule_combinations(), ids=lambda rules: "-".join(map(str, rules.values())))
def test_both_kernels_charge_the_same(rules: dict[str, object]) -> None:
    for seed in range(6):
        rng = np.random.default_rng(seed)
        instance = with_overlap(rng, tiny_instance(rng, **rules))  # type: ignore[arg-type]
        data = search_data(instance)
        if not len(data.intervals):  # nothing may move
            continue
        start = kv.simulate(instance, "lru").schedule
        assert start is not None
        made = [moved(data, kernel, 3.5, start, instance) for kernel in KERNELS]
        for other in made[1:]:
            for name in ("tier", "counts", "occupancy", "ticks", "marginal"):
                assert np.array_equal(getattr(made[0], name), getattr(other, name)), name


def test_a_ramp_charges_by_the_number_of_items_and_never_more_than_the_model() -> None:
    instance = waiting()
    data = search_data(instance)
    counts = np.zeros((3, 9), np.int64)
    counts[:, 1] = 50
    counts[:, 2] = [0, 4, 16]
    soft = data._replace(ramp=ramp.ramp(16.0))
    without = data._replace(has_waits=False)
    times = [slot_ticks(each, counts, np.zeros(3, np.int64)) for each in (without, soft, data)]
    wait = np.rint(80e-6 / data.tick_s)
    assert times[1] - times[0] == pytest.approx([0, wait / 2, wait], abs=2)
    assert times[2] - times[0] == pytest.approx([0, wait, wait], abs=2)


@pytest.mark.parametrize(("copies", "migration"), [("exclusive", "prefetch"), ("inclusive", "on-read")])
def test_reads_of_late_tiers_are_gathered_in_few_slots(
    copies: str, migration: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the waits are those of the model from the start, they stay in many slots."""
    instance = waiting(copies, migration)

    def mean_time() -> float:
        return float(np.mean([solve_annealing(instance, work=12, gap=0.0, seed=n).time_s for n in (0, 1)]))

    found = mean_time()
    monkeypatch.setattr(ramp, "WIDEST", 1.0)
    assert found < 0.9 * mean_time()


def test_the_best_schedule_is_the_fastest_without_the_ramp() -> None:
    instance = waiting(prompt=40, steps=12)
    data, start = search_data(instance), kv.simulate(instance, "belady").schedule
    assert start is not None
    made = Annealer(data, Chains.of(instance, data, [start]), np.random.default_rng(0), "numpy")
    batches = 0

    def proceed() -> bool:
        nonlocal batches
        batches += 1
        return batches < 6  # the ramp is wide

    made.cycle(0, 400, proceed)
    layer = np.arange(data.slots) % data.layers
    again = Chains.of(instance, data, [schedule_of(instance, made.best)])
    assert made.ticks == slot_ticks(data, again.counts, layer).sum()


def test_the_first_temperature_does_not_depend_on_latencies() -> None:
    """A change of a slot's wait is no typical change: it is far larger than that by an item."""
    instance = waiting()
    start = kv.simulate(instance, "belady").schedule
    assert start is not None
    data = search_data(instance)
    chains = Chains.of(instance, data, [start])
    assert typical_change(data, chains) * data.tick_s < 1e-6
    assert np.median(np.abs(chains.marginal[chains.marginal != 0])) * data.tick_s > 2e-5
