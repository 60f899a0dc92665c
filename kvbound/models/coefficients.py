"""The coefficients that all forms of the program share, in units that suit the solver.

Bytes are counted in items of the layer with the largest ones, time in units of the read of one of these from
the tier that is fastest to read: in seconds, slot times would fall below the solver's tolerances.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kvbound.arithmetic import combine
from kvbound.blocks import Blocks
from kvbound.cost.evaluate import refuse_spread
from kvbound.cost.ideal import Slots, ideal_slot_times
from kvbound.cost.marginal import chords
from kvbound.cost.prices import least_price
from kvbound.cost.slot import SlotCost
from kvbound.cost.traffic import Columns
from kvbound.cost.transitions import Transitions
from kvbound.initial import forced_fill
from kvbound.instance import Instance
from kvbound.models.sparse import Ints
from kvbound.rules import Copies, Initial, Rules

MOST_CUT_COUNT = 2**14
"""Items of a slot beyond which cuts would take long to find and gain next to nothing."""


@dataclass(frozen=True, eq=False)
class Coefficients:
    """The coefficients of an instance's program, in both forms, as a matrix and in Pyomo.

    Attributes
    ----------
    unit_s
        Seconds per unit of time.
    facets
        Units of time per item, shape (V, 3K): slot time >= facet @ traffic + wait @ touched, see
        `kvbound.cost.traffic.Columns`.
    waits
        Units of time for each tier that serves reads, shape (V, K).
    theta
        Weights over the resources behind each facet, shape (V, R).
    weights
        Weight reads of each layer in items, shape (layers,).
    sizes
        Size of each layer's items, 1 for the largest, shape (layers,).
    ideal
        Time lower bound of each slot, whatever the placement, in units of time, shape (steps, layers), or of
        each step, (steps, 1), if its transfers overlap.
    prompt
        Tiers of the prompt's blocks, shape (layers, prompt blocks), or None where these are free.
    """

    instance: Instance
    unit_s: float
    facets: NDArray[np.float64]
    waits: NDArray[np.float64]
    theta: NDArray[np.float64]
    weights: NDArray[np.float64]
    sizes: NDArray[np.float64]
    ideal: NDArray[np.float64]
    prompt: NDArray[np.uint8] | None

    @classmethod
    def of(cls, instance: Instance) -> Coefficients:
        """Derive the coefficients of an instance.

        Raises
        ------
        InputError
            The times differ too much for a solver's tolerances.
        """
        refuse_spread(instance, "a program")
        cost = SlotCost.of(instance)
        item = int(instance.item_bytes.max())
        unit = item * least_price(cost.read_costs)
        rules = instance.rules
        if cost.latency_costs.any():
            # the program itself splits the reads, by its columns `diverted`
            rules_without_split = Rules(copies=Copies.EXCLUSIVE, timing=rules.timing)
            cost = SlotCost(instance.memory, rules_without_split, instance.unit_sizes, instance.prices)
        rows, waits = _wait_rows(cost)
        fixed = rules.initial is Initial.PREFILL_FIRST
        return cls(
            instance=instance,
            unit_s=unit,
            facets=cost.facets[rows] * (item / unit),
            waits=waits / unit,
            theta=cost.facet_weights[rows],
            weights=instance.weight_reads / item,
            sizes=instance.item_bytes / item,
            ideal=ideal_slot_times(instance) / unit,
            prompt=forced_fill(instance) if fixed else None,
        )

    @property
    def has_waits(self) -> bool:
        """Whether some tier has a latency."""
        return bool(self.waits.any())

    @property
    def slot_terms(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Facets, weights and sizes, of which `kvbound.models.integer_hull` makes hulls."""
        return self.facets, self.weights, self.sizes

    @cached_property
    def timed(self) -> Slots:
        """What is read in what has a time of its own, a slot or a step, in the shape of `ideal`."""
        return Slots.of(self.instance)

    @property
    def timed_sizes(self) -> NDArray[np.float64]:
        """Size of the items that `timed` counts, 1 for the largest of the instance, shape (layers or 1,)."""
        sizes: NDArray[np.float64] = self.timed.sizes[0] / self.instance.item_bytes.max()
        return sizes

    def layers_of(self, period: int) -> Sequence[int]:
        """Return the layers whose slots have a time together: one, or all of a step."""
        return range(self.instance.layers) if self.instance.by_step else [period]

    @cached_property
    def transitions(self) -> Transitions:
        """The moves that the rules allow, and what is charged for them."""
        return Transitions.of(self.instance)

    @cached_property
    def read_counts(self) -> Ints:
        """Past tokens read in each slot, shape (steps, layers)."""
        return self.instance.read_counts()

    @cached_property
    def reads(self) -> Ints:
        """Past tokens of each block read in each slot, shape (steps, layers, blocks)."""
        return self._reads(ended=True)

    @cached_property
    def unread(self) -> Ints:
        """Tokens that a move of each block carries and the slot does not read, in the shape of `reads`."""
        return self.carried.swapaxes(0, 1) - self._reads(ended=False)

    @cached_property
    def carried(self) -> Ints:
        """Items that a move of each block in each step carries, shape (layers, steps, blocks)."""
        return self.grouping.carried * self.counts[:, None]

    @property
    def counts(self) -> Ints:
        """Items that a token of each block counts as, shape (layers, blocks)."""
        return self.instance.id_counts[:, self.grouping.head]

    def _reads(self, *, ended: bool) -> Ints:
        """Count the past tokens of each block read in each slot, with or without those that end in it."""
        step, read = np.arange(self.instance.decode_steps)[:, None], []
        for layer, timeline in enumerate(self.instance.timelines):
            read.append(self.instance.trace.past_reads(layer) & ((step < timeline.ends) | ended))
        return np.stack([self.grouping.sums(bits) for bits in read], axis=1) * self.counts

    @property
    def grouping(self) -> Blocks:
        """Division of every layer's tokens into blocks."""
        return self.instance.grouping

    @cached_property
    def held(self) -> NDArray[np.bool_]:
        """Which blocks take up room at the start and after each step, shape (1 + steps, layers, blocks)."""
        step = np.arange(-1, self.instance.decode_steps)[:, None, None]
        return (self.grouping.born <= step) & (step < self.grouping.last)

    @cached_property
    def placed(self) -> NDArray[np.bool_]:
        """Which blocks have a tier at the start and after each step, shape (1 + steps, layers, blocks).

        They are those that take up room, and those that end in the step of their birth, which are written to
        a tier all the same.
        """
        step = np.arange(-1, self.instance.decode_steps)[:, None, None]
        return self.held | (self.grouping.born == step) & (step >= 0)

    @cached_property
    def joined(self) -> Ints:
        """Step after which a block has the tier of its births, shape (steps, layers, blocks).

        It is the step of the births or, for a block that ends in that step, the one before.
        """
        return np.arange(self.instance.decode_steps)[:, None, None] - ~self.placed[1:]

    def legal_moves(self, step: int, layer: int, block: int) -> list[tuple[int, int]]:
        """Return the moves, from and to, that a block may make in a slot."""
        if not self.grouping.movable[layer, step, block]:
            return []
        return self.transitions.moves(self.reads[step, layer, block] > 0)

    def most_reads(self, step: int, period: int, tier: int) -> tuple[float, float]:
        """Return the most that is read from a tier: of items, and without a choice, weights included."""
        most, besides = 0.0, 0.0
        for layer in self.layers_of(period):
            read, live = int(self.read_counts[step, layer]), int(self.instance.live_items[step, layer])
            size, weights = float(self.sizes[layer]), float(self.weights[layer]) * (tier == 0)
            most, besides = most + read * size, besides + max(live - read, 0) * size + weights
        return most, besides


Cut = tuple[NDArray[np.float64], float]


def _wait_rows(cost: SlotCost) -> tuple[Ints, NDArray[np.float64]]:
    """Return facets, some repeatedly, and the seconds that each adds for tiers that serve reads, (rows, K).

    Reads without a choice: a parallel resource waits for the longest latency, which takes a row for each.
    """
    if cost.serial or not cost.latency_costs.any():
        return np.arange(len(cost.facets)), np.broadcast_to(
            cost.latency_costs, (len(cost.facets), cost.tiers)
        )
    alone = cost.facet_waits[:, 1 << np.arange(cost.tiers)]
    rows, waits = [], []
    for v, by_tier in enumerate(alone):
        each = np.diag(by_tier)[by_tier > 0] if by_tier.any() else np.zeros((1, cost.tiers))
        rows += [v] * len(each)
        waits += [*each]
    return np.array(rows), np.array(waits)


def slot_cuts(coefficients: Coefficients, step: int, layer: int) -> list[Cut]:
    """Return the cuts time >= row @ traffic + constant of a slot that whole counts allow, for two tiers.

    Rows are in units of time per item of the largest size, shape (6,); see `kvbound.cost.traffic.Columns`.
    """
    return [*slot_read_cuts(coefficients, step, layer), *slot_write_cuts(coefficients, step, layer)]


def slot_read_cuts(coefficients: Coefficients, step: int, layer: int) -> list[Cut]:
    """Return those of `slot_cuts` that count reads at the last tier."""
    cuts = []
    for slope, constant in count_cuts(coefficients, step, layer):
        row = np.zeros(6)
        Columns.of(row).reads[-1] = slope / coefficients.timed_sizes[layer]
        cuts.append((row, constant))
    return cuts


def slot_write_cuts(coefficients: Coefficients, step: int, layer: int) -> list[Cut]:
    """Return those of `slot_cuts` that count writes to the last tier."""
    cuts = []
    for slope, constant in write_cuts(coefficients, step, layer):
        row = np.zeros(6)
        columns = Columns.of(row)
        columns.writes[-1] = slope / coefficients.timed_sizes[layer]
        # a miss relieves tier 0 by at most this
        columns.reads[-1] = min((coefficients.facets[:, 1] - coefficients.facets[:, 0]).min(), 0.0)
        cuts.append((row, constant))
    return cuts


def count_cuts(coefficients: Coefficients, step: int, layer: int) -> list[tuple[float, float]]:
    """Return slope and constant of the cuts time >= slope * misses + constant of a slot, for two tiers.

    Equations: "Count cuts" in docs/methods.md.
    """
    reads = int(coefficients.timed.reads[step, layer])
    if reads > MOST_CUT_COUNT:
        return []
    through = coefficients.timed.births[step, layer] * coefficients.instance.inclusive
    return chords(lambda misses: _times(coefficients, step, layer, misses, 0, through), reads)


def write_cuts(coefficients: Coefficients, step: int, layer: int) -> list[tuple[float, float]]:
    """Return slope and constant of the cuts for writes to the last tier without misses, as `count_cuts` does.

    Births that are not among them are written to tier 0. With inclusive copies the number of these writes is
    given: there are no such cuts.
    """
    instance = coefficients.instance
    births = int(coefficients.timed.births[step, layer])
    live = instance.live_items[step] * instance.timed_units
    most = int(instance.timed(live)[layer]) + births
    if instance.inclusive or most > MOST_CUT_COUNT:
        return []
    no_misses = np.zeros(1)
    return chords(
        lambda writes: _times(coefficients, step, layer, no_misses, np.maximum(births - writes, 0), writes),
        most,
    )


def _times(
    coefficients: Coefficients,
    step: int,
    layer: int,
    misses: NDArray[np.float64],
    *writes: ArrayLike,
) -> NDArray[np.float64]:
    """Times of a slot with these numbers of misses, and of writes to the two tiers."""
    size = coefficients.timed_sizes[layer]
    traffic = np.zeros((*np.broadcast_shapes(*map(np.shape, (misses, *writes))), 6))
    columns = Columns.of(traffic)
    columns.reads[:, 0] = (coefficients.timed.reads[step, layer] - misses) * size
    columns.reads[:, 1] = misses * size
    columns.extra_reads[:, 0] = coefficients.instance.timed(coefficients.weights)[layer]
    for tier, number in enumerate(writes):
        columns.writes[:, tier] = np.multiply(number, size)
    return combine(coefficients.facets, traffic.T).max(axis=0)
