"""Schedules that need neither prices nor a search: the caller's, two policies', and balanced eviction's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import islice

from kvbound.bitsets.two_tier import TwoTierSchedule
from kvbound.cost.slot import SlotCost
from kvbound.instance import Instance
from kvbound.placement import Placement
from kvbound.progress import Progress
from kvbound.residency import exceeds_event_limit
from kvbound.rules import Migration
from kvbound.schedule import Schedule
from kvbound.simulation import simulate
from kvbound.solvers.background import Job
from kvbound.solvers.dense import fill as dense_fill
from kvbound.solvers.dense import items as dense_items
from kvbound.solvers.eviction import balanced
from kvbound.solvers.incumbent import CostedPlacement, Incumbent, evaluate_placement
from kvbound.solvers.pricing import best_response
from kvbound.solvers.warm_start import examine

_POLICIES = "belady", "keep-last"


def candidates(instance: Instance, start: Placement | None, progress: Progress) -> Iterator[CostedPlacement]:
    """Yield schedules that are quick to make, the start first and the most promising last."""
    if start is not None:
        known = examine(instance, start)
        yield evaluate_placement(
            instance, known if isinstance(known, Schedule) else TwoTierSchedule.replayed(instance, known)
        )
    if dense_fill.supports(instance):
        for schedule in dense_fill.schedules(instance):
            yield evaluate_placement(instance, schedule)
    if dense_items.exceeds_bits(instance):
        return
    if not exceeds_event_limit(instance) or not best_response.supports(instance):
        for policy in (*_POLICIES, *(("static",) if instance.chunks.ids else ())):
            result = simulate(instance, policy, progress=progress)
            if result.measures is not None and result.schedule is not None:
                yield result.measures, result.schedule
    if balanced.supports(instance) and not exceeds_event_limit(instance):
        yield balanced_eviction(instance, progress)


def balanced_eviction(instance: Instance, progress: Progress) -> CostedPlacement:
    """Return the best schedule of balanced eviction, or of a large instance that of the first pass."""
    cost = SlotCost.of(instance)

    def total(schedule: TwoTierSchedule) -> float:
        return float(cost.times(instance.timed(schedule.traffic(instance).traffic, axis=1)).sum())

    with closing(balanced.schedules(instance, progress)) as schedules:  # it holds all reads by token
        passes = islice(schedules, 1 if exceeds_event_limit(instance) else None)
        best = min(passes, key=total)
    return evaluate_placement(instance, best)


def slow_eviction(incumbent: Incumbent) -> Job | None:
    """Return balanced eviction as a job where it takes minutes but may pay off; else None.

    It runs without prefetch, which would take too much memory. Where reads change much from step to step,
    schedules from prices are better.
    """
    instance = (incumbent.without_prefetch or incumbent).instance
    if dense_items.exceeds_bits(instance):
        return None
    pays = (
        exceeds_event_limit(instance)
        and instance.rules.migration is Migration.ON_READ
        and balanced.supports(instance)
        and balanced.serves_new_reads(instance)
    )
    return (lambda progress: incumbent.update(balanced_eviction(instance, progress))) if pays else None
