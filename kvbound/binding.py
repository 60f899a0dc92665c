"""What the ideal time of an instance consists of, what binds it, and how much placement can matter at all."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvbound.cost import ideal_bytes, ideal_latency
from kvbound.instance import Instance
from kvbound.slotcost import SlotCost


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
        Share of it that each resource accounts for: 1 for the one that binds; where several are in
        balance, or work one after the other, they divide it.
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
    program's dual; so shares of what is read and written add up to it.
    """
    if not instance.physical:
        return None
    cost, q = SlotCost.of(instance), ideal_bytes(instance)
    rows, tiers = cost.ideal_rows, instance.tiers
    used, bytes_by = np.zeros(3 * tiers), np.zeros((len(rows), 3 * tiers))
    for layer in range(instance.layers):  # slots times rows may be many
        chosen = (q[:, layer] @ rows.T).argmax(axis=1)
        used += (q[:, layer] * rows[chosen]).sum(axis=0)
        np.add.at(bytes_by, chosen, q[:, layer])
    parts = {
        "weights": used[tiers : 2 * tiers].sum(),
        "kv_reads": used[:tiers].sum(),
        "kv_writes": used[2 * tiers :].sum(),
        "latency": ideal_latency(instance).sum() * instance.decode_steps,
    }
    total = float(sum(parts.values()))
    busy = sum((_busy(cost, n, bytes_by[n]) for n in range(len(rows))), np.zeros(cost.read_costs.shape[1]))
    whole = float(busy.sum())
    return Binding(
        time_s=total,
        parts={name: float(part / total) if total else 0.0 for name, part in parts.items()},
        resources={
            name: float(each / whole) if whole else 0.0
            for name, each in zip(instance.memory.resources, busy, strict=True)
        },
        slowest_s=_slowest(instance, cost),
    )


def _busy(cost: SlotCost, row: int, moved: NDArray[np.float64]) -> NDArray[np.float64]:
    """Seconds by resource, (R,), with each byte where it is cheapest at the row's prices."""
    theta, tiers = cost.ideal_weights[row], cost.tiers
    read, write = theta * cost.read_costs, theta * cost.write_costs
    anywhere = read[read.sum(axis=1).argmin()], write[write.sum(axis=1).argmin()]
    return np.asarray(
        moved[0] * anywhere[0]
        + moved[tiers] * read[0]
        + moved[2 * tiers] * anywhere[1]
        + moved[-1] * write[-1]
    )


def _slowest(instance: Instance, cost: SlotCost) -> float:
    tiers, size = instance.tiers, instance.item_bytes
    q = np.zeros((instance.decode_steps, instance.layers, 3 * tiers))
    q[:, :, tiers - 1] = instance.read_counts() * size
    q[:, :, tiers] = instance.llm.weight_reads
    q[:, :, -1] = size
    return float(cost.times(q).sum())
