"""What annealing plays on: what never changes of an instance, and schedules as arrays of tiers.

A block's *states* are numbered 0 (the start) to steps; state i holds after the layer's slot of step
i - 1. Between two of its reads nothing is gained by moving an item to and fro, so a move of the search
mostly repaints a *stay*: the states from one event of a block (start, birth, read) to its next read.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvbound.cost.ideal import ideal
from kvbound.cost.slot import SlotCost
from kvbound.errors import UsageError
from kvbound.instance import Initial, Instance, Migration
from kvbound.schedule import LayerEvents, Schedule

UNBORN = 255
"""Tier of a block before its first token is born."""
MOST_BYTES = 2**31
"""What the table of stays and one chain may take together."""
CUT = 0.15
"""Chance of each of three kinds of move that repaint a part of a stay, where the rules give it a use."""
UNLIMITED = 2**60
"""Room of a tier that holds whatever comes."""
_FINE = 2.0**28  # ticks of a mean slot
_MOST = 2.0**61  # ticks of the slowest schedule

Ints = NDArray[np.int64]
Tiers = NDArray[np.uint8]


class Board(NamedTuple):
    """What never changes; a named tuple, so that compiled code can take it.

    Attributes
    ----------
    steps, layers, prefill, size, blocks
        Decode steps, layers, prompt tokens, tokens per block, blocks per layer.
    inclusive, up
        Whether the last tier keeps a copy; who may go up: 0 nobody, 1 what is read, 2 everybody.
    cut
        Chance of each kind of move that repaints a part of a stay; 0 where that is never of use.
    room
        Blocks each tier holds, shape (K,).
    reads
        Tokens of each block read in each step, shape (layers * blocks, steps).
    layer, first
        Layer and first state of each block, shape (layers * blocks,).
    block, low, high, due
        Block, first and last state of each stay, in order, and the slot of the read that ends it, -1 if
        none does; shape (stays,).
    stay
        Stay of each state, -1 where nothing may change, shape (layers * blocks, steps + 1).
    rows, base
        Ticks per token of the cost's facets, and of the layers' weights, by the set of tiers kept off
        (one set where nothing has a latency), shapes (sets, V, 3K) and (layers, sets, V).
    off, weighted, latency, late
        Which tiers each set keeps off, (sets, K); whether a layer reads weights, (layers,); ticks, (K,), and
        whether there are any.
    tick
        Seconds per tick: times are whole numbers, so that sums do not depend on their order.
    """

    steps: int
    layers: int
    prefill: int
    size: int
    blocks: int
    inclusive: bool
    up: int
    cut: float
    room: Ints
    reads: NDArray[np.uint16]
    layer: NDArray[np.int32]
    first: NDArray[np.int32]
    block: NDArray[np.int32]
    low: NDArray[np.int32]
    high: NDArray[np.int32]
    due: NDArray[np.int32]
    stay: NDArray[np.int32]
    rows: NDArray[np.float64]
    base: NDArray[np.float64]
    off: NDArray[np.bool_]
    weighted: NDArray[np.bool_]
    latency: NDArray[np.float64]
    late: bool
    tick: float

    @property
    def tiers(self) -> int:
        """Number of tiers, K."""
        return len(self.room)

    @property
    def slots(self) -> int:
        """Slots, steps * layers."""
        return self.steps * self.layers


def board(instance: Instance) -> Board:
    """Set the board.

    Raises
    ------
    UsageError
        The instance is too large for an array of every block's tier in every step.
    InfeasibleError
        Weights or blocks do not fit.
    """
    steps = instance.decode_steps
    if too_large(instance):
        raise UsageError(
            f"{instance.name}: annealing keeps the tier of every block in every step and would need "
            f"{_needed(instance) / 2**30:,.0f} GiB (not for single tokens between two tiers with inclusive "
            "copies, with numba); shorten the trace or coarsen the granularity"
        )
    reads = _reads(instance)
    begin = np.arange(instance.blocks) * instance.granularity - instance.prefill_tokens
    first = np.tile(np.maximum(begin + 1, 0), instance.layers).astype(np.int32)
    stay, block, low, high = _stays(instance, reads, first)
    layer = np.repeat(np.arange(instance.layers, dtype=np.int32), instance.blocks)
    due = np.where(high < steps, high * np.int32(instance.layers) + layer[block], np.int32(-1))
    return bare(instance)._replace(
        reads=reads, layer=layer, first=first, block=block, low=low, high=high, due=due, stay=stay
    )


def too_large(instance: Instance) -> bool:
    """Whether there is no room for an array of every block's tier in every step."""
    return _needed(instance) > MOST_BYTES


def _needed(instance: Instance) -> int:
    return 8 * instance.layers * instance.blocks * (instance.decode_steps + 1)


def bare(instance: Instance) -> Board:
    """Set a board with nobody on it, for those who keep blocks otherwise."""
    last = instance.tiers - 1
    room = [UNLIMITED if r is None or (instance.inclusive and k == last) else r
            for k, r in enumerate(instance.capacity_blocks)]  # fmt: skip
    cost, size = SlotCost.of(instance), instance.item_bytes
    unit = size * float(cost.read_costs.max(axis=1).min())
    # if every item of every layer moved in every slot, ticks would still fit
    item = size * float(cost.read_costs.max() + cost.write_costs.max())
    slot = instance.tokens * 2 * item + float(instance.llm.weight_reads.max() * cost.read_costs[0].max())
    worst = instance.slots * (slot + float(cost.latency.sum()))
    tick = max(max(ideal(instance) / instance.slots, unit) / _FINE, worst / _MOST)
    rows, base, off, latency = _prices(instance, tick)
    up = list(Migration).index(instance.rules.migration)
    whole = up == 0 or (up == 1 and instance.inclusive and instance.tiers == 2)
    nobody = np.zeros(0, np.int32)
    return Board(
        instance.decode_steps, instance.layers, instance.prefill_tokens, instance.granularity,
        instance.blocks, instance.inclusive, up, 0.0 if whole else CUT, np.array(room, np.int64),
        np.zeros((0, 0), np.uint16), *(nobody,) * 6, np.zeros((0, 0), np.int32),
        rows, base, off, instance.llm.weight_reads > 0, latency, bool(latency.any()), tick,
    )  # fmt: skip


def _reads(instance: Instance) -> NDArray[np.uint16]:
    starts = np.arange(0, instance.tokens, instance.granularity)
    layers = [instance.trace.past_reads(layer) for layer in range(instance.layers)]
    counts = [np.add.reduceat(bits, starts, axis=1, dtype=np.uint16).T for bits in layers]
    return np.ascontiguousarray(np.concatenate(counts))


def _stays(
    instance: Instance, reads: NDArray[np.uint16], first: NDArray[np.int32]
) -> tuple[NDArray[np.int32], ...]:
    """Number the stays, block by block: of every state, and block, first and last state of each."""
    steps = instance.decode_steps
    fixed = instance.rules.initial is Initial.PREFILL_FIRST
    begin = np.where((first == 0) & fixed, 1, first)
    state = np.arange(steps + 1)
    exists = state >= begin[:, None]
    opens = state == begin[:, None]
    if instance.rules.migration is Migration.NONE:
        exists &= ~((first == 0) & fixed)[:, None]
    else:
        opens[:, 1:] |= reads > 0
    opens &= exists
    number = np.cumsum(opens.ravel(), dtype=np.int32).reshape(exists.shape) - 1
    number[~exists] = -1
    block, low = (each.astype(np.int32) for each in np.nonzero(opens))
    high = np.append(low[1:] - 1, steps).astype(np.int32)
    high[np.append(block[1:] != block[:-1], True)[: len(block)]] = steps
    return number, block, low, high


def _prices(
    instance: Instance, tick: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]:
    """Facets in ticks per token, for each set of tiers whose hits the last tier serves instead."""
    cost, tiers = SlotCost.of(instance), instance.tiers
    optional = range(tiers - 1) if instance.inclusive and cost.latency.any() else range(0)
    sets = [s for size in range(len(optional) + 1) for s in itertools.combinations(optional, size)]
    rows = np.stack([cost.facets] * len(sets)) / tick
    off = np.zeros((len(sets), tiers), bool)
    for n, kept_off in enumerate(sets):
        rows[n][:, list(kept_off)] = rows[n][:, [tiers - 1]]
        off[n, list(kept_off)] = True
    base = instance.llm.weight_reads[:, None, None] * rows[:, :, tiers]
    return rows * instance.item_bytes, base, off, cost.latency / tick


def tiers_of(board: Board, schedule: Schedule) -> Tiers:
    """Every block's tier in every state, shape (layers * blocks, steps + 1)."""
    tier = np.full((board.layers * board.blocks, board.steps + 1), UNBORN, np.uint8)
    for layer, events in enumerate(schedule.events):
        of_layer = tier[layer * board.blocks : (layer + 1) * board.blocks]
        prompt = schedule.initial[layer, :: board.size]
        of_layer[: len(prompt)] = prompt[:, None]
        block = events.token // board.size
        for step, b, to in zip(events.step.tolist(), block.tolist(), events.tier.tolist(), strict=True):
            of_layer[b, step + 1 :] = to
    return tier


def schedule_of(board: Board, tier: Tiers) -> Schedule:
    """Return the schedule of an array of tiers; the inverse of `tiers_of`."""
    parts, initial = [], []
    tokens, step = np.arange(board.prefill + board.steps), np.arange(board.steps)
    for layer in range(board.layers):
        of_layer = tier[layer * board.blocks : (layer + 1) * board.blocks]
        initial.append(of_layer[tokens[: board.prefill] // board.size, 0])
        at, block = np.nonzero(((of_layer[:, 1:] != of_layer[:, :-1]) & (of_layer[:, :-1] != UNBORN)).T)
        born = of_layer[(board.prefill + step) // board.size, step + 1]
        when = np.concatenate([at, step])
        order = np.argsort(when, kind="stable")  # moves before births
        token = np.concatenate([block * board.size, board.prefill + step])
        to = np.concatenate([of_layer[block, at + 1], born])
        parts.append(LayerEvents.of(when[order], token[order], to[order]))
    return Schedule(np.array(initial, np.uint8).reshape(board.layers, board.prefill), tuple(parts))


VICTIMS = 3


DRAWS = 5 + VICTIMS
"""Kind of move, stay, new tier, how much of it, picky or not, and where to look for each victim."""


PICKY = 0.8
"""Share of picky moves."""


ROW = 0.05
"""Share of moves that repaint several stays in a row, up to LONGEST."""


LONGEST = 4


LOOK = 32
"""Stays a picky move looks at for one worth moving."""


PROBES = 40
"""Blocks looked at for a victim."""


STRIDE = 7919
"""Distance of those blocks: a prime."""
