"""The chains of an annealing run: schedules as arrays, with all their counts kept up to date."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvbound.cost.traffic import ScheduleTraffic, schedule_traffic
from kvbound.instance import Instance
from kvbound.schedule import Schedule
from kvbound.solvers.annealing.layout import UNLIMITED, Board, Ints, Tiers, tiers_of


@dataclass(frozen=True, eq=False)
class Chains:
    """Schedules side by side; moves change the arrays in place.

    Attributes
    ----------
    tier
        Tier of every block in every state, shape (chains, layers * blocks, steps + 1).
    counts
        Tokens read by tier, read besides, and written, shape (chains, slots, 3K).
    held
        Blocks in each tier at the start and after every slot, shape (chains, K, slots + 1); 0 for tiers
        that have room for all.
    ticks
        Time of every slot, shape (chains, slots).
    margin
        Ticks that one more read from the last tier instead of tier 0 costs in a slot, and that one
        less gains, shape (chains, slots, 2).
    """

    tier: Tiers
    counts: Ints
    held: NDArray[np.int32]
    ticks: Ints
    margin: Ints

    @classmethod
    def of(cls, instance: Instance, board: Board, schedules: Sequence[Schedule]) -> Chains:
        """Start one chain from each schedule."""
        parts = [counted(instance, board, schedule_traffic(instance, schedule)) for schedule in schedules]
        counts = np.stack([part[0] for part in parts])
        layer = np.arange(board.slots) % board.layers
        ticks = slot_ticks(board, counts, layer)
        return cls(
            np.stack([tiers_of(board, schedule) for schedule in schedules]),
            counts,
            np.stack([part[1] for part in parts]),
            ticks,
            margins(board, counts, layer, ticks),
        )

    @property
    def count(self) -> int:
        """Number of chains."""
        return len(self.tier)

    @property
    def totals(self) -> Ints:
        """Ticks of each chain's schedule, shape (chains,)."""
        return self.ticks.sum(axis=1)

    def copy(self, source: int, target: int) -> None:
        """Let one chain go on from where another is."""
        for array in (self.tier, self.counts, self.held, self.ticks, self.margin):
            array[target] = array[source]


def counted(instance: Instance, board: Board, moved: ScheduleTraffic) -> tuple[Ints, NDArray[np.int32]]:
    """Tokens moved in every slot and blocks held after it, as the cost model counts them; see `Chains`."""
    tiers = board.tiers
    q = moved.traffic.copy()
    q[:, :, tiers] -= instance.llm.weight_reads
    counts = np.rint(q / instance.item_bytes).astype(np.int64).reshape(-1, 3 * tiers)
    held = np.vstack([moved.start, moved.start + moved.blocks.reshape(-1, tiers).cumsum(axis=0)])
    if board.inclusive:  # here without the copies of what is higher up
        held[:, -1] -= held[:, :-1].sum(axis=1)
    held[:, board.room == UNLIMITED] = 0
    return counts, np.ascontiguousarray(held.T, np.int32)


def slot_ticks(board: Board, count: Ints, layer: Ints) -> Ints:
    """Ticks of slots.

    Parameters
    ----------
    count
        Tokens, shape (..., 3K).
    layer
        Their layers, shape (...,) or one that broadcasts to it.
    """
    tiers = board.tiers
    ticks = np.broadcast_to(board.base[layer], (*count.shape[:-1], *board.base.shape[1:])).copy()
    for c in range(3 * tiers):
        ticks += board.rows[:, :, c] * count[..., c, None, None]
    most = ticks.max(axis=-1)
    if board.latency.any():
        read, extra, written = (count[..., None, n * tiers : (n + 1) * tiers] > 0 for n in range(3))
        busy = extra | written | (read & ~board.off)
        busy[..., 0] |= board.weighted[layer, None]
        busy[..., -1] |= (read & board.off).any(axis=-1)
        for k in range(tiers):
            most += np.where(busy[..., k], board.latency[k], 0.0)
    return np.rint(most.min(axis=-1)).astype(np.int64)


def margins(board: Board, count: Ints, layer: Ints, now: Ints) -> Ints:
    """What one more miss costs and one less gains, in ticks, shape (..., 2); see `Chains`."""
    answer = np.zeros((*now.shape, 2), np.int64)
    last = board.tiers - 1
    for n, (source, target, sign) in enumerate(((0, last, 1), (last, 0, -1))):
        changed = count.copy()
        changed[..., source] -= 1
        changed[..., target] += 1
        answer[..., n] = np.where(count[..., source] > 0, sign * (slot_ticks(board, changed, layer) - now), 0)
    return answer
