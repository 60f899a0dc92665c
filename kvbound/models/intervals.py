"""The interval form of the program, for two tiers, inclusive copies and promotion on reads.

From an event (the start, its birth, a read) to its next read an item stays in tier 0, or it leaves at once:
moving it in between gains nothing. After its last read it leaves, so that no interval extends beyond its end.
Items of a layer with the same event and the same future reads form a class, and one integer y counts how many
of them stay. The items that stay and that were not in tier 0 are promoted; those whose interval ends in a
slot are its hits; and every interval takes capacity for as long as it lasts. The linear relaxation is at
least as strong as that of `kvbound.models.time_indexed`, with a tenth of the columns. Units are those of
`kvbound.models.coefficients`; equations: "Exact" in docs/methods.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvbound.instance import Instance
from kvbound.models.coefficients import Coefficients
from kvbound.models.integer_hull import affine, hulls
from kvbound.models.sparse import Builder, Floats, Ints, Matrix
from kvbound.rules import Migration
from kvbound.schedule import LayerEvents, Schedule
from kvbound.trace.timeline import Timeline

NONE = -1
"""The class of items that are never read again."""


def supports(instance: Instance) -> bool:
    """Whether this form applies to the instance's rules."""
    return (
        instance.tiers == 2
        and instance.inclusive
        and instance.granularity == 1
        and not instance.chunks.ids
        and instance.rules.migration is Migration.ON_READ
        and not instance.memory.late_tiers
        and not instance.by_step
    )


@dataclass(frozen=True, eq=False)
class LayerClasses:
    """The classes of one layer.

    Attributes
    ----------
    event
        Step of the event, -1 for the start, shape (classes,).
    until
        Step of the next read, shape (classes,).
    size
        Number of items, shape (classes,).
    follows
        Pairs of a class and the one that its items belong to from their next read on, shape (pairs, 2).
    members
        For the start and for every step: the items with an event there and their classes, or NONE.
    """

    event: Ints
    until: Ints
    size: Ints
    follows: Ints
    members: tuple[tuple[Ints, Ints], ...]

    def entries(self, step: int) -> int:
        """Return the largest number of items that can enter tier 0 in a slot."""
        return int(self.size[self.event == step].sum())


def layer_classes(read: NDArray[np.bool_], past: Ints, start: Ints) -> LayerClasses:
    """Divide the items of a layer into classes.

    Parameters
    ----------
    read
        Which past tokens each step reads, shape (steps, tokens).
    past
        Tokens born before each step, and in the end, shape (steps + 1,).
    start
        Prompt tokens that may be in tier 0 at the start.
    """
    future, begins = _futures(read)
    event, until, size, follows = [], [], [], []
    members = []
    current = np.full(read.shape[1], NONE, np.int64)
    count = 0
    for step in range(-1, len(read)):
        if step < 0:
            items = start
        else:
            items = np.append(np.flatnonzero(read[step]), np.arange(past[step], past[step + 1]))
        # no token is read in the step of its birth, so that the items are distinct
        before = current[items].copy()
        kinds, inverse, number = np.unique(future[step + 1, items], return_inverse=True, return_counts=True)
        lasting = kinds > 0
        label = np.full(len(kinds), NONE)
        label[lasting] = count + np.arange(lasting.sum())
        current[items] = label[inverse]
        members.append((items, current[items]))
        event.append(np.full(lasting.sum(), step))
        until.append(begins[kinds[lasting]])
        size.append(number[lasting])
        pairs = np.column_stack([before, current[items]])
        follows.append(np.unique(pairs[(pairs != NONE).all(axis=1)], axis=0))
        count += int(lasting.sum())
    return LayerClasses(
        np.concatenate(event),
        np.concatenate(until),
        np.concatenate(size),
        np.concatenate(follows),
        tuple(members),
    )


def _futures(read: NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """Number the different sets of future reads, 0 for none.

    Returns
    -------
    future
        The number of every item before every step, shape (1 + steps, tokens).
    begins
        Step of the first read in each set, shape (sets,).
    """
    steps, tokens = read.shape
    future = np.zeros((steps + 1, tokens), np.int64)
    begins = [np.array([steps])]
    known = 1
    for step in range(steps - 1, -1, -1):
        future[step] = future[step + 1]
        items = np.flatnonzero(read[step])
        kinds, inverse = np.unique(future[step + 1, items], return_inverse=True)
        future[step, items] = known + inverse
        known += len(kinds)
        begins.append(np.full(len(kinds), step))
    return future, np.concatenate(begins)


def classes(coefficients: Coefficients, layer: int) -> LayerClasses:
    """Return the classes of a layer; a forced fill determines the prompt tokens that start in tier 0."""
    instance, prompt = coefficients.instance, coefficients.prompt
    prefill = instance.prefill_tokens
    inside = np.arange(prefill) if prompt is None else np.flatnonzero(prompt[layer] == 0)
    return layer_classes(instance.trace.past_reads(layer), instance.timeline.past, inside)


class Intervals:
    """The program as sparse arrays.

    Parameters
    ----------
    instance
        One for which `supports` is true.
    cuts
        Bound the time of each slot by its integer hull instead of its facets.
    """

    def __init__(self, instance: Instance, *, cuts: bool = True) -> None:
        self.instance, self.coefficients = instance, Coefficients.of(instance)
        self.layers = [classes(self.coefficients, layer) for layer in range(instance.layers)]
        self._hull = hulls(*self.coefficients.slot_terms)
        self._build = Builder()
        self._add_slots()
        self.y = [self._add_classes(layer) for layer in range(instance.layers)]
        self._add_occupancy()
        for step in range(instance.decode_steps):
            for layer in range(instance.layers):
                self._add_times(step, layer, cuts=cuts)
        self.matrix: Matrix = self._build.build()

    @property
    def unit_s(self) -> float:
        """Seconds per unit of the objective."""
        return self.coefficients.unit_s

    def slot_hull(self, step: int, layer: int) -> Floats:
        """Return the integer hull of a slot's time, as rows of (1, misses, entries)."""
        reads, births = self.coefficients.read_counts[step, layer], self.instance.timeline.births[step]
        return self._hull(layer, int(reads), int(births), self.layers[layer].entries(step))

    def _add_slots(self) -> None:
        """Columns of every slot: its time, hits, entries into tier 0, and units held there after it."""
        instance, build = self.instance, self._build
        shape = (instance.decode_steps, instance.layers)
        slots = np.argwhere(np.ones(shape, bool))
        ideal, reads = self.coefficients.ideal.ravel(), self.coefficients.read_counts.ravel()
        self.time = build.add_columns("time", slots, lower=ideal, cost=1.0).reshape(shape)
        self.hits = build.add_columns("hits", slots, upper=reads, integer=True).reshape(shape)
        self.enter = build.add_columns("enter", slots).reshape(shape)
        capacity = instance.capacity_units[0]
        assert capacity is not None  # only the last tier may be unlimited
        # the start counts as the slot before the first one
        self.held = build.add_columns("held", [[-1, instance.layers - 1], *slots.tolist()], upper=capacity)
        self.sum_hits = build.add_rows("sum_hits", slots, lower=0.0, upper=0.0).reshape(shape)
        self.sum_enter = build.add_rows("sum_enter", slots, lower=0.0, upper=0.0).reshape(shape)
        build.put(self.sum_hits, self.hits, 1.0)
        build.put(self.sum_enter, self.enter, 1.0)

    def _add_classes(self, layer: int) -> Ints:
        """Columns y and p of the classes of a layer, and their part in its hits and entries."""
        groups, build, fixed = self.layers[layer], self._build, self.coefficients.prompt is not None
        number = np.arange(len(groups.event))
        keys = np.column_stack([np.full(len(number), layer), number])
        # with a forced fill, items read in the first step cannot leave before
        forced = (groups.event < 0) & (groups.until == 0) & fixed
        y = build.add_columns(
            "stay", keys, lower=np.where(forced, groups.size, 0), upper=groups.size, integer=True
        )
        later = groups.event >= 0
        p = build.add_columns("promote", keys[later], upper=groups.size[later])
        rows = np.full(len(number), NONE)
        rows[later] = build.add_rows("new", keys[later], lower=0.0)
        build.put(rows[later], p, 1.0)
        build.put(rows[later], y[later], -1.0)
        build.put(rows[groups.follows[:, 1]], y[groups.follows[:, 0]], 1.0)
        build.put(self.sum_hits[groups.until, layer], y, -1.0)
        build.put(self.sum_enter[groups.event[later], layer], p, -1.0)
        return y

    def _add_occupancy(self) -> None:
        """Rows that count the units in tier 0: the intervals that have begun less those that have ended."""
        build, instance, prompt = self._build, self.instance, self.coefficients.prompt
        slots = np.argwhere(np.ones((instance.decode_steps, instance.layers), bool))
        change = np.zeros(instance.slots + 1)
        if prompt is not None:  # a forced fill takes its capacity until the first slot of its layer
            inside = np.count_nonzero(prompt == 0, axis=1) * instance.units
            change[0], change[1 : instance.layers + 1] = inside.sum(), -inside
        keys = [[-1, instance.layers - 1], *slots.tolist()]
        rows = build.add_rows("count", keys, lower=change, upper=change)
        build.put(rows, self.held, 1.0)
        build.put(rows[1:], self.held[:-1], -1.0)
        for layer, (groups, y) in enumerate(zip(self.layers, self.y, strict=True)):
            begin = np.where(groups.event < 0, 0, groups.event * instance.layers + layer + 1)
            end = groups.until * instance.layers + layer + 1
            if prompt is not None:
                begin = np.where(groups.event < 0, layer + 1, begin)
            build.put(rows[begin], y, -float(instance.units[layer]))
            build.put(rows[end], y, float(instance.units[layer]))

    def _add_times(self, step: int, layer: int, *, cuts: bool) -> None:
        """Rows that bound the time of a slot from below, by its integer hull or by its facets."""
        coefficients, build = self.coefficients, self._build
        reads, births = int(coefficients.read_counts[step, layer]), int(self.instance.timeline.births[step])
        if cuts:
            name, bounds = "whole", self.slot_hull(step, layer)
        else:
            name, (facets, weights, sizes) = "facet", coefficients.slot_terms
            bounds = affine(facets, float(weights[layer]), float(sizes[layer]), reads, births)
        if not len(bounds):
            return
        least, miss, entry = bounds.T
        keys = [[step, layer, n] for n in range(len(bounds))]
        rows = build.add_rows(name, keys, lower=least + miss * reads)
        build.put(rows, self.time[step, layer], 1.0)
        build.put(rows, self.hits[step, layer], miss)
        build.put(rows, self.enter[step, layer], -entry)

    def schedule(self, values: NDArray[np.float64]) -> Schedule:
        """Return the schedule of an integer solution, shape (columns,)."""
        initial, events = [], []
        for layer, (groups, y) in enumerate(zip(self.layers, self.y, strict=True)):
            prompt, of_layer = self._layer_schedule(groups, np.rint(values[y]).astype(np.int64), layer)
            initial.append(prompt)
            events.append(of_layer)
        return Schedule(np.array(initial, np.uint8), tuple(events))

    def windows(self, most: int) -> Iterator[Ints]:
        """Yield the columns y of the intervals in overlapping windows of steps, about `most` columns each."""
        columns = np.concatenate(self.y)
        event, until = (
            np.concatenate([getattr(groups, name) for groups in self.layers]) for name in ("event", "until")
        )
        width = max(2, most * self.instance.decode_steps // max(len(columns), 1))
        for first in range(-1, self.instance.decode_steps, width // 2):
            yield columns[(event < first + width) & (until >= first)]

    def _layer_schedule(
        self, groups: LayerClasses, keep: Ints, layer: int
    ) -> tuple[NDArray[np.uint8], LayerEvents]:
        """Initial tiers and events of a layer if `keep` items of each class stay, those in tier 0 first."""
        instance, prompt, timeline = self.instance, self.coefficients.prompt, self.instance.timelines[layer]
        prefill = instance.prefill_tokens
        inside = np.zeros(instance.tokens, bool)
        items, label = groups.members[0]
        inside[items] = _chosen(label, inside[items], keep)
        initial = (~inside[:prefill]).astype(np.uint8) if prompt is None else prompt[layer]
        # items of a forced fill that do not stay leave in the first slot of the layer, or end there
        leave = np.flatnonzero((initial == 0) & ~inside[:prefill] & (timeline.ends[:prefill] > 0))
        parts: list[tuple[Ints, Ints]] = []
        outside = []
        for step, (items, label) in enumerate(groups.members[1:]):
            stay = _chosen(label, inside[items], keep)
            newborn = items >= timeline.past[step]
            moved = items[(inside[items] != stay) & ~newborn & (timeline.ends[items] > step)]
            inside[items] = stay
            tokens = np.concatenate([leave, moved, items[newborn]])
            leave = leave[:0]
            parts.append((np.full(len(tokens), step), tokens))
            outside.append(~inside[tokens])
        step_of, token = (np.concatenate(part) for part in zip(*parts, strict=True))
        return initial, LayerEvents.of(step_of, token, np.concatenate(outside))

    def start(self, schedule: Schedule) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Return the columns y, and their values for a schedule."""
        columns, values = [], []
        for layer, (groups, y) in enumerate(zip(self.layers, self.y, strict=True)):
            tier = residency(schedule, layer, self.instance.timeline)
            stayed = np.zeros(len(y))
            for event, (items, label) in enumerate(groups.members):
                items, label = items[label != NONE], label[label != NONE]
                stays = (tier[event, items] == 0) & (tier[groups.until[label], items] == 0)
                np.add.at(stayed, label[stays], 1)
            columns.append(y)
            values.append(stayed)
        return np.concatenate(columns).astype(np.int32), np.concatenate(values)


def _chosen(label: Ints, inside: NDArray[np.bool_], keep: Ints) -> NDArray[np.bool_]:
    """Which of an event's items stay: `keep` of each class, those in tier 0 first."""
    order = np.lexsort((~inside, label))
    ranked = label[order]
    rank = np.arange(len(order)) - np.searchsorted(ranked, ranked)
    most = np.append(keep, 0)  # none of the class NONE
    stay = np.zeros(len(label), bool)
    stay[order] = rank < most[ranked]
    return stay


def residency(schedule: Schedule, layer: int, timeline: Timeline) -> NDArray[np.uint8]:
    """Return the tiers of a layer's tokens at the start and after each slot, shape (1 + steps, tokens).

    A token keeps its last tier after its end.
    """
    events = schedule.events[layer]
    tier = np.zeros((timeline.steps + 1, timeline.tokens), np.uint8)
    tier[:, : timeline.prefill_tokens] = schedule.initial[layer]
    for step, token, to in zip(events.step, events.token, events.tier, strict=True):
        tier[step + 1 :, token] = to
    return tier
