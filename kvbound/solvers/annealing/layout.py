"""What annealing searches on: the constants of an instance, and schedules as arrays of tiers.

The *states* of a block are numbered from 0, the start, to the number of steps; state i holds after the
layer's slot of step i - 1. An *interval* is the run of states from one event of a block (the start, its
birth, a read) to its next read. Moving a block back and forth within an interval gains nothing, so that most
moves of the search change the tier of a whole interval.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvbound.cost.ideal import ideal
from kvbound.cost.slot import SlotCost
from kvbound.cost.transitions import Transitions
from kvbound.errors import UsageError
from kvbound.instance import Initial, Instance, Migration
from kvbound.schedule import LayerEvents, Schedule

UNBORN = 255
"""Tier of a block before the birth of its first token."""
MAX_BYTES = 2**31
"""Memory that the intervals and one chain may take together."""
PARTIAL_SHARE = 0.15
"""Probability of each of the three kinds of move that change a part of an interval, where that is of use."""
BLOCK, LOW, HIGH, DUE = range(4)
"""Columns of `SearchData.intervals`."""
UNLIMITED = 2**60
"""Capacity, in blocks, of a tier without a limit."""
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

Ints = NDArray[np.int64]
Tiers = NDArray[np.uint8]


class SearchData(NamedTuple):
    """Immutable search data; a named tuple, so that compiled code can take it.

    Times are integers, in ticks, so that sums do not depend on the order of their terms. There are few arrays
    on purpose: compiled functions count the references of each at every call.

    Attributes
    ----------
    steps, layers, prefill, block_size, blocks
        Decode steps, layers, prompt tokens, tokens per block, blocks per layer.
    legal, charged, birth_writes
        As in `kvbound.cost.transitions.Transitions`.
    movable
        Whether blocks may move after their birth.
    partial_share
        Probability of each kind of move that changes a part of an interval; 0 where that is of no use.
    capacity
        Blocks that each tier holds, shape (K,).
    reads
        Tokens of each block read in each step, shape (layers * blocks, steps).
    layer
        Layer of each block, shape (layers * blocks,).
    intervals
        Block, first and last state of each interval, in order, and the slot of the read that ends it, -1 if
        none does; shape (intervals, 4).
    interval_of
        Interval of each state, -1 where nothing may change, shape (layers * blocks, steps + 1).
    facets, weight_ticks
        Ticks per token of the facets of the slot cost, and of the weights of each layer, by the set of tiers
        whose reads the last tier serves instead (one set where no tier has a latency), shapes (sets, V, 3K)
        and (layers, sets, V).
    diverted
        Which tiers are in each set, shape (sets, K).
    has_weights
        Whether a layer reads weights, shape (layers,).
    latency, has_latency
        Ticks, shape (K,), and whether there are any.
    tick_s
        Seconds per tick.
    """

    steps: int
    layers: int
    prefill: int
    block_size: int
    blocks: int
    legal: NDArray[np.bool_]
    charged: NDArray[np.bool_]
    birth_writes: Ints
    movable: bool
    partial_share: float
    capacity: Ints
    reads: NDArray[np.uint16]
    layer: NDArray[np.int32]
    intervals: NDArray[np.int32]
    interval_of: NDArray[np.int32]
    facets: NDArray[np.float64]
    weight_ticks: NDArray[np.float64]
    diverted: NDArray[np.bool_]
    has_weights: NDArray[np.bool_]
    latency: NDArray[np.float64]
    has_latency: bool
    tick_s: float

    @property
    def tiers(self) -> int:
        """Number of tiers, K."""
        return len(self.capacity)

    @property
    def slots(self) -> int:
        """Slots, steps * layers."""
        return self.steps * self.layers


def search_data(instance: Instance) -> SearchData:
    """Return the search data of an instance.

    Raises
    ------
    UsageError
        The instance is too large for an array of the tier of every block in every step.
    InfeasibleError
        Weights or blocks do not fit.
    """
    steps = instance.decode_steps
    if too_large(instance):
        raise UsageError(
            f"{instance.name}: annealing keeps the tier of every block in every step and would need "
            f"{_needed_bytes(instance) / 2**30:,.0f} GiB (not for single tokens between two tiers with "
            "inclusive copies, with numba); shorten the trace or coarsen the granularity"
        )
    reads = _block_reads(instance)
    interval_of, block, low, high = _intervals(instance, reads)
    layer = np.repeat(np.arange(instance.layers, dtype=np.int32), instance.blocks)
    due = np.where(high < steps, high * np.int32(instance.layers) + layer[block], np.int32(-1))
    intervals = np.stack([block, low, high, due], axis=1)
    return data_without_blocks(instance)._replace(
        reads=reads, layer=layer, intervals=intervals, interval_of=interval_of
    )


def too_large(instance: Instance) -> bool:
    """Whether an array of the tier of every block in every step would exceed `MAX_BYTES`."""
    return _needed_bytes(instance) > MAX_BYTES


def _needed_bytes(instance: Instance) -> int:
    return 8 * instance.layers * instance.blocks * (instance.decode_steps + 1)


def data_without_blocks(instance: Instance) -> SearchData:
    """Return the search data with the arrays by block and interval left empty."""
    transitions = Transitions.of(instance)
    limits = instance.capacity_blocks
    capacity = [
        limit if limit is not None and k in transitions.limited else UNLIMITED
        for k, limit in enumerate(limits)
    ]
    tick_s = _tick_s(instance)
    facets, weight_ticks, diverted, latency = _tick_facets(instance, tick_s)
    movable = bool(transitions.legal.any())
    promotes_unread = bool(transitions.legal[0, -1, 0])
    whole_intervals = not movable or (not promotes_unread and instance.inclusive and instance.tiers == 2)
    return SearchData(
        steps=instance.decode_steps,
        layers=instance.layers,
        prefill=instance.prefill_tokens,
        block_size=instance.granularity,
        blocks=instance.blocks,
        legal=transitions.legal,
        charged=transitions.charged,
        birth_writes=transitions.birth_writes,
        movable=movable,
        partial_share=0.0 if whole_intervals else PARTIAL_SHARE,
        capacity=np.array(capacity, np.int64),
        reads=np.zeros((0, 0), np.uint16),
        layer=np.zeros(0, np.int32),
        intervals=np.zeros((0, 4), np.int32),
        interval_of=np.zeros((0, 0), np.int32),
        facets=facets,
        weight_ticks=weight_ticks,
        diverted=diverted,
        has_weights=instance.llm.weight_reads > 0,
        latency=latency,
        has_latency=bool(latency.any()),
        tick_s=tick_s,
    )


def _tick_s(instance: Instance) -> float:
    """Seconds per tick: fine enough for a slot and an item, and the slowest schedule still fits."""
    cost, size = SlotCost.of(instance), instance.item_bytes
    unit = size * float(cost.read_costs.max(axis=1).min())
    # the slowest schedule moves every item of every layer in every slot
    item = size * float(cost.read_costs.max() + cost.write_costs.max())
    slot = instance.tokens * 2 * item + float(instance.llm.weight_reads.max() * cost.read_costs[0].max())
    worst = instance.slots * (slot + float(cost.latency.sum()))
    return max(max(ideal(instance) / instance.slots, unit) / TICKS_PER_SLOT, worst / MAX_TICKS)


def _tick_facets(
    instance: Instance, tick_s: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]:
    """Facets, ticks of the weights, sets of diverted tiers, and latencies; see `SearchData`."""
    cost, tiers = SlotCost.of(instance), instance.tiers
    optional = range(tiers - 1) if instance.inclusive and cost.latency.any() else range(0)
    sets = [s for size in range(len(optional) + 1) for s in itertools.combinations(optional, size)]
    facets = np.stack([cost.facets] * len(sets)) / tick_s
    diverted = np.zeros((len(sets), tiers), bool)
    for n, tiers_off in enumerate(sets):
        facets[n][:, list(tiers_off)] = facets[n][:, [tiers - 1]]
        diverted[n, list(tiers_off)] = True
    weight_ticks = instance.llm.weight_reads[:, None, None] * facets[:, :, tiers]
    return facets * instance.item_bytes, weight_ticks, diverted, cost.latency / tick_s


def _block_reads(instance: Instance) -> NDArray[np.uint16]:
    starts = np.arange(0, instance.tokens, instance.granularity)
    layers = [instance.trace.past_reads(layer) for layer in range(instance.layers)]
    counts = [np.add.reduceat(bits, starts, axis=1, dtype=np.uint16).T for bits in layers]
    return np.ascontiguousarray(np.concatenate(counts))


def _intervals(instance: Instance, reads: NDArray[np.uint16]) -> tuple[NDArray[np.int32], ...]:
    """Number the intervals, block by block: of every state; and block, first and last state of each."""
    steps = instance.decode_steps
    begin = np.arange(instance.blocks) * instance.granularity - instance.prefill_tokens
    born = np.tile(np.maximum(begin + 1, 0), instance.layers).astype(np.int32)
    fixed = (born == 0) & (instance.rules.initial is Initial.PREFILL_FIRST)
    first = np.where(fixed, 1, born)
    state = np.arange(steps + 1)
    exists = state >= first[:, None]
    opens = state == first[:, None]
    if instance.rules.migration is Migration.NONE:
        exists &= ~fixed[:, None]
    else:
        opens[:, 1:] |= reads > 0
    opens &= exists
    number = np.cumsum(opens.ravel(), dtype=np.int32).reshape(exists.shape) - 1
    number[~exists] = -1
    block, low = (each.astype(np.int32) for each in np.nonzero(opens))
    high = np.full(len(low), steps, np.int32)
    same_block = block[1:] == block[:-1]
    high[:-1][same_block] = low[1:][same_block] - 1
    return number, block, low, high


def tiers_of(data: SearchData, schedule: Schedule) -> Tiers:
    """Return the tier of every block in every state, shape (layers * blocks, steps + 1)."""
    tier = np.full((data.layers * data.blocks, data.steps + 1), UNBORN, np.uint8)
    for layer, events in enumerate(schedule.events):
        of_layer = tier[layer * data.blocks : (layer + 1) * data.blocks]
        prompt = schedule.initial[layer, :: data.block_size]
        of_layer[: len(prompt)] = prompt[:, None]
        block = events.token // data.block_size
        for step, b, to in zip(events.step.tolist(), block.tolist(), events.tier.tolist(), strict=True):
            of_layer[b, step + 1 :] = to
    return tier


def schedule_of(data: SearchData, tier: Tiers) -> Schedule:
    """Return the schedule of an array of tiers; the inverse of `tiers_of`."""
    parts, initial = [], []
    tokens, step = np.arange(data.prefill + data.steps), np.arange(data.steps)
    for layer in range(data.layers):
        of_layer = tier[layer * data.blocks : (layer + 1) * data.blocks]
        initial.append(of_layer[tokens[: data.prefill] // data.block_size, 0])
        at, block = np.nonzero(((of_layer[:, 1:] != of_layer[:, :-1]) & (of_layer[:, :-1] != UNBORN)).T)
        born = of_layer[(data.prefill + step) // data.block_size, step + 1]
        when = np.concatenate([at, step])
        order = np.argsort(when, kind="stable")  # moves before births
        token = np.concatenate([block * data.block_size, data.prefill + step])
        to = np.concatenate([of_layer[block, at + 1], born])
        parts.append(LayerEvents.of(when[order], token[order], to[order]))
    return Schedule(np.array(initial, np.uint8).reshape(data.layers, data.prefill), tuple(parts))
