"""The ideal: a time lower bound that ignores the constraints on placement."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvbound.arithmetic import combine
from kvbound.cost.slot import SlotCost
from kvbound.cost.traffic import Columns, fixed_traffic, require_physical
from kvbound.instance import Instance

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Slots(NamedTuple):
    """What slots read, in arrays of one shape: a slot's ideal depends on nothing else.

    Attributes
    ----------
    reads
        Reads of past tokens.
    weights
        Bytes of weights.
    """

    reads: Ints
    weights: Floats

    @classmethod
    def of(cls, instance: Instance) -> Slots:
        """Return all slots of an instance, shape (steps, layers)."""
        reads = instance.read_counts()
        return cls(reads, np.broadcast_to(instance.llm.weight_reads, reads.shape))

    @classmethod
    def kinds(cls, instance: Instance) -> tuple[Slots, Ints]:
        """Return the different slots of an instance, and the number of each, shape (kinds,)."""
        weights, level = np.unique(instance.llm.weight_reads, return_inverse=True)
        found, counts = np.unique(instance.read_counts() * len(weights) + level, return_counts=True)
        return cls(found // len(weights), weights[found % len(weights)]), counts


def ideal_slot_times(instance: Instance) -> Floats:
    """Seconds per slot without constraints on placement, shape (steps, layers).

    Every read and every birth is split over the tiers in the way that is best for the slot, which is a lower
    bound for every schedule at any capacity. With inclusive copies and two tiers everything is in tier 0,
    except for births, which are only written through.

    Raises
    ------
    UsageError
        The instance has another accounting.
    """
    require_physical(instance)
    slots = Slots.of(instance)
    transfer = combine(SlotCost.of(instance).ideal_facets, np.moveaxis(ideal_bytes(instance, slots), -1, 0))
    return np.asarray(transfer.max(axis=0) + ideal_latency(instance, slots.weights[0]))


def ideal_bytes(instance: Instance, slots: Slots) -> Floats:
    """Bytes of slots as `SlotCost.ideal_rows` takes them, shape (..., 3K)."""
    traffic = fixed_traffic(instance, slots.weights)
    columns = Columns.of(traffic)
    columns.reads[..., 0] = slots.reads * float(instance.item_bytes)
    if not instance.inclusive:
        columns.writes[..., 0] = instance.item_bytes
    return traffic


def one_tier_bytes(instance: Instance, slots: Slots, tier: int) -> Floats:
    """Bytes of slots with all KV in one tier, never moved, shape (..., 3K)."""
    traffic = fixed_traffic(instance, slots.weights)
    columns = Columns.of(traffic)
    columns.reads[..., tier] = slots.reads * float(instance.item_bytes)
    columns.writes[..., tier] = instance.item_bytes
    return traffic


def ideal_latency(instance: Instance, weights: Floats) -> Floats:
    """Latency in seconds that slots have at least under any placement, by their weights, shape (slots,)."""
    latency = SlotCost.of(instance).latency
    touched = np.zeros((len(weights), instance.tiers))
    touched[:, 0], touched[:, -1] = weights > 0, instance.inclusive
    # every slot touches some tier, as it writes a new token
    return np.maximum(combine(latency[None], touched.T)[0], latency.min())


def ideal(instance: Instance) -> float:
    """Return the ideal decode time in seconds, a time lower bound."""
    return float(ideal_slot_times(instance).sum())
