"""The ideal: a time lower bound that ignores the constraints on placement."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvbound.arithmetic import combine
from kvbound.cost.slot import SlotCost
from kvbound.cost.traffic import Columns, fixed_traffic, require_physical
from kvbound.instance import Instance


def ideal_slot_times(instance: Instance, traffic: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """Seconds per slot without constraints on placement, shape (steps, layers).

    Every read and every birth is split over the tiers in the way that is best for the slot, which is a lower
    bound for every schedule at any capacity. With inclusive copies and two tiers everything is in tier 0,
    except for births, which are only written through.

    Parameters
    ----------
    traffic
        Bytes in place of the instance's own `ideal_bytes`.

    Raises
    ------
    UsageError
        The instance has another accounting.
    """
    require_physical(instance)
    given = ideal_bytes(instance) if traffic is None else traffic
    transfer = combine(SlotCost.of(instance).ideal_facets, np.moveaxis(given, -1, 0))
    return np.asarray(transfer.max(axis=0) + ideal_latency(instance))


def ideal_bytes(instance: Instance) -> NDArray[np.float64]:
    """Bytes per slot as `SlotCost.ideal_rows` takes them, shape (steps, layers, 3K)."""
    traffic = fixed_traffic(instance)
    columns = Columns.of(traffic)
    columns.reads[..., 0] = instance.read_counts() * float(instance.item_bytes)
    if not instance.inclusive:
        columns.writes[..., 0] = instance.item_bytes
    return traffic


def one_tier_bytes(instance: Instance, tier: int) -> NDArray[np.float64]:
    """Bytes per slot with all KV in one tier, never moved, shape (steps, layers, 3K)."""
    traffic = fixed_traffic(instance)
    columns = Columns.of(traffic)
    columns.reads[..., tier] = instance.read_counts() * float(instance.item_bytes)
    columns.writes[..., tier] = instance.item_bytes
    return traffic


def ideal_latency(instance: Instance) -> NDArray[np.float64]:
    """Latency in seconds that a slot of each layer has at least under any placement, shape (layers,)."""
    latency = SlotCost.of(instance).latency
    touched = np.zeros((instance.layers, instance.tiers))
    touched[:, 0], touched[:, -1] = instance.llm.weight_reads > 0, instance.inclusive
    # every slot touches some tier, as it writes a new token
    return np.maximum(combine(latency[None], touched.T)[0], latency.min())


def ideal(instance: Instance) -> float:
    """Return the ideal decode time in seconds, a time lower bound."""
    return float(ideal_slot_times(instance).sum())
