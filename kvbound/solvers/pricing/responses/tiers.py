"""Responses over any tiers and blocks, as the tier of every block after every slot.

Best responses may put more blocks into a tier than it holds. The repair replays them slot by slot: a block
whose target has no room waits where it is, and moves as soon as it may and there is room; those that are
planned to stay longest wait first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvbound.bitsets.lanes import Lanes, count_bits, count_spans
from kvbound.cost.transitions import Transitions
from kvbound.errors import InfeasibleError
from kvbound.first_fit import first_fit
from kvbound.instance import Instance
from kvbound.kernels import Kernel
from kvbound.progress import Progress, silent
from kvbound.rules import Initial
from kvbound.schedule import Schedule, from_tiers
from kvbound.solvers.lagrangian.paths.multi_tier import MultiTierPaths
from kvbound.solvers.lagrangian.paths.traffic import count_starts, count_traffic
from kvbound.solvers.lagrangian.subproblem import limited_tiers, occupancy
from kvbound.solvers.pricing.repair import PROGRESS_NOTE
from kvbound.solvers.pricing.responses.interface import Adopt

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Bytes = NDArray[np.uint8]
_LOOKAHEAD = 64
"""Steps ahead that are searched for the end of a stay."""


@dataclass(eq=False)
class TierResponses:
    """Responses under any rules; see `interface.Responses`.

    Attributes
    ----------
    kernel, threads
        For the paths.
    first, plan
        Tiers of blocks at the start, (layers, blocks), and after every slot, (steps, layers, blocks), K for
        those that do not exist; see `MultiTierPaths.paths`; padded to whole groups.
    counts, after
        Counts of the blocks with a path, see `count_traffic`.
    start
        Units of them that begin in each tier, (K, layers).
    reads
        Their reads, (steps, layers).
    covered
        Blocks of each layer that have a path.
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
    covered: int = 0

    @classmethod
    def empty(cls, instance: Instance, stride: int, kernel: Kernel, threads: int) -> TierResponses:
        """Return responses without any path, with blocks for groups of every stride-th span."""
        layers, steps, tiers = instance.layers, instance.decode_steps, instance.tiers
        span = Lanes.of(instance, slice(1), np.zeros(1, np.int64), count_spans(instance)).blocks.size
        blocks = span * stride * -(-count_spans(instance) // stride)
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

    def update(self, lanes: Lanes, prices: Floats, capacity: Floats, adopt: Adopt | None) -> None:
        """Give lanes their best paths; see `interface.Responses`."""
        first, plan = MultiTierPaths(self.instance, lanes, self.kernel, self.threads).paths(prices, capacity)
        if adopt is None:
            self.reads += count_bits(lanes.rows)
            self.covered += first.shape[1]
        else:
            old_first, old_plan = self._paths(lanes)
            self._count(lanes, old_first, old_plan, -1)
            adopting = adopt(first.shape)
            first, plan = np.where(adopting, first, old_first), np.where(adopting, plan, old_plan)
        self._count(lanes, first, plan, 1)
        for layer, blocks in enumerate(lanes.blocks):
            self.first[layer, blocks] = first[layer]
            self.plan[:, layer, blocks] = plan[:, layer]

    def _paths(self, lanes: Lanes) -> tuple[Bytes, Bytes]:
        """Return the paths of some lanes, (layers, lanes) and (steps, layers, lanes)."""
        layers = list(enumerate(lanes.blocks))
        first = np.stack([self.first[layer, blocks] for layer, blocks in layers])
        return first, np.stack([self.plan[:, layer, blocks] for layer, blocks in layers], axis=1)

    def _count(self, lanes: Lanes, first: Bytes, plan: Bytes, sign: int) -> None:
        """Add the counts of some paths, or subtract them."""
        counts, after = count_traffic(self.instance, lanes, first, plan, self.kernel, self.threads)
        self.counts += sign * counts
        self.after += sign * after
        self.start += sign * count_starts(lanes, first, self.instance.tiers)

    @property
    def share(self) -> float:
        """Share of the items that have a path."""
        return self.covered / self.first.shape[1]

    def used(self, steps: slice) -> Floats:
        """Return the counts of some steps' slots; see `Demand`, (3K, steps, layers)."""
        return np.moveaxis(self.counts[steps], -1, 0).astype(np.float64)

    def held(self) -> Floats:
        """Return the units in each limited tier at the start and after every slot, (tiers, 1 + slots)."""
        tiers, after = limited_tiers(self.instance), np.moveaxis(self.after, -1, 0)
        start, now = (each[tiers].astype(np.float64) for each in (self.start, after))
        return occupancy(self.instance, start, now, slice(None))

    def repaired(self, progress: Progress = silent) -> Schedule:
        """Return them as a schedule within the capacities; changes them in place.

        Raises
        ------
        InfeasibleError
            Blocks of different sizes are not made to fit, although they may.
        """
        instance = self.instance
        blocks, plan = instance.grouping, self.plan[:, :, : instance.blocks]
        first, exists = self.first[:, : blocks.prompt], blocks.initial
        free = instance.room_units.copy()
        starting, units = first[exists], np.broadcast_to(instance.units[:, None], exists.shape)[exists]
        if instance.rules.initial is Initial.FREE:
            _spread(starting, units, free)
            first[exists] = starting
        np.subtract.at(free, starting, units)
        before = np.full((instance.layers, instance.blocks), instance.tiers, np.uint8)
        before[:, : blocks.prompt] = first
        legal = Transitions.of(instance).legal
        replay = _Replay(instance, legal, bool((legal[0] != legal[1]).any()), free)
        for step, slots in enumerate(plan):
            progress(step, len(plan), PROGRESS_NOTE)
            replay.step(before, plan[step : step + _LOOKAHEAD], step)
            before = slots
        initial = np.minimum(first, instance.tiers - 1)[:, blocks.of[: instance.prefill_tokens]]
        return from_tiers(initial, list(np.moveaxis(plan, 1, 0)), blocks)


def _spread(wanted: Bytes, units: Ints, room: Ints) -> None:
    """Move blocks beyond a tier's room one tier down, or up from the last; changes `wanted`, (blocks,).

    Parameters
    ----------
    units, room
        What each block takes, (blocks,), and what each tier has room for, (K,).
    """
    tiers = len(room)
    for order, way in ((range(tiers - 1), 1), (range(tiers - 1, 0, -1), -1)):
        for tier in order:
            inside = np.flatnonzero(wanted == tier)
            wanted[inside[first_fit(units[inside], room[[tier]]) > 0]] = tier + way
    used = np.zeros(tiers, np.int64)
    np.add.at(used, wanted, units)
    if (used > room).any():  # blocks of different sizes: the largest first
        largest = np.argsort(-units, kind="stable")
        wanted[largest] = first_fit(units[largest], room)
        if (wanted == tiers).any():
            raise InfeasibleError("no placement is found in which blocks of different sizes fit")


@dataclass(frozen=True, eq=False)
class _Replay:
    """Replays a plan slot by slot within the capacities.

    Attributes
    ----------
    legal
        See `Transitions`.
    by_read
        Whether that depends on whether the slot reads a block.
    free
        Units that each tier has room for, (K,); changed.
    """

    instance: Instance
    legal: Bools
    by_read: bool
    free: Ints

    def step(self, before: Bytes, ahead: Bytes, step: int) -> None:
        """Move the blocks to their planned tiers, where the rules allow it and there is room.

        Parameters
        ----------
        before
            Tiers before the step, (layers, blocks).
        ahead
            The plan from this step on, (steps, layers, blocks); the first tiers become those in fact.
        """
        blocks, tiers = self.instance.grouping, self.instance.tiers
        begun, end = blocks.begun(step), blocks.begun(step + 1)
        for layer, wanted in enumerate(ahead[0]):
            last, units = blocks.last[layer], int(self.instance.units[layer])
            fit = self.free // units if units else np.full(tiers, self.instance.blocks)
            now, room = before[layer, :begun].copy(), fit.copy()
            gone = np.flatnonzero(last[:begun] <= step)
            if len(gone):
                room += np.bincount(now[last[:begun] == step], minlength=tiers)
                now[gone] = tiers
            self._move_all(now, ahead[:, layer, :begun], room, step, layer)
            wanted[:begun] = now
            if end > begun:
                born, held = wanted[begun:end], last[begun:end] > step
                born[held] = _placed(born[held], room)
            self.free[:] += units * (room - fit)

    def _move_all(self, now: Bytes, ahead: Bytes, room: Ints, step: int, layer: int) -> None:
        """Move a layer's blocks; changes their tiers `now`, (blocks,), given the plan, (steps, blocks).

        Room is in blocks of the layer, (K,), and changed.
        """
        goal = ahead[0]
        moving = np.flatnonzero(goal != now)
        if len(moving):
            read = self._read(step, layer, len(now))[moving] if self.by_read else 0
            moving = moving[self.legal[read, now[moving], goal[moving]]]
        _move(moving, now, ahead, room)

    def _read(self, step: int, layer: int, begun: int) -> Ints:
        """Return 1 for the blocks whose past tokens a slot reads, else 0, (blocks begun before,)."""
        instance, read = self.instance, np.zeros(begun, np.int64)
        reads = instance.trace.reads(step, layer)
        read[instance.grouping.of[reads[reads < instance.timeline.past[step]]]] = 1
        return read


def _move(moving: Ints, now: Bytes, ahead: Bytes, room: Ints) -> None:
    """Move blocks to their planned tiers, all at once, so that blocks of full tiers change places.

    Where a tier is then overfull some blocks wait, first those from tiers with room, then those with the
    longest stays; the tiers in which they wait may be overfull in turn. Changes the tiers `now` and the room.
    """
    tiers, goal = len(room), ahead[0]
    room += np.bincount(now[moving], minlength=tiers) - np.bincount(goal[moving], minlength=tiers)
    while (room < 0).any():
        tier = int(room.argmin())
        coming = np.flatnonzero(goal[moving] == tier)
        stays = (ahead[:, moving[coming]] == tier).cumprod(axis=0).sum(axis=0)
        crowded = room[now[moving[coming]]] <= 0
        waiting = coming[np.lexsort((-stays, crowded))[: -room[tier]]]
        room[tier] += len(waiting)
        room -= np.bincount(now[moving[waiting]], minlength=tiers)
        moving = np.delete(moving, waiting)
    now[moving] = goal[moving]


def _placed(wanted: Bytes, room: Ints) -> Bytes:
    """Return the tiers of new blocks: the planned ones as far as there is room; changes `wanted`."""
    _spread(wanted, np.ones(len(wanted), np.int64), room)
    room -= np.bincount(wanted, minlength=len(room))
    return wanted
