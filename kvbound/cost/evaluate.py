"""Evaluate schedules under physical accounting.

The reads, moves and births of every slot are counted in bytes, layer by layer; `SlotCost` turns the counts
into seconds. Nothing else in the package computes times, except for the checker with its own code.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvbound.cost.energy import energy
from kvbound.cost.slot import SlotCost
from kvbound.cost.traffic import Counts, ScheduleTraffic, schedule_traffic
from kvbound.errors import InputError, KvboundError
from kvbound.instance import Instance
from kvbound.progress import Progress, silent
from kvbound.result import Measures
from kvbound.schedule import Schedule
from kvbound.trace.sequences import sequence_times

MOST_SPREAD = 1e8
"""Largest spread at which the tolerances of linear programs and the ticks of annealing are precise enough."""


def slot_times(instance: Instance, schedule: Schedule) -> NDArray[np.float64]:
    """Seconds per slot, shape (steps, layers), or per step, (steps, 1), if its transfers overlap."""
    return _times(instance, schedule_traffic(instance, schedule))


def _times(instance: Instance, counted: ScheduleTraffic) -> NDArray[np.float64]:
    return SlotCost.of(instance).seconds(instance.timed(counted.traffic, axis=1))


def evaluate(instance: Instance, schedule: Schedule, progress: Progress = silent) -> Measures:
    """Return the measures of a schedule.

    Raises
    ------
    KvboundError
        The schedule exceeds the capacity of a tier.
    """
    return evaluate_traffic(instance, schedule_traffic(instance, schedule, progress))


def evaluate_traffic(instance: Instance, counted: ScheduleTraffic) -> Measures:
    """Return the measures of a schedule from its traffic.

    Raises
    ------
    KvboundError
        The schedule exceeds the capacity of a tier.
    """
    occupied = np.vstack([np.zeros_like(counted.start), counted.units.reshape(-1, instance.tiers)])
    peak = (counted.start + occupied.cumsum(axis=0)).max(axis=0)
    for limit, used, tier in zip(instance.capacity_units, peak, instance.memory.tiers, strict=True):
        if limit is not None and used > limit:
            what = "blocks" if instance.uniform else "units of KV"
            raise KvboundError(f"the schedule puts {used:,} {what} into {tier.name}, which holds {limit:,}")
    return measures(instance, _times(instance, counted), counted, peak)


def measures(
    instance: Instance, times: NDArray[np.float64], counted: ScheduleTraffic, peak: Counts
) -> Measures:
    """Return the measures of times as of `slot_times`, traffic, and peaks in units, shape (K,)."""
    tiers = instance.memory.tiers
    ratio = SlotCost.of(instance).format_ratio[:, 0]
    hit_bytes = counted.traffic[:, :, : len(tiers)].sum(axis=(0, 1)) * ratio
    weights = float(instance.weight_reads.sum() * instance.decode_steps)
    total = hit_bytes.sum()
    sizes = instance.unit_sizes
    peak_bytes = [instance.granularity * s * units for s, units in zip(sizes, peak.tolist(), strict=True)]
    peak_bytes[0] += instance.resident_bytes
    return Measures(
        time_s=float(times.sum()),
        tpot_s=tpot(times.sum(axis=1)),
        hit_rate={t.name: float(h / total) if total else 0.0 for t, h in zip(tiers, hit_bytes, strict=True)},
        hit_rate_with_weights=float((hit_bytes[0] + weights) / (total + weights)) if total + weights else 0.0,
        moved_bytes={
            "up": int(counted.up.sum()),
            "down": int(counted.down.sum()),
        },
        peak_bytes={tier.name: used for tier, used in zip(tiers, peak_bytes, strict=True)},
        energy_j=energy(instance, counted, float(times.sum())),
        objective=objective(instance, counted),
        utilisation=utilisation(instance, counted, float(times.sum())),
        sequences=sequence_times(instance.workload.timeline, times.sum(axis=1)),
    )


def objective(instance: Instance, counted: ScheduleTraffic) -> float | None:
    """Return what a schedule's slots cost under the objective, None if that is their time."""
    if instance.objective.time_alone:
        return None
    return float(SlotCost.of(instance).times(instance.timed(counted.traffic, axis=1)).sum())


def utilisation(instance: Instance, counted: ScheduleTraffic, time_s: float) -> dict[str, float]:
    """Return the share of the decode time that each resource is busy."""
    busy = SlotCost.of(instance).busy(instance.timed(counted.traffic, axis=1)).sum(axis=(0, 1))
    share = np.minimum(busy / time_s, 1.0) if time_s else np.zeros_like(busy)
    return dict(zip(instance.memory.resources, share.tolist(), strict=True))


def tpot(step_times: NDArray[np.float64]) -> dict[str, float]:
    """Return statistics of the time per output token, in seconds, from step times of shape (steps,)."""
    p50, p95, p99 = np.percentile(step_times, [50, 95, 99])
    return {
        "mean": float(step_times.mean()),
        "p50": float(p50),
        "p95": float(p95),
        "p99": float(p99),
        "max": float(step_times.max()),
    }


def spread(instance: Instance) -> float:
    """Return the ratio of the longest to the shortest of the tiers' latencies and times per item."""
    cost, sizes = SlotCost.of(instance), np.unique(instance.item_bytes)
    per_byte = np.concatenate([cost.read_costs.max(axis=1), cost.write_costs.max(axis=1)])
    times = np.concatenate([np.outer(sizes, per_byte).ravel(), cost.latency_costs])
    times = times[times > 0]
    return float(times.max() / times.min())


def refuse_spread(instance: Instance, what: str) -> None:
    """Refuse an instance whose times span too wide a range for the method that `what` names.

    Raises
    ------
    InputError
        The spread is above `MOST_SPREAD`.
    """
    if (found := spread(instance)) > MOST_SPREAD:
        raise InputError(
            instance.name, "memory",
            f"for {what} latencies and times per item that differ at most by a factor of {MOST_SPREAD:.0e}, "
            f"not of {found:.1e}; policies, the methods pricing and dual, and the bound take any",
        )  # fmt: skip
