"""The ideal: a time lower bound that ignores the constraints on placement."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvbound.arithmetic import combine
from kvbound.cost.ideal_cases import ideal_cases
from kvbound.cost.slot import SlotCost
from kvbound.cost.traffic import Columns, fixed_traffic, require_physical
from kvbound.instance import Instance
from kvbound.trace.timeline import MAX_TOKENS

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Slots(NamedTuple):
    """What slots read, in arrays of one shape: a slot's ideal depends on nothing else.

    Where the transfers of a step overlap, it stands for its slots, with units of KV in place of tokens.

    Attributes
    ----------
    reads
        Reads of past tokens.
    births
        Tokens born.
    arriving
        Tokens of arriving prompts among them.
    weights
        Bytes of weights.
    sizes
        Bytes of a token's KV.
    """

    reads: Ints
    births: Ints
    arriving: Ints
    weights: Floats
    sizes: Ints

    def part(self, some: Any) -> Slots:
        """Return some of the slots."""
        return Slots(
            self.reads[some], self.births[some], self.arriving[some], self.weights[some], self.sizes[some]
        )

    @classmethod
    def of(cls, instance: Instance) -> Slots:
        """Return all slots of an instance, shape (steps, layers), or all steps, (steps, 1)."""
        if not instance.by_step:
            return cls.by_layer(instance)
        slots, units = cls.by_layer(instance), instance.units
        reads, births, arriving = (
            instance.timed(each * units) for each in (slots.reads, slots.births, slots.arriving)
        )
        weights = instance.timed(slots.weights)
        return cls(reads, births, arriving, weights, np.full(weights.shape, instance.unit_sizes[0]))

    @classmethod
    def by_layer(cls, instance: Instance) -> Slots:
        """Return all slots of an instance, shape (steps, layers)."""
        reads, timeline = instance.read_counts(), instance.timeline
        born = timeline.births[:, None], (timeline.births - timeline.outputs)[:, None]
        births, arriving = (np.broadcast_to(each, reads.shape) for each in born)
        weights = np.broadcast_to(instance.weight_reads, reads.shape)
        return cls(reads, births, arriving, weights, np.broadcast_to(instance.item_bytes, reads.shape))

    @classmethod
    def kinds(cls, instance: Instance) -> tuple[Slots, Ints]:
        """Return the different slots of an instance, or steps, and the number of each, shape (kinds,)."""
        if instance.by_step:
            steps = cls.of(instance)
            _, first, often = np.unique(
                np.column_stack([*map(np.ravel, steps)]), axis=0, return_index=True, return_counts=True
            )
            return steps.part((first, 0)), often
        layers = np.stack([instance.weight_reads, instance.item_bytes])
        layers, of_layer = np.unique(layers, axis=1, return_inverse=True)
        born, stride = instance.timeline.births, MAX_TOKENS + 1
        pairs, of_step = np.unique(
            born * stride + born - instance.timeline.outputs, return_inverse=True
        )  # of births and arriving tokens
        other = of_step[:, None] * layers.shape[1] + of_layer
        kinds = len(pairs) * layers.shape[1]
        found, counts = np.unique(instance.read_counts() * kinds + other, return_counts=True)
        of_step, of_layer = np.divmod(found % kinds, layers.shape[1])
        births, arriving = np.divmod(pairs[of_step], stride)
        weights, sizes = layers[:, of_layer]
        return cls(found // kinds, births, arriving, weights, sizes.astype(np.int64)), counts


class SlotIdeal(NamedTuple):
    """The ideal of slots: which tiers serve their reads, and what proves the time.

    Attributes
    ----------
    time
        Seconds, in the shape of the slots.
    case, row
        Numbers in `ideal_cases`, and in that case's rows, in the same shape.
    """

    time: Floats
    case: Ints
    row: Ints


def ideal_slot_times(instance: Instance) -> Floats:
    """Seconds per slot without constraints on placement, or another objective, shape (steps, layers).

    Where the transfers of a step overlap they are those of steps, (steps, 1).

    Every read and every birth is split over the tiers in the way that is best for the slot, which is a lower
    bound for every schedule at any capacity. With inclusive copies and two tiers everything is in tier 0,
    except for births, which are only written through.

    Raises
    ------
    UsageError
        The instance has another accounting.
    """
    require_physical(instance)
    slots = Slots.of(instance)
    return best_ideal(SlotCost.of(instance), slots, ideal_bytes(instance, slots)).time


def best_ideal(cost: SlotCost, slots: Slots, traffic: Floats) -> SlotIdeal:
    """Return the ideal of slots with this traffic, as `ideal_bytes` returns it.

    It is the least over the sets of tiers that may serve reads; weights are read from tier 0.
    """
    best = SlotIdeal(np.full(slots.reads.shape, np.inf), *np.zeros((2, *slots.reads.shape), np.int64))
    reading = slots.reads * slots.sizes > 0
    for number, case in enumerate(ideal_cases(cost)):
        values = combine(case.rows, np.moveaxis(traffic, -1, 0))
        values += case.wait.reshape(-1, *(1,) * reading.ndim)
        allowed = (slots.weights == 0) | case.inside[0]
        allowed &= ~reading | case.inside.any()
        row = values.argmax(axis=0)
        time = np.where(allowed, np.take_along_axis(values, row[None], 0)[0], np.inf)
        better = time < best.time
        found = SlotIdeal(time, np.full_like(row, number), row)
        best = SlotIdeal(*(np.where(better, new, old) for new, old in zip(found, best, strict=True)))
    return best


def ideal_bytes(instance: Instance, slots: Slots) -> Floats:
    """Bytes of slots as `IdealCase.rows` takes them, shape (..., 3K)."""
    traffic = fixed_traffic(instance, slots.weights, slots.births, slots.sizes)
    columns = Columns.of(traffic)
    columns.reads[..., 0] = slots.reads * slots.sizes
    if not instance.inclusive:
        columns.writes[..., 0] = slots.births * slots.sizes
    return traffic


def one_tier_bytes(instance: Instance, slots: Slots, tier: int) -> Floats:
    """Bytes of slots with all KV in one tier, never moved, shape (..., 3K)."""
    traffic = fixed_traffic(instance, slots.weights, slots.births, slots.sizes)
    columns = Columns.of(traffic)
    columns.reads[..., tier] = slots.reads * slots.sizes
    columns.writes[..., tier] = slots.births * slots.sizes
    return traffic


def ideal(instance: Instance) -> float:
    """Return the ideal decode time in seconds, a time lower bound, or the least of another objective."""
    return float(ideal_slot_times(instance).sum())
