"""The placement problem by stays, for reads that promote and inclusive copies of two tiers.

Between two reads nothing is worth moving: an item either stays in tier 0 from an event (the start,
its birth, a read) to its next read, or it leaves at once. Items of a layer with the same event and the
same reads to come are alike, so one whole number y says how many of them stay. Promotions are the
stays that no stay ending at their event goes on into; hits are the stays that end in a slot; a stay
takes room in every slot it covers. The linear relaxation is at least as strong as that of
`kvbound.models.time_indexed`, with a tenth of the columns. Units are those of `kvbound.models.coefficients`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvbound.instance import Instance, Migration
from kvbound.models.coefficients import Facts
from kvbound.models.integer_hull import affine, hulls
from kvbound.models.sparse import Builder, Ints, Matrix
from kvbound.schedule import LayerEvents, Schedule

NONE = -1


def supports(instance: Instance) -> bool:
    """Whether the instance's rules are those of this form."""
    return (
        instance.tiers == 2
        and instance.inclusive
        and instance.granularity == 1
        and instance.rules.migration is Migration.ON_READ
        and not any(tier.latency for tier in instance.memory.tiers)
    )


@dataclass(frozen=True, eq=False)
class LayerStays:
    """The classes of one layer: items alike from an event on.

    Attributes
    ----------
    event
        Step of the event, -1 for the start, shape (classes,).
    until
        Step of the next read, shape (classes,).
    size
        How many items, shape (classes,).
    follows
        Pairs (class, class that some of its items go on into), shape (pairs, 2).
    members
        Per event, from the start on: the items and their classes (NONE if never read again).
    """

    event: Ints
    until: Ints
    size: Ints
    follows: Ints
    members: tuple[tuple[Ints, Ints], ...]

    def entries(self, step: int) -> int:
        """Return how many items can at most enter tier 0 in a slot."""
        return int(self.size[self.event == step].sum())


def layer_stays(read: NDArray[np.bool_], prefill: int, start: Ints) -> LayerStays:
    """Sort a layer's items into classes.

    Parameters
    ----------
    read
        Which tokens each step reads, shape (steps, tokens).
    prefill
        Prompt tokens.
    start
        Prompt tokens that may be in tier 0 at the start.
    """
    future, begins = _futures(read)
    event, until, size, follows = [], [], [], []
    members = []
    current = np.full(read.shape[1], NONE, np.int64)
    count = 0
    for step in range(-1, len(read)):
        items = start if step < 0 else np.append(np.flatnonzero(read[step]), prefill + step)
        # the newborn's own read is none, so the event's items are all different
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
    return LayerStays(
        np.concatenate(event),
        np.concatenate(until),
        np.concatenate(size),
        np.concatenate(follows),
        tuple(members),
    )


def _futures(read: NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """Number the sets of reads to come, 0 for none.

    Returns
    -------
    future
        Of every item before every step, shape (1 + steps, tokens).
    begins
        Step of the first read of each number, shape (numbers,).
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


def classes(facts: Facts, layer: int) -> LayerStays:
    """Return a layer's classes; a forced fill decides which prompt tokens start in tier 0."""
    instance, prompt = facts.instance, facts.prompt
    prefill = instance.prefill_tokens
    inside = np.arange(prefill) if prompt is None else np.flatnonzero(prompt[layer] == 0)
    return layer_stays(instance.trace.past_reads(layer), prefill, inside)


class Stays:
    """The program as sparse arrays; see the module.

    Parameters
    ----------
    instance
        One that this form `supports` to.
    cuts
        Bound each slot's time by its hull over whole counts, not by its facets.
    """

    def __init__(self, instance: Instance, *, cuts: bool = True) -> None:
        self.instance, self.facts = instance, Facts.of(instance)
        self.layers = [classes(self.facts, layer) for layer in range(instance.layers)]
        self.hull = hulls(self.facts.facets, self.facts.weights)
        self._build = Builder()
        self._add_slots()
        self.y = [self._add_stays(layer) for layer in range(instance.layers)]
        self._add_room()
        for step in range(instance.decode_steps):
            for layer in range(instance.layers):
                self._add_times(step, layer, cuts=cuts)
        self.matrix: Matrix = self._build.build()

    @property
    def unit_s(self) -> float:
        """Seconds per unit of the objective."""
        return self.facts.unit_s

    def _add_slots(self) -> None:
        """Columns of every slot: time, hits, writes into tier 0, items held after it."""
        instance, build = self.instance, self._build
        shape = (instance.decode_steps, instance.layers)
        slots = np.argwhere(np.ones(shape, bool))
        ideal, reads = self.facts.ideal.ravel(), self.facts.counts.ravel()
        self.time = build.add_columns("time", slots, lower=ideal, cost=1.0).reshape(shape)
        self.hits = build.add_columns("hits", slots, upper=reads, integer=True).reshape(shape)
        self.enter = build.add_columns("enter", slots).reshape(shape)
        room = instance.capacity_blocks[0]
        assert room is not None  # only the last tier may be unlimited
        # the first is the start, as if it were the slot before all
        self.held = build.add_columns("held", [[-1, instance.layers - 1], *slots.tolist()], upper=room)
        self.sum_hits = build.add_rows("sum_hits", slots, lower=0.0, upper=0.0).reshape(shape)
        self.sum_enter = build.add_rows("sum_enter", slots, lower=0.0, upper=0.0).reshape(shape)
        build.put(self.sum_hits, self.hits, 1.0)
        build.put(self.sum_enter, self.enter, 1.0)

    def _add_stays(self, layer: int) -> Ints:
        """Columns y and p of a layer's classes, and what they say of its slots."""
        stays, build, fixed = self.layers[layer], self._build, self.facts.prompt is not None
        number = np.arange(len(stays.event))
        keys = np.column_stack([np.full(len(number), layer), number])
        # what a forced fill puts there for a read in the very first step is there
        forced = (stays.event < 0) & (stays.until == 0) & fixed
        y = build.add_columns(
            "stay", keys, lower=np.where(forced, stays.size, 0), upper=stays.size, integer=True
        )
        later = stays.event >= 0
        p = build.add_columns("promote", keys[later], upper=stays.size[later])
        rows = np.full(len(number), NONE)
        rows[later] = build.add_rows("new", keys[later], lower=0.0)
        build.put(rows[later], p, 1.0)
        build.put(rows[later], y[later], -1.0)
        build.put(rows[stays.follows[:, 1]], y[stays.follows[:, 0]], 1.0)
        build.put(self.sum_hits[stays.until, layer], y, -1.0)
        build.put(self.sum_enter[stays.event[later], layer], p, -1.0)
        return y

    def _add_room(self) -> None:
        """Rows that count the items in tier 0: held before, plus stays that begin, less those that end."""
        build, instance, prompt = self._build, self.instance, self.facts.prompt
        slots = np.argwhere(np.ones((instance.decode_steps, instance.layers), bool))
        change = np.zeros(instance.slots + 1)
        if prompt is not None:  # a forced fill holds its room until its layer's first slot
            inside = np.count_nonzero(prompt == 0, axis=1)
            change[0], change[1 : instance.layers + 1] = inside.sum(), -inside
        keys = [[-1, instance.layers - 1], *slots.tolist()]
        rows = build.add_rows("count", keys, lower=change, upper=change)
        build.put(rows, self.held, 1.0)
        build.put(rows[1:], self.held[:-1], -1.0)
        for layer, (stays, y) in enumerate(zip(self.layers, self.y, strict=True)):
            begin = np.where(stays.event < 0, 0, stays.event * instance.layers + layer + 1)
            end = stays.until * instance.layers + layer + 1
            if prompt is not None:
                begin = np.where(stays.event < 0, layer + 1, begin)
            build.put(rows[begin], y, -1.0)
            build.put(rows[end], y, 1.0)

    def _add_times(self, step: int, layer: int, *, cuts: bool) -> None:
        """A slot takes at least what each facet, or the hull over whole counts, says of its traffic."""
        facts, build = self.facts, self._build
        reads = int(facts.counts[step, layer])
        if cuts:
            name, bounds = "whole", self.hull(layer, reads, self.layers[layer].entries(step))
        else:
            name, bounds = "facet", affine(facts.facets, float(facts.weights[layer]), reads)
        if not len(bounds):
            return
        least, miss, entry = bounds.T
        keys = [[step, layer, n] for n in range(len(bounds))]
        rows = build.add_rows(name, keys, lower=least + miss * reads)
        build.put(rows, self.time[step, layer], 1.0)
        build.put(rows, self.hits[step, layer], miss)
        build.put(rows, self.enter[step, layer], -entry)

    def schedule(self, values: NDArray[np.float64]) -> Schedule:
        """Return the schedule that a whole solution stands for."""
        initial, events = [], []
        for layer, (stays, y) in enumerate(zip(self.layers, self.y, strict=True)):
            begin, happened = self._play(stays, np.rint(values[y]).astype(np.int64), layer)
            initial.append(begin)
            events.append(happened)
        return Schedule(np.array(initial, np.uint8), tuple(events))

    def stretches(self, most: int) -> Iterator[Ints]:
        """Yield the columns y that touch a stretch of steps, about `most` each, the stretches overlapping."""
        columns = np.concatenate(self.y)
        event, until = (
            np.concatenate([getattr(stays, name) for stays in self.layers]) for name in ("event", "until")
        )
        width = max(2, most * self.instance.decode_steps // max(len(columns), 1))
        for first in range(-1, self.instance.decode_steps, width // 2):
            yield columns[(event < first + width) & (until >= first)]

    def _play(self, stays: LayerStays, keep: Ints, layer: int) -> tuple[NDArray[np.uint8], LayerEvents]:
        """Let `keep` items of each class stay, those in tier 0 first; return the start and the events."""
        instance, prompt = self.instance, self.facts.prompt
        prefill = instance.prefill_tokens
        inside = np.zeros(instance.tokens, bool)
        items, label = stays.members[0]
        inside[items] = _chosen(label, inside[items], keep)
        initial = (~inside[:prefill]).astype(np.uint8) if prompt is None else prompt[layer]
        # a forced fill's items that do not stay leave in the layer's first slot
        leave = np.flatnonzero((initial == 0) & ~inside[:prefill])
        happened: list[tuple[Ints, Ints]] = []
        outside = []
        for step, (items, label) in enumerate(stays.members[1:]):
            stay = _chosen(label, inside[items], keep)
            newborn = items == prefill + step
            moved = items[(inside[items] != stay) & ~newborn]
            inside[items] = stay
            tokens = np.concatenate([leave, moved, items[newborn]])
            leave = leave[:0]
            happened.append((np.full(len(tokens), step), tokens))
            outside.append(~inside[tokens])
        step_of, token = (np.concatenate(parts) for parts in zip(*happened, strict=True))
        return initial, LayerEvents.of(step_of, token, np.concatenate(outside))

    def start(self, schedule: Schedule) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Return the columns y and their values that a schedule stands for."""
        columns, values = [], []
        for layer, (stays, y) in enumerate(zip(self.layers, self.y, strict=True)):
            tier = residency(schedule, layer, self.instance.decode_steps)
            stayed = np.zeros(len(y))
            for event, (items, label) in enumerate(stays.members):
                items, label = items[label != NONE], label[label != NONE]
                whole = (tier[event, items] == 0) & (tier[stays.until[label], items] == 0)
                np.add.at(stayed, label[whole], 1)
            columns.append(y)
            values.append(stayed)
        return np.concatenate(columns).astype(np.int32), np.concatenate(values)


def _chosen(label: Ints, inside: NDArray[np.bool_], keep: Ints) -> NDArray[np.bool_]:
    """Which of the event's items stay: `keep` of each class, those in tier 0 first."""
    order = np.lexsort((~inside, label))
    ranked = label[order]
    rank = np.arange(len(order)) - np.searchsorted(ranked, ranked)
    most = np.append(keep, 0)  # NONE keeps nobody
    stay = np.zeros(len(label), bool)
    stay[order] = rank < most[ranked]
    return stay


def residency(schedule: Schedule, layer: int, steps: int) -> NDArray[np.uint8]:
    """Tier of each of a layer's tokens at the start and after each slot, shape (1 + steps, tokens)."""
    events, prefill = schedule.events[layer], schedule.prefill_tokens
    tier = np.zeros((steps + 1, prefill + steps), np.uint8)
    tier[:, :prefill] = schedule.initial[layer]
    for step, token, to in zip(events.step, events.token, events.tier, strict=True):
        tier[step + 1 :, token] = to
    return tier
