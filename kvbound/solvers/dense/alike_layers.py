"""Instances whose layers are alike, seen as one layer: its prices serve all of them.

With L equal layers of dense reads and a price of capacity only at the start and after each step, all layers
have the same paths. The dual value is then L times that of one layer with an L-th of every tier's room. Where
a few layers read other weights, the same prices prove a little less of these. Where the transfers of a step
overlap, the one layer has an L-th of the weights of all and of the latencies, which a step waits for once.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import numpy as np

from kvbound.certificate import Certificate
from kvbound.instance import Instance
from kvbound.rules import Windows
from kvbound.solvers.dense.items import layers_differ_in_weights_at_most
from kvbound.trace import Trace

FEWEST_SLOTS = 1 << 15
"""Slots from which on layers are priced together: with fewer, a price for every slot costs little and proves
a little more."""
SHARE = 0.75
"""Share of the layers from which on those with equal weights stand for all."""


def one_of(instance: Instance, fewest: int = FEWEST_SLOTS) -> Instance | None:
    """Return an instance of one of the layers, with its share of all room, rounded up.

    None where too many layers differ, where reads are not dense, or where there are less than `fewest` slots.
    """
    if instance.layers == 1 or instance.slots < fewest or not layers_differ_in_weights_at_most(instance):
        return None
    (read, count), *_ = Counter(instance.weight_reads.tolist()).most_common(1)
    if instance.by_step:
        read = float(instance.weight_reads.mean())
    elif count < SHARE * instance.layers:
        return None
    llm = dataclasses.replace(
        instance.llm, layers=1, kv_bytes_per_token_layer=instance.llm.kv_sizes[0], weight_bytes=read,
        weight_read_bytes_per_layer=read, windows=(),
    )  # fmt: skip
    tiers = []
    for k, (tier, room) in enumerate(zip(instance.memory.tiers, instance.capacity_units, strict=True)):
        size, resident = instance.unit_sizes[k], 0 if k else int(llm.weight_bytes)
        capacity = None if room is None else resident + -(-room // instance.layers) * size
        latency = tier.latency / (instance.layers if instance.by_step else 1)
        tiers.append(dataclasses.replace(tier, capacity=capacity, latency=latency))
    formats = {tier: size[0] if isinstance(size, tuple) else size for tier, size in instance.formats.items()}
    return Instance(
        instance.name,
        dataclasses.replace(instance.memory, tiers=tuple(tiers)),
        llm,
        dataclasses.replace(instance.rules, windows=Windows.IGNORE),
        Trace.from_timeline(instance.token_timelines[0], 1),
        formats,
        instance.objective,
    )


def for_all(instance: Instance, certificate: Certificate) -> Certificate:
    """Return the certificate of an instance with the multipliers of one of its layers; it claims nothing."""
    layers = instance.layers
    capacity = np.zeros((instance.tiers, 1 + instance.slots), np.int64)
    capacity[:, ::layers] = certificate.capacity  # the start, and the moment after each step's last slot
    tables: dict[str, Any] = {
        name: np.broadcast_to(table, (*table.shape[:-1], layers))
        for name, table in certificate.of_slots.items()
        if name == "prices" or not instance.by_step
    }
    return dataclasses.replace(
        certificate, instance_sha256=instance.sha256, bound_s=0.0, capacity=capacity, **tables
    )


def for_one(one: Instance, instance: Instance, certificate: Certificate) -> Certificate:
    """Return the multipliers of the first layer as a certificate of `one`, which claims nothing."""
    layers = instance.layers
    later = certificate.capacity[:, 1:].reshape(instance.tiers, -1, layers).sum(axis=2)
    capacity = np.concatenate([certificate.capacity[:, :1], later], axis=1)
    tables: dict[str, Any] = {name: table[..., :1] for name, table in certificate.of_slots.items()}
    return dataclasses.replace(
        certificate, instance_sha256=one.sha256, bound_s=0.0, capacity=capacity, **tables
    )
