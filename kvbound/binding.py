"""What the ideal time and a schedule's time consist of, and what binds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kvbound.bitsets.two_tier import TwoTierSchedule
from kvbound.cost.ideal import Slots, best_ideal, ideal_bytes, one_tier_bytes
from kvbound.cost.ideal_cases import ideal_cases
from kvbound.cost.parts import TimeParts, time_parts
from kvbound.cost.slot import SlotCost
from kvbound.cost.traffic import Columns, schedule_traffic
from kvbound.instance import Instance
from kvbound.onset import Onset, onset
from kvbound.placement import PhysicalPlacement
from kvbound.schedule import Schedule

_MOST_AT_ONCE = 1 << 22
"""Slot times computed at once."""


@dataclass(frozen=True)
class Binding:
    """The parts of the ideal time, the time without constraints on placement.

    Attributes
    ----------
    time_s
        The ideal time in seconds, a time lower bound.
    parts
        Shares of it: weights, kv_reads, kv_writes, latency; kv_reads include those of placed weights.
    resources
        Share of it, without latency, that each resource accounts for: 1 for the one that binds; several that
        are in balance, or work one after the other, divide it. One per cent more bandwidth saves at most that
        share of one per cent.
    slowest_s
        Time with all that is placed in the last tier, never moved: what the worst placement costs.
    onset
        Where all KV in one tier is as good as any placement, up to which size it is; else None.
    """

    time_s: float
    parts: Mapping[str, float]
    resources: Mapping[str, float]
    slowest_s: float
    onset: Onset | None

    def to_mapping(self) -> dict[str, Any]:
        """Return what JSON holds."""
        return dataclasses.asdict(self)


def binding(instance: Instance) -> Binding | None:
    """Break down the ideal time, without making the trace; None if the accounting is not physical.

    It is the ideal of time alone, whatever the objective.

    By duality a slot's ideal time is the mean of its resources' busy times under the weights of the linear
    program's dual. So the seconds of all that is read and written add up to it; and a resource of positive
    weight is busy throughout, so that its weight is its share.
    """
    if not instance.physical:
        return None
    cost, (slots, counts) = SlotCost.of(instance).of_time, Slots.kinds(instance)
    traffic = ideal_bytes(instance, slots)
    seconds, busy, wait = np.zeros(traffic.shape[-1]), np.zeros(len(instance.memory.resources)), 0.0
    cases = ideal_cases(cost)
    stride = max(1, _MOST_AT_ONCE // max(len(case.rows) for case in cases))
    for first in range(0, len(counts), stride):
        some = slice(first, first + stride)
        part, often = traffic[some], counts[some]
        best = best_ideal(cost, slots.part(some), part)
        for number, case in enumerate(cases):
            there = best.case == number
            row = best.row[there]
            seconds += often[there] @ (part[there] * case.rows[row])
            wait += float(often[there] @ case.wait[row])
            if cost.serial:
                busy += case.work @ (often[there] @ part[there])
            else:
                times, slots_of = (
                    np.bincount(row, each, len(case.rows))
                    for each in (often[there] * best.time[there], often[there])
                )
                # a resource of positive weight is busy whenever it does not wait
                busy += times @ case.theta - (slots_of @ case.theta) * case.waits
    columns = Columns.of(seconds)
    parts = {
        "weights": columns.extra_reads.sum(),
        "kv_reads": columns.reads.sum(),
        "kv_writes": columns.writes.sum(),
        "latency": wait,
    }
    time_s, transfer = float(sum(parts.values())), float(busy.sum())
    return Binding(
        time_s=time_s,
        parts={name: float(part / time_s) if time_s else 0.0 for name, part in parts.items()},
        resources={
            name: float(each / transfer) if transfer else 0.0
            for name, each in zip(instance.memory.resources, busy, strict=True)
        },
        slowest_s=float(counts @ cost.times(one_tier_bytes(instance, slots, -1))),
        onset=onset(instance),
    )


def schedule_parts(instance: Instance, placement: PhysicalPlacement) -> TimeParts:
    """Break down the decode time of a placement."""
    if isinstance(placement, Schedule):
        return time_parts(instance, schedule_traffic(instance, placement))
    return time_parts(instance, TwoTierSchedule.replayed(instance, placement).traffic(instance))
