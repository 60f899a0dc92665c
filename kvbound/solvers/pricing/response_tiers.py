"""Answers to prices over any tiers and blocks, as the tier of every block after every slot.

What everybody would like may be over a tier's room. Played slot by slot, who finds no room where it wants
to go waits where it is, the longest stays first, and goes when it may move there and there is room.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvbound.bitsets.lanes import Lanes, count_bits, count_units
from kvbound.instance import Initial, Instance, Migration
from kvbound.kernels import Kernel
from kvbound.progress import Progress, silent
from kvbound.schedule import Schedule, from_tiers
from kvbound.solvers.lagrangian.paths import MultiTierPaths, count_traffic
from kvbound.solvers.lagrangian.subproblem import limited_tiers, occupancy
from kvbound.solvers.pricing.repair import FITTED

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Bytes = NDArray[np.uint8]
_AHEAD = 64
"""Steps ahead that are looked at to see how long a stay is."""


@dataclass(eq=False)
class Tiers:
    """A schedule that grows and changes, by its tiers and by its counts.

    Attributes
    ----------
    kernel, threads
        For the paths.
    first, plan
        Tiers of blocks at the start, (layers, blocks), and after every slot, (steps, layers, blocks), K for
        those that have not begun, filled up to whole groups.
    counts, after
        What those asked so far do, see `count_traffic`.
    start
        How many of them begin in each tier, (K, layers).
    reads
        What they read, (steps, layers).
    asked
        How many blocks of each layer they are.
    """

    instance: Instance
    kernel: Kernel
    threads: int
    first: Bytes
    plan: Bytes
    counts: Ints
    after: Ints
    start: Ints
    reads: Ints
    asked: int = 0

    @classmethod
    def of(cls, instance: Instance, stride: int, kernel: Kernel, threads: int) -> Tiers:
        """Begin with nobody, but with room for groups of every stride-th unit."""
        layers, steps, tiers = instance.layers, instance.decode_steps, instance.tiers
        unit = Lanes.of(instance, slice(1), np.zeros(1, np.int64), count_units(instance)).blocks.size
        blocks = unit * stride * -(-count_units(instance) // stride)
        return cls(
            instance,
            kernel,
            threads,
            np.full((layers, blocks), tiers, np.uint8),
            np.full((steps, layers, blocks), tiers, np.uint8),
            np.zeros((steps, layers, 3 * tiers), np.int64),
            np.zeros((steps, layers, tiers), np.int64),
            np.zeros((tiers, layers), np.int64),
            np.zeros((steps, layers), np.int64),
        )

    def answer(
        self,
        lanes: Lanes,
        prices: Floats,
        capacity: Floats,
        choose: Callable[[tuple[int, ...]], Bools] | None,
    ) -> None:
        """Let blocks take their best paths; all that were not asked before, else those that are chosen."""
        first, plan = MultiTierPaths(self.instance, lanes, self.kernel, self.threads).paths(prices, capacity)
        if choose is None:
            self.reads += count_bits(lanes.rows)
            self.asked += first.shape[1]
        else:
            began, before = self._of(lanes)
            self._count(lanes, began, before, -1)
            who = choose(first.shape)
            first, plan = np.where(who, first, began), np.where(who, plan, before)
        self._count(lanes, first, plan, 1)
        for layer, blocks in enumerate(lanes.blocks):
            self.first[layer, blocks] = first[layer]
            self.plan[:, layer, blocks] = plan[:, layer]

    def _of(self, lanes: Lanes) -> tuple[Bytes, Bytes]:
        layers = list(enumerate(lanes.blocks))
        first = np.stack([self.first[layer, blocks] for layer, blocks in layers])
        return first, np.stack([self.plan[:, layer, blocks] for layer, blocks in layers], axis=1)

    def _count(self, lanes: Lanes, first: Bytes, plan: Bytes, sign: int) -> None:
        counts, after = count_traffic(self.instance, lanes, first, plan, self.kernel, self.threads)
        self.counts += sign * counts
        self.after += sign * after
        self.start += sign * (first == np.arange(self.instance.tiers)[:, None, None]).sum(axis=2)

    @property
    def share(self) -> float:
        """What share of the items was asked."""
        return self.asked / self.first.shape[1]

    def used(self, steps: slice) -> Floats:
        """What those asked so far use of some steps' slots; see `Demand`, (3K, steps, layers)."""
        return np.moveaxis(self.counts[steps], -1, 0).astype(np.float64)

    def held(self) -> Floats:
        """Blocks of those in tiers with a limit, at the start and after every slot, (tiers, 1 + slots)."""
        tiers, after = limited_tiers(self.instance), np.moveaxis(self.after, -1, 0)
        start, now = (each[tiers].astype(np.float64) for each in (self.start, after))
        return occupancy(self.instance, start, now, slice(None))

    def settled(self, progress: Progress = silent) -> Schedule:
        """Return it as a schedule that keeps within the room; what was answered is used up."""
        instance = self.instance
        plan, prompt = self.plan[:, :, : instance.blocks], -(-instance.prefill_tokens // instance.granularity)
        first = self.first[:, :prompt]
        most = instance.layers * instance.blocks
        room = np.array([most if limit is None else limit for limit in instance.capacity_blocks])
        if instance.rules.initial is Initial.FREE:
            _seat(first, room)
        room -= np.bincount(first.ravel(), minlength=instance.tiers)
        before = np.full((instance.layers, instance.blocks), instance.tiers, np.uint8)
        before[:, :prompt] = first
        for step, slots in enumerate(plan):
            progress(step, len(plan), FITTED)
            for layer, wanted in enumerate(slots):
                _play(instance, before[layer], wanted, plan[step : step + _AHEAD, layer], room, step, layer)
            before = slots
        initial = first[:, np.arange(instance.prefill_tokens) // instance.granularity]
        return from_tiers(initial, list(np.moveaxis(plan, 1, 0)), instance.granularity)


def _seat(first: Bytes, room: Ints) -> None:
    """Send who has no room at the start one tier down, or if there is none below, up; changes `first`."""
    tiers, flat = len(room), first.ravel()
    for order, way in ((range(tiers - 1), 1), (range(tiers - 1, 0, -1), -1)):
        for tier in order:
            flat[np.flatnonzero(flat == tier)[room[tier] :]] = tier + way
    first[:] = flat.reshape(first.shape)


def _play(
    instance: Instance, before: Bytes, wanted: Bytes, ahead: Bytes, room: Ints, step: int, layer: int
) -> None:
    """Let a layer's blocks go where they want to be after its slot, if they may and there is room.

    Parameters
    ----------
    before, wanted
        Tiers before the slot, and the plan's after it, which becomes what is played, (blocks,).
    ahead
        The plan from this slot on, (steps, blocks).
    room
        What is left in each tier; changed.
    """
    size, token = instance.granularity, instance.prefill_tokens + step
    born = -(-token // size)
    now, goal = before[:born].copy(), wanted[:born].copy()
    moving = np.flatnonzero(goal != now)
    if instance.rules.migration is Migration.ON_READ and len(moving):
        read = np.zeros(born, np.bool_)
        reads = instance.trace.reads(step, layer)
        read[reads[reads < token] // size] = True
        moving = moving[read[moving] | (goal[moving] > now[moving])]
    for down in (True, False):
        some = moving[(goal[moving] > now[moving]) == down]
        for tier in np.unique(goal[some]):
            coming = some[goal[some] == tier]
            if len(coming) > room[tier]:
                stays = (ahead[:, coming] == tier).cumprod(axis=0).sum(axis=0)
                coming = coming[np.argsort(stays, kind="stable")[: max(int(room[tier]), 0)]]
            np.add.at(room, now[coming], 1)
            room[tier] -= len(coming)
            now[coming] = tier
    wanted[:born] = now
    if token % size == 0:
        free = room > 0
        tier = wanted[born]
        if not free[tier]:
            others = np.flatnonzero(free)
            tier = others[others > tier][0] if (others > tier).any() else others[-1]
        wanted[born] = tier
        room[tier] -= 1
