"""Mechanisms of balanced eviction: each test fails without the one it names."""

from __future__ import annotations

import pytest

import kvbound as kv
from kvbound.cost.evaluate import evaluate_traffic
from kvbound.library import best_known
from kvbound.progress import silent
from kvbound.solvers.eviction import balanced


def times(name: str) -> list[float]:
    """Decode time of every pass."""
    instance = kv.read_instance(name)
    passes = balanced.schedules(instance, silent)
    return [evaluate_traffic(instance, schedule.traffic(instance)).time_s for schedule in passes]


def ratios(name: str) -> list[float]:
    """Decode time of every pass over the optimum."""
    optimum = best_known()[name].time_s
    assert optimum is not None
    return [time_s / optimum for time_s in times(name)]


def test_saving_free_misses_for_prefetches_leads_to_the_optimum() -> None:
    """In the third pass only. It evicts what is read last, in favour of what is read earlier, and prefetches
    no more than is free.
    """
    *on_demand, prefetching = ratios("swap-2x48-c30-b64-prefetch")
    assert prefetching == pytest.approx(1.0, abs=1e-4)
    assert min(on_demand) > 1.01


def test_free_misses_are_saved_several_steps_ahead() -> None:
    """One step before a slot with too many misses there are too few."""
    *on_demand, prefetching = times("native-r15-c25-b64-n64-prefetch")
    assert prefetching < 0.984 * min(on_demand)


def test_targets_of_hits_leave_out_free_misses_and_items_that_return() -> None:
    """Items with an event before a slot count towards its target first, spare items are evicted before needed
    ones, and once the writes are known, misses that cost little are free as well.
    """
    first, second = ratios("swap-2x48-c30-b450")
    assert second < 1.009 < first


def test_spare_items_stay_and_count_as_hits() -> None:
    assert ratios("swap-2x48-c53-b450")[0] < 1.023


@pytest.mark.parametrize(("name", "most"), [("swap-2x48-c30-b64-prefetch", 1.02), ("tiny-prefetch", 1.05)])
def test_the_start_holds_what_is_read_first(name: str, most: float) -> None:
    assert ratios(name)[0] < most
