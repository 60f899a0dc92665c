"""What annealing searches on: the constants of an instance, and schedules as arrays of tiers.

The *states* of a block are numbered by steps: state 0 is the start, and state i holds after the layer's slot
of step i - 1. A block has states from its birth to its end; the last one of a block that ends in step j is
state j. An *interval* is the run of states from one event of a block (the start, its birth, a read) to its
next read or its end. Moving a block back and forth within an interval gains nothing, so that most moves of
the search change the tier of a whole interval.

A block that ends in the step of its birth never takes up room, but its birth is written to some tier. With
exclusive copies, where any tier may be best, it gets one state, after its birth, which takes up no room; with
inclusive copies its tier is the last one, to which the birth is written in any case.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvbound.blocks import Blocks
from kvbound.cost.ideal import ideal
from kvbound.cost.prices import least_price
from kvbound.cost.slot import SlotCost
from kvbound.cost.transitions import Transitions
from kvbound.errors import UsageError
from kvbound.instance import Instance
from kvbound.rules import Initial, Migration
from kvbound.trace import bits
from kvbound.trace.timeline import Timeline

ABSENT = 255
"""Tier of a block in states that it does not have: before its birth and after its end."""
MAX_BYTES = 2**31
"""Memory that the intervals and one chain may take together."""
PARTIAL_SHARE = 0.15
"""Probability of each of the three kinds of move that change a part of an interval, where that is of use."""
BLOCK, LOW, HIGH, DUE = range(4)
"""Columns of `SearchData.intervals`."""
CARRIED, GROWN = range(2)
"""Columns of `SearchData.tokens`."""
LAYER, LAST, FINAL, ROW, UNITS = range(5)
"""Columns of `SearchData.traits`."""
UNLIMITED = 2**60
"""Capacity, in units, of a tier without a limit."""
EXACT = 2
"""Length of a ramp under which slots wait as they do."""
TICKS_PER_SLOT = 2.0**28
"""Ticks of a slot of mean ideal time."""
MAX_TICKS = 2.0**61
"""Ticks of the slowest schedule."""

MAX_VICTIMS = 3
"""Evictions that one move may make."""
DRAWS = 5 + MAX_VICTIMS
"""Random numbers of a move: its kind, interval, new tier, length, targeted or not, and a start per victim."""
TARGETED_SHARE = 0.8
"""Share of moves that are targeted; see `moves`."""
RUN_SHARE = 0.05
"""Share of moves that change several consecutive intervals of a block."""
MAX_RUN = 4
"""Intervals that such a move changes at the most."""
CANDIDATES = 32
"""Consecutive intervals among which a targeted move looks for one worth moving."""
PROBES = 40
"""Blocks among which a victim is chosen."""
STRIDE = 7919
"""Distance between these blocks, a prime."""

PACKED_DRAWS = 5 + 2 * MAX_VICTIMS
"""Random numbers of a packed move: layer, step, token, targeted or not, length, and two per victim."""
PACKED_CANDIDATES = 16
"""Intervals of a token among which a targeted packed move looks for one worth moving."""
PACKED_PROBES = 64
"""Neighbouring tokens among which a packed move chooses a victim."""
PACKED_TRIES = 64
"""Tokens among which a packed move looks for one that exists."""

Ints = NDArray[np.int64]
Tiers = NDArray[np.uint8]
Counts = NDArray[np.unsignedinteger[Any]]


class SearchData(NamedTuple):
    """Immutable search data; a named tuple, so that compiled code can take it.

    Times are integers, in ticks, so that sums do not depend on the order of their terms. There are few arrays
    on purpose: compiled functions count the references of each at every call.

    Attributes
    ----------
    steps, layers, blocks
        Decode steps, layers, blocks per layer.
    single
        Whether blocks are single tokens.
    inclusive
        Whether births are written to the last tier as well, and moves to it cost nothing.
    legal
        As in `kvbound.cost.transitions.Transitions`.
    movable
        Whether blocks may move after their birth.
    partial_share
        Probability of each kind of move that changes a part of an interval; 0 where that is of no use.
    capacity
        Units that each tier holds, shape (K,).
    units
        Units that an item of each layer takes, 0 if the layer keeps no KV, shape (layers,).
    timed_layers
        Layers with times of their own: all, or 1 if the transfers of a step overlap. *Slots* of counts and
        times are then steps.
    sizes
        What an item of each layer counts as: 1, or its units if the transfers of a step overlap, shape
        (layers,).
    keeps
        Whether slots read any KV, shape (timed layers,).
    reads
        Past items of each block read in each step, and last those among them that a move would carry, shape
        (n, layers * blocks, steps). They differ, and n is 2, only where tokens end before their block.
    tokens
        Items that a move of each block in each step carries, and those born into it, shape
        (blocks, steps, 2), or (layers * blocks, steps, 2) where layers are not alike.
    traits
        Layer of each block, last state in which it takes room, its last interval, its row of `tokens`, and
        the units that it takes, shape (layers * blocks, 5).
    intervals
        Block, first and last state of each interval, in order, and the slot of counts of the read that ends
        it, -1 if none does; shape (intervals, 4).
    interval_of
        Interval of each state, -1 where nothing may change or no room is taken, shape
        (layers * blocks, steps + 1).
    facets, weight_ticks
        Ticks per token of the facets of the slot cost, and of the weights of each layer, by the set of tiers
        whose reads the last tier serves instead (one set where no tier has a latency). The facets are of
        shape (1, sets, V, 3K), or (layers, sets, V, 3K) where items of layers differ in size, the weights of
        shape (timed layers, sets, V). In one more set the last tier serves none, not even in part, where that
        may save its latency.
    diverted
        Which tiers are in each set, and in the last column whether the last tier may serve reads of others,
        shape (sets, K).
    has_weights
        Whether slots read weights, shape (timed layers,).
    waits, has_waits
        Ticks that each facet waits, by the number of the set of tiers that serve reads, shape (V, 2**K), and
        whether there are any; see `SlotCost.waits`.
    ramp
        Share of a tier's wait that is charged for each number of items read there or at later tiers, the last
        one for all higher numbers, shape (n,): with (0, 1) slots wait as they do; see `ramp`.
    tick_s
        Seconds per tick.
    """

    steps: int
    layers: int
    blocks: int
    single: bool
    inclusive: bool
    legal: NDArray[np.bool_]
    movable: bool
    partial_share: float
    capacity: Ints
    units: Ints
    timed_layers: int
    sizes: Ints
    keeps: NDArray[np.bool_]
    reads: Counts
    tokens: Counts
    traits: Ints
    intervals: NDArray[np.int32]
    interval_of: NDArray[np.int32]
    facets: NDArray[np.float64]
    weight_ticks: NDArray[np.float64]
    diverted: NDArray[np.bool_]
    has_weights: NDArray[np.bool_]
    waits: NDArray[np.float64]
    has_waits: bool
    ramp: NDArray[np.float64]
    tick_s: float

    @property
    def tiers(self) -> int:
        """Number of tiers, K."""
        return len(self.capacity)

    @property
    def slots(self) -> int:
        """Slots, steps * layers."""
        return self.steps * self.layers

    @property
    def timed_slots(self) -> int:
        """Slots of counts and times."""
        return self.steps * self.timed_layers


def search_data(instance: Instance) -> SearchData:
    """Return the search data of an instance.

    Raises
    ------
    UsageError
        The instance is too large for an array of the tier of every block in every step.
    InfeasibleError
        Weights or blocks do not fit.
    """
    if too_large(instance):
        raise UsageError(
            f"{instance.name}: annealing keeps the tier of every block in every step and would need "
            f"{_needed_bytes(instance) / 2**30:,.0f} GiB (not for single tokens between two tiers with "
            "inclusive copies, with numba); shorten the trace or coarsen the granularity"
        )
    reads = _block_reads(instance)
    interval_of, intervals = _intervals(instance, reads[0])
    block = np.arange(instance.layers * instance.blocks)
    final = np.searchsorted(intervals[:, BLOCK], block, side="right") - 1
    tokens = _block_tokens(instance, reads.dtype)
    last, units = instance.grouping.last.ravel(), instance.block_units.ravel()
    traits = [block // instance.blocks, last, final, block % len(tokens), units]
    return data_without_blocks(instance)._replace(
        reads=reads,
        tokens=tokens,
        traits=np.stack(traits, axis=1),
        intervals=intervals,
        interval_of=interval_of,
    )


def too_large(instance: Instance) -> bool:
    """Whether an array of the tier of every block in every step would exceed `MAX_BYTES`."""
    return _needed_bytes(instance) > MAX_BYTES


def _needed_bytes(instance: Instance) -> int:
    bytes_each = 10 if _ends_differ(instance.grouping) else 8
    return bytes_each * instance.layers * instance.blocks * (instance.decode_steps + 1)


def _ends_differ(blocks: Blocks) -> bool:
    """Whether some tokens end before their block."""
    pairs = zip(blocks.timelines, blocks.last, strict=True)
    return blocks.size > 1 and any((timeline.ends < last[blocks.of]).any() for timeline, last in pairs)


def data_without_blocks(instance: Instance) -> SearchData:
    """Return the search data with the arrays by block and interval left empty."""
    transitions = Transitions.of(instance)
    limits = instance.capacity_units
    capacity = [
        limit if limit is not None and k in transitions.limited else UNLIMITED
        for k, limit in enumerate(limits)
    ]
    tick_s = _tick_s(instance)
    facets, weight_ticks, diverted, waits = _tick_facets(instance, tick_s)
    movable = bool(transitions.legal.any())
    promotes_unread = bool(transitions.legal[0, -1, 0])
    whole_intervals = not movable or (not promotes_unread and instance.inclusive and instance.tiers == 2)
    return SearchData(
        steps=instance.decode_steps,
        layers=instance.layers,
        blocks=instance.blocks,
        single=instance.granularity == 1,
        inclusive=instance.inclusive,
        legal=transitions.legal,
        movable=movable,
        partial_share=0.0 if whole_intervals else PARTIAL_SHARE,
        capacity=np.array(capacity, np.int64),
        units=instance.units,
        timed_layers=1 if instance.by_step else instance.layers,
        sizes=instance.timed_units,
        keeps=instance.timed(instance.units) > 0,
        reads=np.zeros((1, 0, 0), np.uint16),
        tokens=np.zeros((0, 0, 2), np.uint16),
        traits=np.zeros((0, 5), np.int64),
        intervals=np.zeros((0, 4), np.int32),
        interval_of=np.zeros((0, 0), np.int32),
        facets=facets,
        weight_ticks=weight_ticks,
        diverted=diverted,
        has_weights=instance.timed(instance.weight_reads) > 0,
        waits=waits,
        has_waits=bool(waits.any()),
        ramp=np.array([0.0, 1.0]),
        tick_s=tick_s,
    )


def _tick_s(instance: Instance) -> float:
    """Seconds per tick: fine enough for a slot and an item, and the slowest schedule still fits."""
    cost, size = SlotCost.of(instance), int(instance.item_bytes.max())
    unit = size * least_price(cost.read_costs)
    # the slowest schedule moves every item of every layer in every slot
    item = size * float(cost.read_costs.max() + cost.write_costs.max())
    items = int((instance.live_items[:-1] + instance.timeline.births[:, None]).max())
    slot = items * 2 * item + float(instance.weight_reads.max() * cost.read_costs[0].max())
    worst = instance.slots * (slot + float(cost.latency_costs.sum()))
    return max(max(ideal(instance) / instance.slots, unit) / TICKS_PER_SLOT, worst / MAX_TICKS)


def _tick_facets(
    instance: Instance, tick_s: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]:
    """Facets, ticks of the weights, sets of diverted tiers, and waits; see `SearchData`."""
    cost, last = SlotCost.of(instance), instance.tiers - 1
    # without a latency to save, the facets already contain the best split
    optional = np.flatnonzero(cost.latency[:last]).tolist() if instance.inclusive else []
    sets = [s for size in range(len(optional) + 1) for s in itertools.combinations(optional, size)]
    alone = instance.inclusive and cost.latency[last] > 0
    facets = np.stack([cost.facets] * (len(sets) + alone)) / tick_s
    diverted = np.zeros((len(facets), last + 1), bool)
    for n, tiers_off in enumerate(sets):
        facets[n][:, list(tiers_off)] = facets[n][:, [last]]
        diverted[n, list(tiers_off)] = True
    diverted[: len(sets), last] = instance.inclusive
    if alone:
        facets[-1, :, :last] = facets[-1, :, last + 1 : 2 * last + 1]
    weight_ticks = instance.timed(instance.weight_reads)[:, None, None] * facets[:, :, last + 1]
    sizes = instance.item_bytes[: 1 if instance.uniform else None]
    if instance.by_step:
        sizes = np.array(instance.unit_sizes[:1])
    waits = np.ascontiguousarray(cost.facet_waits) / tick_s
    return facets * sizes[:, None, None, None], weight_ticks, diverted, waits


def _block_reads(instance: Instance) -> Counts:
    """Reads of each block in each step, and where that matters those of the tokens that a move carries."""
    blocks, steps = instance.grouping, instance.decode_steps
    shape = 1 + _ends_differ(blocks), instance.layers, blocks.count, steps
    largest = blocks.size * instance.chunks.largest
    reads = np.empty(shape, np.uint16 if largest < 2**16 else np.uint32 if largest < 2**32 else np.uint64)
    for layer in range(instance.layers):
        past = instance.trace.past_reads(layer)
        for rows in bits.blocks(steps):
            reads[0, layer, :, rows] = blocks.sums(past[rows]).T
            if len(reads) > 1:
                staying = instance.timelines[layer].ends > np.arange(steps)[rows, None]
                reads[1, layer, :, rows] = blocks.sums(past[rows] & staying).T
    if instance.chunks.ids:
        reads *= instance.id_counts[:, blocks.head, None].astype(reads.dtype)
    return reads.reshape(len(reads), -1, steps)


def _block_tokens(instance: Instance, dtype: np.dtype[np.unsignedinteger[Any]]) -> Counts:
    """Return the items that moves of blocks carry, and those born into them; see `SearchData.tokens`."""
    blocks, timelines = instance.grouping, instance.timelines
    if not instance.chunks.ids and len(set(timelines)) == 1:
        timelines = timelines[:1]
    counts = instance.id_counts[:, blocks.head].astype(dtype)
    layers = zip(timelines, counts, strict=False)
    return np.concatenate(
        [_layer_tokens(blocks, timeline, dtype) * count[:, None, None] for timeline, count in layers]
    )


def _layer_tokens(blocks: Blocks, timeline: Timeline, dtype: np.dtype[np.unsignedinteger[Any]]) -> Counts:
    """Tokens that moves of a layer's blocks carry, and those born into it, in little memory."""
    steps = timeline.steps
    tokens = np.zeros((blocks.count, steps, 2), dtype)
    later = timeline.born >= 0
    np.add.at(tokens[:, :, GROWN], (blocks.of[later], timeline.born[later]), 1)
    change = np.zeros((blocks.count, steps + 1), np.int32)
    begin = timeline.born + 1
    np.add.at(change, (blocks.of, begin), 1)
    np.add.at(change, (blocks.of, np.maximum(timeline.ends, begin)), -1)
    tokens[:, :, CARRIED] = np.cumsum(change, axis=1, out=change)[:, :-1]
    return tokens


def _intervals(instance: Instance, reads: Counts) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Number the intervals, block by block: that of every state, and all of them; see `SearchData`."""
    steps, layers = instance.decode_steps, instance.layers
    born = np.tile(instance.grouping.born, layers).astype(np.int32)
    last = instance.grouping.last.ravel().astype(np.int32)
    fixed = (born < 0) & (instance.rules.initial is Initial.PREFILL_FIRST)
    moves = instance.rules.migration is not Migration.NONE
    passing = (born == last) & (born >= 0)
    first = np.where(fixed, 1, born + 1)
    until = last + (passing & (not instance.inclusive))
    state = np.arange(steps + 1)
    exists = first[:, None] <= state
    exists &= state <= until[:, None]
    opens = state == first[:, None]
    if moves:
        opens[:, 1:] |= reads > 0
    else:
        exists &= ~fixed[:, None]
    opens &= exists
    number = np.cumsum(opens.ravel(), dtype=np.int32).reshape(exists.shape) - 1
    number[~exists] = -1
    number[passing] = -1
    block, low = (each.astype(np.int32) for each in np.nonzero(opens))
    high = until[block]
    same_block = block[1:] == block[:-1]
    high[:-1][same_block] = low[1:][same_block] - 1
    read = moves & (high < steps)
    read &= reads[block, np.minimum(high, steps - 1)] > 0
    slot = high if instance.by_step else high * np.int32(layers) + block // np.int32(instance.blocks)
    due = np.where(read, slot, np.int32(-1))
    return number, np.stack([block, low, high, due], axis=1)
