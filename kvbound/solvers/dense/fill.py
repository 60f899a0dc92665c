"""Schedules where every slot reads all tokens: what matters is how many of them each tier holds.

The slot time as a function of these numbers determines them: one token after the other goes to the tier where
it prolongs the slot least, the fastest of several. Each layer has its share of every tier's room, so that all
layers keep within the capacities at all times.

Equations: "Dense reads" in docs/methods.md.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kvbound.cost.slot import SlotCost, set_number
from kvbound.cost.traffic import Columns, fixed_traffic
from kvbound.initial import forced_fill
from kvbound.instance import Instance
from kvbound.rules import Initial, Migration
from kvbound.schedule import LayerEvents, Schedule
from kvbound.solvers.dense.items import layers_differ_in_weights_at_most
from kvbound.trace.timeline import Timeline

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_EQUAL = 1 + 1e-12
"""Ratio up to which slot times are equal."""


def supports(instance: Instance) -> bool:
    """Whether numbers of tokens describe schedules."""
    return layers_differ_in_weights_at_most(instance)


def schedules(instance: Instance) -> Iterator[Schedule]:
    """Yield schedules without moves, and with those that follow ends and a forced start, if there are any."""
    timeline = instance.token_timelines[0]
    may_move = instance.rules.migration is not Migration.NONE
    moving = not timeline.all_stay or instance.rules.initial is Initial.PREFILL_FIRST
    for moves in (False, True)[: 1 + (may_move and moving)]:
        yield _schedule(instance, timeline, moves=moves)


def _schedule(instance: Instance, timeline: Timeline, *, moves: bool) -> Schedule:
    """Return the schedule in which each layer fills its share of the tiers."""
    forced = forced_fill(instance) if instance.rules.initial is Initial.PREFILL_FIRST else None
    known: dict[bytes, tuple[NDArray[np.uint8], LayerEvents]] = {}
    layers = []
    for layer, room in enumerate(_rooms(instance)):
        start = None if forced is None else forced[layer]
        weight = float(instance.weight_reads[layer])
        key = room.tobytes() + repr(weight).encode() + (b"" if start is None else start.tobytes())
        if key not in known:
            order = _order(instance, layer, room)
            known[key] = _Plan(timeline, instance.tiers, order, moves=moves).events(start)
        layers.append(known[key])
    return Schedule(np.stack([initial for initial, _ in layers]), tuple(events for _, events in layers))


def _rooms(instance: Instance) -> Ints:
    """Return each layer's share of the tiers' room in items, as a fill in turn divides it, (layers, K)."""
    most, layer = instance.layers * instance.tokens, np.arange(instance.layers)
    room = [most if limit is None else min(limit, most) for limit in instance.capacity_units]
    if instance.inclusive:
        room[-1] = most
    edges = np.concatenate([[0], np.cumsum(room)])
    items_before = (edges - layer[:, None] + instance.layers - 1) // instance.layers
    return np.diff(items_before, axis=1)


def _order(instance: Instance, layer: int, room: Ints) -> NDArray[np.uint8]:
    """Return the tier of the first, second, ... token of a layer that exist at a time, (most tokens,).

    Where tiers have latencies, those are used that make all slots together shortest.
    """
    live, tiers = instance.token_timelines[0].live, range(instance.tiers)
    most, cost = int(live.max()), _layer_cost(instance)
    births = instance.timeline.births
    weight = instance.weight_reads.mean() if instance.by_step else instance.weight_reads[layer]
    weights = np.full(len(births), weight)
    base = fixed_traffic(instance, weights, births, instance.item_bytes[layer]).mean(axis=0)
    chosen, least = None, np.inf
    sizes = tiers if cost.latency.any() else tiers[-1:]
    for size in sizes:
        for some in itertools.combinations(tiers, size + 1):
            if room[list(some)].sum() < most:
                continue
            order = _fill(cost, base, int(instance.item_bytes[layer]), room, some, most)
            if len(sizes) == 1:
                return order
            held = np.stack([np.concatenate([[0], np.cumsum(order == k)]) for k in tiers], axis=1)
            traffic = np.repeat(base[None], len(held), axis=0)
            Columns.of(traffic).reads[:] = held * instance.item_bytes[layer]
            total = float(cost.times(traffic)[live[:-1]].sum())
            if total < least:
                chosen, least = order, total
    assert chosen is not None  # all tiers together have room
    return chosen


def _layer_cost(instance: Instance) -> SlotCost:
    """Return the slot cost of a layer: of equal layers whose transfers overlap, each has a part of a wait."""
    cost = SlotCost.of(instance)
    if not instance.by_step:
        return cost
    tiers = [dataclasses.replace(tier, latency=tier.latency / instance.layers) for tier in cost.memory.tiers]
    return dataclasses.replace(cost, memory=dataclasses.replace(cost.memory, tiers=tuple(tiers)))


def _fill(
    cost: SlotCost, base: Floats, size: int, room: Ints, tiers: tuple[int, ...], most: int
) -> NDArray[np.uint8]:
    """Add tokens one by one, each to the tier where it prolongs a slot least; return their tiers, (most,)."""
    facets = cost.facets
    reading = np.isin(np.arange(cost.tiers), tiers)
    reading[0] |= base[cost.tiers] > 0  # weights
    level = (facets * base).sum(axis=1) + cost.facet_waits[:, set_number(reading)]
    step = size * facets[:, list(tiers)].T  # (tiers, facets)
    left, order = room[list(tiers)].tolist(), np.empty(most, np.uint8)
    open_tiers = np.array([n for n, free in enumerate(left) if free])
    for n in range(most):
        times = (level + step[open_tiers]).max(axis=1)
        best = int(open_tiers[int((times <= times.min() * _EQUAL).argmax())])
        level = level + step[best]
        order[n] = tiers[best]
        left[best] -= 1
        if not left[best]:
            open_tiers = open_tiers[open_tiers != best]
    return order


@dataclass(eq=False)
class _Plan:
    """The tokens of a layer over all steps.

    Attributes
    ----------
    order
        Tier of the n-th token that exists at a time; see `_order`.
    moves
        Whether tokens may move.
    """

    timeline: Timeline
    tiers: int
    order: NDArray[np.uint8]
    moves: bool
    step: list[int] = field(default_factory=list)
    token: list[int] = field(default_factory=list)
    tier: list[int] = field(default_factory=list)

    def events(self, start: NDArray[np.uint8] | None) -> tuple[NDArray[np.uint8], LayerEvents]:
        """Return the initial tiers, given if they are forced, and the events."""
        timeline, prompt = self.timeline, self.timeline.prefill_tokens
        initial = np.sort(self.order[:prompt]) if start is None else start
        if timeline.all_stay and not self.moves and start is None:
            born = timeline.born[prompt:]
            return initial, LayerEvents.of(born, np.arange(prompt, timeline.tokens), self.order[prompt:])
        self._follow(initial)
        return initial, LayerEvents.of(self.step, self.token, self.tier)

    def _follow(self, initial: NDArray[np.uint8]) -> None:
        """Keep the numbers in tiers near those of the order; of tokens that are alike the oldest moves."""
        timeline = self.timeline
        targets = np.stack([np.concatenate([[0], np.cumsum(self.order == k)]) for k in range(self.tiers)], 1)
        ends, live, past = timeline.ends.tolist(), timeline.live.tolist(), timeline.past.tolist()
        held: list[dict[int, deque[int]]] = [{} for _ in range(self.tiers)]
        count = np.zeros(self.tiers, np.int64)
        for token, k in enumerate(initial.tolist()):
            held[k].setdefault(ends[token], deque()).append(token)
            count[k] += 1
        for step in range(timeline.steps):
            for k, by_end in enumerate(held):
                count[k] -= len(by_end.pop(step, ()))
            missing = (targets[live[step + 1]] - count).tolist()
            births = range(past[step], past[step + 1])
            lasting = [token for token in births if ends[token] > step]
            entry = dict.fromkeys(births, self.tiers - 1)
            spread = [k for k in range(self.tiers) for _ in range(max(missing[k], 0))]
            for token, k in zip(lasting, spread, strict=False):
                entry[token], missing[k] = k, missing[k] - 1
            if self.moves:
                self._move(step, held, count, missing)
            for token, k in entry.items():
                self._add(step, token, k)
                if ends[token] > step:
                    held[k].setdefault(ends[token], deque()).append(token)
                    count[k] += 1

    def _move(self, step: int, held: list[dict[int, deque[int]]], count: Ints, missing: list[int]) -> None:
        """Move tokens from tiers that hold too many to those that hold too few, the last to end first."""
        for to in range(self.tiers):
            for source in range(self.tiers):
                while missing[to] > 0 and missing[source] < 0:
                    by_end = held[source]
                    end = max(end for end, tokens in by_end.items() if tokens)
                    token = by_end[end].popleft()
                    held[to].setdefault(end, deque()).append(token)
                    self._add(step, token, to)
                    count[source] -= 1
                    count[to] += 1
                    missing[source] += 1
                    missing[to] -= 1

    def _add(self, step: int, token: int, tier: int) -> None:
        self.step.append(step)
        self.token.append(token)
        self.tier.append(tier)
