"""A fixed placement of weights: what it leaves for KV, and a schedule of both."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from kvbound.errors import InfeasibleError
from kvbound.instance import Instance
from kvbound.schedule import LayerEvents, Schedule

Tiers = NDArray[np.uint8]


def without_weights(instance: Instance, tiers: Tiers) -> Instance:
    """Return the instance of KV alone, in which the tiers are smaller by the weights that they hold.

    Experts count as read in every slot in the share of the steps that name them.

    Parameters
    ----------
    tiers
        Tier of each chunk of weights, (layers, ids of chunks).

    Raises
    ------
    InfeasibleError
        The weights do not fit there.
    """
    unit, units = instance.granularity * instance.unit_sizes[0], instance.block_units[:, : tiers.shape[1]]
    held = [unit * int(units[tiers == k].sum()) for k in range(instance.tiers)]
    if instance.inclusive:
        held[-1] = unit * int(units.sum())
    made = []
    for k, (tier, size) in enumerate(zip(instance.memory.tiers, held, strict=True)):
        left = None if tier.capacity is None else int(tier.capacity) - size
        if left is not None and left < (0 if k else instance.resident_bytes):
            raise InfeasibleError(f"{instance.name}: {size:,} B of weights do not fit into {tier.name}")
        made.append(dataclasses.replace(tier, capacity=left))
    memory = dataclasses.replace(instance.memory, tiers=tuple(made))
    near = unit * (np.where(tiers == 0, units, 0) * _share_of_steps(instance)).sum(axis=1)
    kv = instance.token_trace
    kv = dataclasses.replace(kv, experts=()) if kv.experts else kv
    llm = dataclasses.replace(
        instance.llm,
        weights="resident",
        weight_chunk_bytes=None,
        weight_bytes=instance.resident_bytes,
        weight_read_bytes_per_layer=tuple((instance.weight_reads + near).tolist()),
    )
    return dataclasses.replace(instance, memory=memory, llm=llm, workload=kv)


def _share_of_steps(instance: Instance) -> NDArray[np.float64]:
    """Return the share of the steps that read each chunk, shape (layers, ids): 1 but for experts."""
    reads = (
        instance.chunks.reads(instance.workload.experts, n, instance.decode_steps)
        for n in range(instance.layers)
    )
    return np.stack([read.mean(axis=0) for read in reads])


def with_weights(instance: Instance, tiers: Tiers, schedule: Schedule) -> Schedule:
    """Return a schedule of KV together with weights that do not move; see `without_weights`."""
    first = instance.chunks.ids
    events = tuple(
        LayerEvents(each.step, (each.token + first).astype(each.token.dtype), each.tier)
        for each in schedule.events
    )
    return Schedule(np.concatenate([tiers, schedule.initial], axis=1), events)
