"""What the ideal time of an instance consists of, what binds it, and how much placement can matter at all."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kvbound.cost.ideal import ideal_bytes, ideal_latency, last_tier_bytes
from kvbound.cost.slot import SlotCost
from kvbound.instance import Instance, Timing


@dataclass(frozen=True)
class Binding:
    """The ideal time, as if placement were no constraint, taken apart.

    Attributes
    ----------
    time_s
        The ideal time in seconds, a time lower bound.
    parts
        Shares of it: weights, kv_reads, kv_writes, latency.
    resources
        Share of it, latency left out, that each resource accounts for: 1 for the one that binds; where
        several are in balance, or work one after the other, they divide it. A bandwidth higher by a per
        cent saves at most its share of a per cent.
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
    """Take the ideal time apart, without the trace; None under another accounting than physical.

    A slot's ideal time is a mix of its resources' busy times, with the weights theta of the linear
    program's dual. So shares of what is read and written add up to it; and a resource with a weight is
    busy all the time, so that its weight is its share.
    """
    if not instance.physical:
        return None
    cost, q = SlotCost.of(instance), ideal_bytes(instance)
    rows, theta, tiers = cost.ideal_rows, cost.ideal_weights, instance.tiers
    used, moved, busy = np.zeros(3 * tiers), np.zeros(3 * tiers), np.zeros(theta.shape[1])
    for layer in range(instance.layers):  # slots times rows may be many
        times = q[:, layer] @ rows.T
        chosen = times.argmax(axis=1)
        used += (q[:, layer] * rows[chosen]).sum(axis=0)
        moved += q[:, layer].sum(axis=0)
        busy += np.bincount(chosen, times.max(axis=1), len(rows)) @ theta
    if instance.rules.timing is Timing.SERIAL:
        busy = cost.ideal_work @ moved
    parts = {
        "weights": used[tiers : 2 * tiers].sum(),
        "kv_reads": used[:tiers].sum(),
        "kv_writes": used[2 * tiers :].sum(),
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
