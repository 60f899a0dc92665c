"""What paths of blocks read, move and write in every slot, counted from the tiers that they lead through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvbound.bitsets.lanes import Lanes
from kvbound.cost.transitions import Transitions
from kvbound.instance import Instance
from kvbound.kernels import Kernel
from kvbound.solvers.lagrangian.subproblem import BLOCKS_AT_ONCE, map_ranges

Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Step:
    """One step of all lanes: numbers of items, each (layers, blocks)."""

    read: Ints
    """Items read of each block."""
    carried: Ints
    """Items that a move of each block carries: those before the step that stay beyond it."""
    unread: Ints
    """Those of the carried tokens that are not read."""
    grown: Ints
    """Tokens born into each block."""

    @classmethod
    def of(cls, instance: Instance, lanes: Lanes, step: int) -> Step:
        """Count the items of the lanes in a step."""
        read = np.unpackbits(lanes.rows[step].view(np.uint8), axis=1, bitorder="little").view(np.bool_)
        carried = (lanes.begin < step) & (step < lanes.end)
        starts = np.arange(0, read.shape[1], instance.granularity)
        masks = read, carried, carried & ~read, lanes.begin == step
        return cls(*(np.add.reduceat(mask, starts, axis=1, dtype=np.int64) * lanes.counts for mask in masks))


def count_chunks(lanes: Lanes) -> int:
    """Number of chunks of blocks that the compiled kernels work on together, in all layers."""
    layers, blocks = lanes.blocks.shape
    return layers * -(-blocks // BLOCKS_AT_ONCE)


def count_traffic(
    instance: Instance, lanes: Lanes, first: Bytes, plan: Bytes, kernel: Kernel, threads: int = 1
) -> tuple[Ints, Ints]:
    """Count the traffic of a plan.

    Parameters
    ----------
    first, plan
        Tiers of blocks, K where there is no block; see `MultiTierPaths.paths`.

    Returns
    -------
    Items read, read without a choice, and written, by tier, (steps, layers, 3K), and units in each tier
    after every slot, (steps, layers, K).
    """
    transitions = Transitions.of(instance)

    def run(begin: int, end: int) -> tuple[Ints, Ints]:
        used, held = (np.zeros((*plan.shape[:2], n * instance.tiers), np.int64) for n in (3, 1))
        if kernel == "numpy":
            _count_numpy(instance, lanes, transitions, first, plan, used, held)
        else:
            from kvbound.solvers.lagrangian.paths import traffic_numba

            traffic_numba.count_traffic(
                lanes.rows, lanes.last, lanes.begin, lanes.end, lanes.units, lanes.counts,
                instance.granularity, transitions.charged,
                transitions.birth_writes, first, plan, used, held, begin, end,
            )  # fmt: skip
        return used, held

    (used, held), *rest = map_ranges(run, count_chunks(lanes), 1 if kernel == "numpy" else threads)
    for more_used, more_held in rest:
        used += more_used
        held += more_held
    return used, held


def count_starts(lanes: Lanes, first: Bytes, tiers: int) -> Ints:
    """Count the units that start in each tier, (K, layers), given the first tier of blocks."""
    return np.stack([np.where(first == k, lanes.units, 0).sum(axis=1) for k in range(tiers)])


def _count_numpy(
    instance: Instance,
    lanes: Lanes,
    transitions: Transitions,
    first: Bytes,
    plan: Bytes,
    used: Ints,
    held: Ints,
) -> None:
    tiers, layers, before = instance.tiers, len(first), first
    charged = np.zeros((tiers + 1, tiers + 1), np.bool_)  # what begins or leaves does not move
    charged[:tiers, :tiers] = transitions.charged

    def count(tier: Bytes, amount: NDArray[Any]) -> Ints:
        by_layer = tier + (tiers + 1) * np.arange(layers)[:, None]
        table = np.bincount(by_layer.ravel(), amount.ravel(), (tiers + 1) * layers)
        return table.reshape(layers, -1)[:, :tiers].astype(np.int64)

    for step, after in enumerate(plan):
        now = Step.of(instance, lanes, step)
        reads, extra_reads, writes = np.moveaxis(used[step].reshape(layers, 3, tiers), 1, 0)
        moved = charged[before, after]
        reads += count(before, now.read)
        extra_reads += count(before, np.where(moved, now.unread, 0))
        writes += count(after, np.where(moved, now.carried, 0))
        writes += count(np.where(after < tiers, after, before), now.grown) @ transitions.birth_writes
        held[step] = count(after, np.where(lanes.last > step, lanes.units, 0))
        before = after
