"""What a schedule's decode time is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kvbound.cost.slot import SlotCost
from kvbound.cost.traffic import Columns, ScheduleTraffic
from kvbound.cost.transitions import Transitions
from kvbound.instance import Instance


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
    priced = SlotCost.of(instance).priced(counted.traffic)
    held, served = Columns.of(counted.traffic), Columns.of(priced.served)
    weights = instance.weight_reads
    births = counted.births @ Transitions.of(instance).birth_writes * instance.item_bytes[:, None]
    moved = held.extra_reads.copy()
    moved[..., 0] -= weights
    reads = served.reads + served.extra_reads - held.extra_reads
    by_tier = (reads * priced.read).sum(axis=(0, 1)).tolist()
    return TimeParts(
        weights=float((priced.read[..., 0] * weights).sum()),
        reads=dict(zip((tier.name for tier in instance.memory.tiers), by_tier, strict=True)),
        births=float((births * priced.write).sum()),
        moves=float((moved * priced.read).sum() + ((held.writes - births) * priced.write).sum()),
        latency=float(priced.wait.sum()),
    )
