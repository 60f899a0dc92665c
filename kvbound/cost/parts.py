"""What a schedule transfers, and what its decode time is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from kvbound.cost.slot import SlotCost
from kvbound.cost.traffic import Columns, Counts, Floats, ScheduleTraffic
from kvbound.cost.transitions import Transitions
from kvbound.instance import Instance


@dataclass(frozen=True, eq=False)
class FixedParts:
    """The bytes of a schedule's slots that only one tier can transfer, by what they are for.

    What remains of the traffic are reads of items, which with inclusive copies either copy may serve.

    Attributes
    ----------
    weights
        Reads of resident weights from tier 0, shape (layers,).
    births
        Writes of new tokens, with their write-through, shape (steps, layers, K).
    move_reads
        Reads of items that move without being read, shape (steps, layers, K).
    move_writes
        Writes of moves, shape (steps, layers, K).
    """

    weights: Floats
    births: Counts
    move_reads: Floats
    move_writes: Floats

    @classmethod
    def of(cls, instance: Instance, counted: ScheduleTraffic) -> FixedParts:
        """Divide a schedule's traffic."""
        held, weights = Columns.of(counted.traffic), instance.weight_reads
        births = counted.births @ Transitions.of(instance).birth_writes * instance.item_bytes[:, None]
        moved = held.extra_reads.copy()
        moved[..., 0] = np.rint(moved[..., 0] - weights)  # whole bytes, but for rounding
        return cls(weights, births, moved, held.writes - births)


@dataclass(frozen=True)
class TimeParts:
    """The decode time of a schedule, in seconds, divided by what is transferred; the parts add up to it.

    What does not bind is free: each byte counts with its dual price in its slot, the seconds that one more
    byte of its kind would cost.

    Attributes
    ----------
    weights
        Reads of weights.
    reads
        Reads of KV, by the name of the tier that serves them.
    births
        Writes of new tokens, with their write-through.
    moves
        Writes of moves, and the reads of items that move without being read.
    latency
        Waits for latencies.
    """

    weights: float
    reads: Mapping[str, float]
    births: float
    moves: float
    latency: float


def time_parts(instance: Instance, counted: ScheduleTraffic) -> TimeParts:
    """Divide the decode time of a schedule among what it transfers."""
    timed = instance.timed(counted.traffic, axis=1)
    priced = SlotCost.of(instance).priced(timed)
    held, served, fixed = Columns.of(timed), Columns.of(priced.served), FixedParts.of(instance, counted)
    reads = served.reads + served.extra_reads - held.extra_reads
    by_tier = (reads * priced.read).sum(axis=(0, 1)).tolist()
    return TimeParts(
        weights=float((priced.read[..., 0] * fixed.weights).sum()),
        reads=dict(zip((tier.name for tier in instance.memory.tiers), by_tier, strict=True)),
        births=float((fixed.births * priced.write).sum()),
        moves=float((fixed.move_reads * priced.read).sum() + (fixed.move_writes * priced.write).sum()),
        latency=float(priced.wait.sum()),
    )
