"""The chains of an annealing run: schedules as arrays, with their counts and times kept up to date."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvbound.cost.slot import set_number
from kvbound.cost.traffic import Columns, ScheduleTraffic, schedule_traffic
from kvbound.instance import Instance
from kvbound.schedule import Schedule, from_tiers
from kvbound.solvers.annealing.layout import (
    ABSENT,
    EXACT,
    UNLIMITED,
    Ints,
    SearchData,
    Tiers,
)

Mask = NDArray[np.bool_]
Occupancy = NDArray[np.signedinteger[Any]]


@dataclass(frozen=True, eq=False)
class Chains:
    """Schedules side by side; moves change the arrays in place.

    Attributes
    ----------
    tier
        Tier of every block in every state, shape (chains, layers * blocks, steps + 1).
    counts
        Traffic of every slot in tokens, without the weights, shape (chains, slots, 3K); see
        `kvbound.cost.traffic.Columns` and `SearchData.timed_layers`.
    occupancy
        Units in each tier at the start and after every slot, shape (chains, K, slots + 1); 0 for tiers
        without a limit.
    ticks
        Time of every slot, shape (chains, slots).
    marginal
        Ticks that one more read from the last tier instead of tier 0 adds to a slot, and that one fewer
        saves, shape (chains, slots, 2).
    """

    tier: Tiers
    counts: Ints
    occupancy: Occupancy
    ticks: Ints
    marginal: Ints

    @classmethod
    def of(cls, instance: Instance, data: SearchData, schedules: Sequence[Schedule]) -> Chains:
        """Start one chain from each schedule."""
        tier = np.stack([tiers_of(instance, schedule) for schedule in schedules])
        # births of blocks that are never held may be in other tiers than in the given schedules
        made = [schedule_traffic(instance, schedule_of(instance, each)) for each in tier]
        parts = [token_counts(instance, data, traffic) for traffic in made]
        counts = np.stack([part[0] for part in parts])
        layer = np.arange(data.timed_slots) % data.timed_layers
        ticks = slot_ticks(data, counts, layer)
        return cls(
            tier,
            counts,
            np.stack([part[1] for part in parts]),
            ticks,
            marginal_ticks(data, counts, layer, ticks),
        )

    @property
    def arrays(self) -> tuple[Tiers, Ints, Occupancy, Ints, Ints]:
        """All arrays, in the order of the attributes."""
        return self.tier, self.counts, self.occupancy, self.ticks, self.marginal

    @property
    def count(self) -> int:
        """Number of chains."""
        return len(self.tier)

    @property
    def totals(self) -> Ints:
        """Ticks of the schedule of each chain, shape (chains,)."""
        return self.ticks.sum(axis=1)

    def copy(self, source: int, target: int) -> None:
        """Replace the schedule of one chain by that of another."""
        for array in self.arrays:
            array[target] = array[source]


def token_counts(instance: Instance, data: SearchData, traffic: ScheduleTraffic) -> tuple[Ints, Occupancy]:
    """Return the counts of every slot and the occupancy after it, as `Chains` has them, for one chain."""
    tiers = data.tiers
    moved = traffic.traffic.copy()
    Columns.of(moved).extra_reads[:, :, 0] -= instance.weight_reads
    tokens = np.rint(moved / np.maximum(instance.item_bytes, 1)[:, None]).astype(np.int64)
    counts = instance.timed(tokens * data.sizes[:, None], axis=1).reshape(-1, 3 * tiers)
    held = np.vstack([traffic.start, traffic.start + traffic.units.reshape(-1, tiers).cumsum(axis=0)])
    if instance.inclusive:  # the copies of blocks in faster tiers do not count here
        held[:, -1] -= held[:, :-1].sum(axis=1)
    held[:, data.capacity == UNLIMITED] = 0
    narrow = int(instance.block_units.sum()) < 2**31
    return counts, np.ascontiguousarray(held.T, np.int32 if narrow else np.int64)


def slot_ticks(data: SearchData, count: Ints, layer: Ints) -> Ints:
    """Return the time of slots in ticks.

    Parameters
    ----------
    count
        Tokens, shape (..., 3K).
    layer
        Their layers, shape (...,) or one that broadcasts to it.
    """
    tiers = data.tiers
    ticks = np.broadcast_to(
        data.weight_ticks[layer], (*count.shape[:-1], *data.weight_ticks.shape[1:])
    ).copy()
    facets = data.facets[layer if len(data.facets) > 1 else 0]
    for c in range(3 * tiers):
        ticks += facets[..., c] * count[..., c, None, None]
    if data.has_waits:
        bytes_moved = count * data.keeps[layer][..., None]
        read, extra, _ = (part > 0 for part in np.split(bytes_moved[..., None, :], 3, axis=-1))
        serving = extra | (read & (~data.diverted | (np.arange(tiers) == tiers - 1)))
        serving[..., 0] |= data.has_weights[layer, None]
        serving[..., -1] |= read[..., :-1].any(axis=-1) & data.diverted[:, -1]
        if len(data.ramp) > EXACT:
            ticks += _ramped_waits(data, count, layer, serving)
        else:
            ticks += np.moveaxis(data.waits[:, set_number(serving)], 0, -1)
    most = ticks.max(axis=-1)
    return np.rint(most.min(axis=-1)).astype(np.int64)


def _ramped_waits(data: SearchData, count: Ints, layer: Ints, serving: Mask) -> NDArray[np.float64]:
    """Return what facets wait if a tier's latency counts the more, the more items are read there.

    Parameters
    ----------
    serving
        Whether each tier serves reads, by set of diverted tiers, shape (..., sets, K).

    Returns
    -------
    Ticks, shape (..., sets, V).
    """
    read, extra, _ = np.split(count[..., None, :], 3, axis=-1)
    away = data.diverted & (np.arange(data.tiers) < data.tiers - 1)
    items = np.where(away, 0, read) + extra
    items[..., -1] += np.where(away, read, 0).sum(axis=-1)
    items = items[..., ::-1].cumsum(axis=-1)[..., ::-1]
    items[..., 0] = np.where(data.has_weights[layer, None], len(data.ramp), items[..., 0])
    share = data.ramp[np.minimum(items, len(data.ramp) - 1)]
    number = np.cumsum(serving * (1 << np.arange(data.tiers)), axis=-1)
    waits = np.zeros((*serving.shape[:-1], len(data.waits)))
    for k in reversed(range(data.tiers)):
        upto, below = number[..., k], number[..., k] - serving[..., k] * (1 << k)
        step = (data.waits[:, upto] - data.waits[:, below]) * share[..., k]
        waits += np.moveaxis(step, 0, -1)
    return waits


def marginal_ticks(data: SearchData, count: Ints, layer: Ints, now: Ints) -> Ints:
    """Return the ticks that one more miss adds to slots and that one fewer saves, shape (..., 2).

    Parameters
    ----------
    count, layer
        As `slot_ticks` takes them.
    now
        The time of the slots, shape (...,).
    """
    marginal = np.zeros((*now.shape, 2), np.int64)
    last = data.tiers - 1
    for n, (source, target, sign) in enumerate(((0, last, 1), (last, 0, -1))):
        changed = count.copy()
        changed[..., source] -= 1
        changed[..., target] += 1
        difference = sign * (slot_ticks(data, changed, layer) - now)
        marginal[..., n] = np.where(count[..., source] > 0, difference, 0)
    return marginal


class Share(NamedTuple):
    """The tokens of blocks that count in slots, each of shape (n,).

    Attributes
    ----------
    read
        Past tokens that the slot reads.
    carried, unread
        Tokens that a move carries, and those among them that the slot does not read.
    grown
        Tokens born into the block.
    """

    read: Ints
    carried: Ints
    unread: Ints
    grown: Ints


def charge(
    data: SearchData, counts: Ints, chain: Ints, slot: Ints, share: Share, before: Tiers, after: Tiers,
    sign: int,
) -> None:  # fmt: skip
    """Add the traffic of blocks in slots to the counts, or subtract it; each slot of a chain at most once.

    Parameters
    ----------
    counts
        Shape (chains, slots, 3K).
    chain, slot
        Chain and slot of each block, shape (n,).
    before, after
        Tiers of the block before and after the slot, shape (n,).
    sign
        1 to add, -1 to subtract.
    """
    tiers, flat = data.tiers, counts.reshape(-1)
    at = (chain * counts.shape[1] + slot) * counts.shape[2]
    there, stays = before != ABSENT, after != ABSENT
    flat[at[there] + before[there]] += sign * share.read[there]
    moved = there & stays & (before != after)
    if data.inclusive:
        moved &= after != tiers - 1
    moved = np.flatnonzero(moved)
    flat[at[moved] + tiers + before[moved]] += sign * share.unread[moved]
    flat[at[moved] + 2 * tiers + after[moved]] += sign * share.carried[moved]
    born = np.flatnonzero(share.grown)
    into = np.where(stays[born], after[born], before[born])  # where the block leaves, the tier that it had
    flat[at[born] + 2 * tiers + into] += sign * share.grown[born]
    if data.inclusive:
        born = born[into != tiers - 1]
        flat[at[born] + 3 * tiers - 1] += sign * share.grown[born]


def tiers_of(instance: Instance, schedule: Schedule) -> Tiers:
    """Return the tier of every block in every state, shape (layers * blocks, steps + 1)."""
    blocks, steps = instance.grouping, instance.decode_steps
    tier = np.full((instance.layers, blocks.count, steps + 1), ABSENT, np.uint8)
    passing = (blocks.last == blocks.born) & (blocks.born >= 0)
    gone = np.arange(steps + 1) > (blocks.last + passing)[..., None]
    for layer, events in enumerate(schedule.events):
        of_layer = tier[layer]
        of_layer[: blocks.prompt] = schedule.initial[layer, blocks.head[: blocks.prompt], None]
        block = blocks.of[events.token]
        for step, b, to in zip(events.step.tolist(), block.tolist(), events.tier.tolist(), strict=True):
            of_layer[b, step + 1 :] = to
        of_layer[gone[layer]] = ABSENT
        if instance.inclusive:
            of_layer[passing[layer], blocks.born[passing[layer]] + 1] = instance.tiers - 1
    return tier.reshape(-1, steps + 1)


def schedule_of(instance: Instance, tier: Tiers) -> Schedule:
    """Return the schedule of an array of tiers; the inverse of `tiers_of`."""
    blocks = instance.grouping
    of_layers = tier.reshape(instance.layers, blocks.count, -1)
    initial = np.minimum(of_layers[:, blocks.of[: instance.prefill_tokens], 0], instance.tiers - 1)
    return from_tiers(initial, [of_layer[:, 1:].T for of_layer in of_layers], blocks)
