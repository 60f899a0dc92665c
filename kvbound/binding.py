"""What the ideal time and a schedule's time consist of, what binds, and where placement begins to matter."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kvbound.bitsets.two_tier import TwoTierSchedule
from kvbound.cost.ideal import ideal_bytes, ideal_latency, ideal_slot_times, one_tier_bytes
from kvbound.cost.parts import TimeParts, time_parts
from kvbound.cost.slot import SlotCost
from kvbound.cost.traffic import Columns, schedule_traffic
from kvbound.instance import Instance, Timing
from kvbound.placement import PhysicalPlacement
from kvbound.schedule import Schedule

MATTERS: Final = 1.01
"""Placement matters where all KV in one tier takes more than this many times the ideal time."""
_MOST = 2**40


@dataclass(frozen=True)
class Onset:
    """Where placement does not matter, but would in a larger run.

    Attributes
    ----------
    tier
        The tier that can hold all KV at nearly the ideal time.
    ratio
        That time over the ideal.
    batch
        The least number of such sequences, decoded together, for which placement matters; None if it never
        does.
    tokens
        The least number of tokens of the one sequence, read in the same shares, for which it matters.
    """

    tier: str
    ratio: float
    batch: int | None
    tokens: int | None


@dataclass(frozen=True)
class Binding:
    """The parts of the ideal time, the time without constraints on placement.

    Attributes
    ----------
    time_s
        The ideal time in seconds, a time lower bound.
    parts
        Shares of it: weights, kv_reads, kv_writes, latency.
    resources
        Share of it, without latency, that each resource accounts for: 1 for the one that binds; several that
        are in balance, or work one after the other, divide it. One per cent more bandwidth saves at most that
        share of one per cent.
    slowest_s
        Time with all KV in the last tier, never moved: what the worst placement costs.
    onset
        Where placement begins to matter; None if it already does.
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

    By duality a slot's ideal time is the mean of its resources' busy times under the weights of the linear
    program's dual. So the seconds of all that is read and written add up to it; and a resource of positive
    weight is busy throughout, so that its weight is its share.
    """
    if not instance.physical:
        return None
    cost, traffic = SlotCost.of(instance), ideal_bytes(instance)
    rows, weights = cost.ideal_rows, cost.ideal_weights
    seconds, moved = np.zeros(traffic.shape[-1]), np.zeros(traffic.shape[-1])
    busy = np.zeros(weights.shape[1])
    for layer in range(instance.layers):  # one at a time: slots times rows may be many
        times = traffic[:, layer] @ rows.T
        chosen = times.argmax(axis=1)
        seconds += (traffic[:, layer] * rows[chosen]).sum(axis=0)
        moved += traffic[:, layer].sum(axis=0)
        busy += np.bincount(chosen, times.max(axis=1), len(rows)) @ weights
    if instance.rules.timing is Timing.SERIAL:
        busy = cost.ideal_work @ moved
    columns = Columns.of(seconds)
    parts = {
        "weights": columns.extra_reads.sum(),
        "kv_reads": columns.reads.sum(),
        "kv_writes": columns.writes.sum(),
        "latency": ideal_latency(instance).sum() * instance.decode_steps,
    }
    time_s, transfer = float(sum(parts.values())), float(busy.sum())
    return Binding(
        time_s=time_s,
        parts={name: float(part / time_s) if time_s else 0.0 for name, part in parts.items()},
        resources={
            name: float(each / transfer) if transfer else 0.0
            for name, each in zip(instance.memory.resources, busy, strict=True)
        },
        slowest_s=float(cost.times(one_tier_bytes(instance, -1)).sum()),
        onset=_onset(instance),
    )


def schedule_parts(instance: Instance, placement: PhysicalPlacement) -> TimeParts:
    """Break down the decode time of a placement."""
    if isinstance(placement, Schedule):
        return time_parts(instance, schedule_traffic(instance, placement))
    return time_parts(instance, TwoTierSchedule.replayed(instance, placement).traffic(instance))


def _onset(instance: Instance) -> Onset | None:
    tier, ratio = _simplest(instance)
    if ratio > MATTERS:
        return None
    return Onset(
        instance.memory.tiers[tier].name,
        ratio,
        _least(1, lambda batch: _simplest(instance, batch=batch)[1] > MATTERS),
        _least(instance.tokens, lambda tokens: _simplest(instance, tokens=tokens)[1] > MATTERS),
    )


def _least(start: int, holds: Callable[[int], bool]) -> int | None:
    """Return the least number above `start` at which something holds, by doubling and then bisection."""
    low, high = start, 2 * start
    while not holds(high):
        if high > _MOST:
            return None
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _simplest(instance: Instance, batch: int = 1, tokens: int | None = None) -> tuple[int, float]:
    """Return the best of the tiers that hold all KV, and its time over the ideal.

    Parameters
    ----------
    batch
        Sequences like this one that are decoded together; the weights are read once for all.
    tokens
        Tokens of a longer sequence at its end; a slot reads the same share of them.
    """
    tokens = instance.tokens if tokens is None else tokens
    reads, cost = batch * tokens / instance.tokens, SlotCost.of(instance)

    def scaled(traffic: NDArray[np.float64]) -> NDArray[np.float64]:
        columns = Columns.of(traffic)
        columns.reads[:] *= reads
        columns.writes[:] *= batch
        return traffic

    kv_bytes = batch * instance.layers * -(-tokens // instance.granularity) * instance.block_bytes
    seconds = [
        float(cost.times(scaled(one_tier_bytes(instance, k))).sum())
        if _holds(instance, k, kv_bytes)
        else math.inf
        for k in range(instance.tiers)
    ]
    best, ideal_s = min(seconds), float(ideal_slot_times(instance, scaled(ideal_bytes(instance))).sum())
    return seconds.index(best), 1.0 if best == ideal_s else best / ideal_s if ideal_s else math.inf


def _holds(instance: Instance, tier: int, kv_bytes: int) -> bool:
    """Return whether a tier has room for so many bytes of KV, tier 0 beside the resident weights."""
    capacity = instance.memory.tiers[tier].capacity
    return capacity is None or kv_bytes + (0 if tier else int(instance.llm.weight_bytes)) <= capacity
