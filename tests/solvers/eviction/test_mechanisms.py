"""Mechanisms of balanced eviction: each test fails without the one it names."""

from __future__ import annotations

import dataclasses

import pytest

import kvbound as kv
from kvbound.bitsets.counts import HITS
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


def test_a_token_that_ends_leaves_its_room_to_a_promotion_in_the_same_slot() -> None:
    """In the first step too, where a given initial placement allows no evictions."""
    instance = kv.read_instance("tiny-on-read").with_rules(initial="prefill-first")
    fast, slow = instance.memory.tiers
    memory = dataclasses.replace(instance.memory, tiers=(dataclasses.replace(fast, capacity=1), slow))
    trace = kv.Trace.from_lists(2, [[[1]]] * 3, births=0, ends=[0, None])
    instance = dataclasses.replace(instance, workload=trace, memory=memory)
    first = next(balanced.schedules(instance, silent))
    assert first.counts[..., HITS].tolist() == [[0], [1], [1]]
