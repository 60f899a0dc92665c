"""What the ideal time consists of, which resources bind it, and how much placement can matter at most."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kvbound.cost.ideal import ideal_bytes, ideal_latency, last_tier_bytes
from kvbound.cost.slot import SlotCost
from kvbound.cost.traffic import Columns
from kvbound.instance import Instance, Timing


@dataclass(frozen=True)
class Binding:
    """The parts of the ideal time, that of a placement without constraints.

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
    """

    time_s: float
    parts: Mapping[str, float]
    resources: Mapping[str, float]
    slowest_s: float

    def to_mapping(self) -> dict[str, Any]:
        """Return what JSON holds."""
        return dataclasses.asdict(self)


def binding(instance: Instance) -> Binding | None:
    """Take the ideal time apart, without making the trace; None if the accounting is not physical.

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
        slowest_s=float(cost.times(last_tier_bytes(instance)).sum()),
    )
