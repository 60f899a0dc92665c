"""The best schedule so far."""

from __future__ import annotations

import dataclasses

import kvbound as kv
from kvbound.solvers.incumbent import Incumbent, evaluate_placement


def test_only_a_faster_candidate_is_kept() -> None:
    instance = kv.read_instance("tiny-prefetch")
    best = Incumbent.of(instance)
    assert not best.within(1.0, None)
    slow, fast = (kv.simulate(instance, name).schedule for name in ("static", "belady"))
    assert slow is not None
    assert fast is not None
    times = []
    for schedule in (slow, fast, slow):
        best.update(evaluate_placement(instance, schedule))
        assert best.measures is not None
        times.append(best.measures.time_s)
    assert times[0] > times[1] == times[2]


def test_what_is_found_without_prefetch_is_taken_over() -> None:
    best = Incumbent.of(kv.read_instance("tiny-prefetch"))
    other = best.without_prefetch
    assert other is not None
    schedule = kv.simulate(other.instance, "belady").schedule
    assert schedule is not None
    other.update(evaluate_placement(other.instance, schedule))
    other.rejected = 2
    best.adopt()
    assert best.placement is schedule
    assert (best.rejected, other.rejected) == (2, 0)


def test_the_gap_is_relative_to_the_time_and_no_bound_is_one_of_zero() -> None:
    instance = kv.read_instance("tiny-on-read")
    schedule = kv.simulate(instance, "belady").schedule
    assert schedule is not None
    measures, _ = evaluate_placement(instance, schedule)
    best = Incumbent.of(instance)
    best.update((dataclasses.replace(measures, time_s=0.5), schedule))
    assert best.within(0.2, 0.4)
    assert not best.within(0.19, 0.4)
    assert not best.within(0.99, None)
    assert best.within(1.0, None)
