"""The energy of a schedule: the bytes that each resource transfers, times what a byte costs there.

The bytes are those of the split that `SlotCost` chooses, so that energy and time are of the same transfers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvbound.cost.parts import FixedParts
from kvbound.cost.slot import SlotCost
from kvbound.cost.traffic import Columns, Floats, ScheduleTraffic
from kvbound.instance import Instance


@dataclass(frozen=True, eq=False)
class TransferEnergy:
    """The energy of transfers, in joules per byte; items count with their bytes in tier 0, as in `Columns`.

    Attributes
    ----------
    read, write
        Of a byte read from, and written to, each tier, shape (K,); NaN where it loads a resource whose energy
        is unknown.
    """

    read: Floats
    write: Floats

    @classmethod
    def of(cls, instance: Instance, level: str = "device", point: str = "mid") -> TransferEnergy:
        """Return the energies of an instance's memory, at one level and point of its data."""
        memory, ratio = instance.memory, SlotCost.of(instance).format_ratio
        joules = memory.joules_per_byte(level, point)

        def of_bytes(load: Floats) -> Floats:
            return (np.where(load > 0, joules, 0.0) * load * ratio).sum(axis=1)

        return cls(of_bytes(memory.read_load), of_bytes(memory.write_load))

    def total(self, read: Floats, written: Floats) -> float:
        """Return the joules of bytes read and written by tier, shapes (K,); NaN if they are unknown."""
        pairs = zip([*read, *written], [*self.read, *self.write], strict=True)
        return math.fsum(count * each for count, each in pairs if count)


def energy(instance: Instance, counted: ScheduleTraffic, time_s: float) -> dict[str, float | None] | None:
    """Return the energy of a schedule in joules, or None if it loads a resource whose energy is unknown.

    Energies are those of the level and point that the objective names, by default `device` and `mid`.

    Parameters
    ----------
    counted, time_s
        The schedule's traffic and its decode time.

    Returns
    -------
    ``weights`` (their reads), ``kv`` (reads of KV, and births with their write-through), ``moves`` (their
    writes, and the reads of items that move without being read), ``compute`` (see `arithmetic`) and, if the
    memory states a static power, ``static``.
    """
    if not instance.memory.energy:
        return None
    estimate = instance.objective.level, instance.objective.point
    per_byte, fixed = TransferEnergy.of(instance, *estimate), FixedParts.of(instance, counted)
    weights, kv = _served(instance, counted)
    weights[0] += fixed.weights.sum() * instance.decode_steps
    parts: dict[str, float | None] = {
        "weights": per_byte.total(weights, np.zeros_like(weights)),
        "kv": per_byte.total(kv, _by_tier(fixed.births)),
        "moves": per_byte.total(_by_tier(fixed.move_reads), _by_tier(fixed.move_writes)),
    }
    if any(part is not None and math.isnan(part) for part in parts.values()):
        return None
    parts["compute"] = arithmetic(instance)
    if instance.memory.static_watts is not None:
        parts["static"] = instance.memory.static_watts * time_s
    return parts


def arithmetic(instance: Instance) -> float | None:
    """Return the joules of one multiply-accumulate operation per parameter and decoded token.

    None if the number of parameters or the energy of an operation is unknown, or if the llm has experts, of
    which a token does not use all.
    """
    llm, objective = instance.llm, instance.objective
    per_mac = instance.memory.joules_per_mac(objective.level, objective.point)
    if per_mac is None or llm.parameters is None or any(llm.expert_counts):
        return None
    return per_mac * llm.parameters * int(instance.timeline.outputs.sum())


def _served(instance: Instance, counted: ScheduleTraffic) -> tuple[Floats, Floats]:
    """Return the bytes of placed weights and of KV that slots read, by the tier that serves them, (K,) each.

    Of what a tier holds and the last tier serves, weights and KV have the same share.
    """
    cost, last = SlotCost.of(instance), instance.tiers - 1
    placed, kv = np.zeros((2, instance.tiers))
    timed = instance.timed(counted.traffic, axis=1)
    for layer in range(timed.shape[1]):  # one at a time, to save memory
        traffic = timed[:, layer]
        held, split = Columns.of(traffic), Columns.of(cost.split(traffic))
        served = np.maximum(split.reads + split.extra_reads - held.extra_reads, 0.0)
        kv += _by_tier(served)
        if counted.weight_reads is not None:
            weights = instance.timed(counted.weight_reads, axis=1)[:, layer].astype(np.float64)
            diverted = np.maximum(held.reads - served, 0.0)[:, :last]
            away = weights[:, :last] * (diverted / np.maximum(held.reads[:, :last], 1.0))
            weights[:, :last] -= away
            weights[:, last] += away.sum(axis=1)
            placed += _by_tier(weights)
    return placed, np.maximum(kv - placed, 0.0)


def _by_tier(counts: NDArray[Any]) -> Floats:
    """Add up counts of shape (..., K) over all but the last axis."""
    return counts.reshape(-1, counts.shape[-1]).sum(axis=0).astype(np.float64)
