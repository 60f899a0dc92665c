"""Slot minorants: affine functions of a slot's counts that bound its time from below.

A minorant is an inequality T >= alpha + beta . counts. Each facet of the slot cost is one; so is, between two
tiers, the chord of the time between two consecutive numbers of reads at the last tier, since these numbers
are integers, and with exclusive copies the chord between two numbers of writes to it. Where tiers have
latencies, so is the chord between no read at such a tier and some. With more tiers, and with latencies,
chords only guide the ascent. The dual's prices are convex combinations of minorants.

Equations: "Minorants of a slot" in docs/methods.md.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvbound.arithmetic import combine
from kvbound.cost import marginal
from kvbound.cost.ideal import Slots, ideal_bytes
from kvbound.cost.ideal_cases import ideal_cases
from kvbound.cost.slot import SlotCost
from kvbound.cost.traffic import Columns, fixed_traffic
from kvbound.instance import Instance
from kvbound.rules import Timing
from kvbound.solvers.lagrangian.slot_bounds import reading_tiers
from kvbound.solvers.lagrangian.waits import Waits

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SlotMinorants:
    """Minorants of every slot: its V facets, and its C chords unless counts may be fractional.

    Where the transfers of a step overlap they are of steps, with one entry in place of those of all layers.

    Attributes
    ----------
    alpha
        Seconds at counts 0, (V + C, steps, layers), or (V, steps, layers) without the chords.
    beta
        Seconds per item of the largest size of each count, of the facets, (V, 3K): reads by tier, relative to
        tier 0, extra reads by source, writes by tier.
    sizes
        Size of each layer's items relative to the largest, (layers,).
    counted
        The counts that add up to the whole number of each chord, (C, 3K): reads at the last tier, moved there
        or not, where it applies writes to it, and reads at each tier that has a latency.
    chord
        Slopes of the chords, seconds per item of these counts, (C, steps, layers).
    others
        What `beta` is to facets, for the other counts in the chords, (C, 3K).
    breakpoints
        Whole numbers where the chords begin, (C, steps, layers); those of reads at the last tier and of
        writes end one item further.
    ends
        The facets that are active at the two ends, (C, 2, steps, layers).
    theta
        Weights over the resources behind each facet, (V, R).
    tier
        The tier whose reads and writes the first chords count.
    touching
        The tiers whose reads the last chords count, one each: those whose first read adds to the wait.
    units
        What an item of each layer counts as in a step, (layers,); None if slots have times of their own.
    waited
        Seconds that slots wait for tiers which `alpha` of the facets includes, (V, steps, layers).
    """

    alpha: Floats
    beta: Floats
    sizes: Floats
    counted: NDArray[np.bool_]
    chord: Floats
    others: Floats
    breakpoints: NDArray[np.int64]
    ends: NDArray[np.int64]
    theta: Floats
    tier: int
    touching: tuple[int, ...]
    units: NDArray[np.int64] | None
    waited: Floats

    @classmethod
    def of(cls, instance: Instance, integer_counts: bool = True) -> SlotMinorants:
        """Derive the minorants from the slot cost."""
        cost, tiers, size = SlotCost.of(instance), instance.tiers, int(instance.item_bytes.max())
        slots = Slots.of(instance)
        base = fixed_traffic(instance, slots.weights, slots.births, slots.sizes)
        Columns.of(base).reads[..., 0] = slots.reads * slots.sizes
        facets, theta = cost.facets, cost.facet_weights
        waits = Waits(cost, instance, slots)
        alpha, waited = combine(facets, np.moveaxis(base, -1, 0)) + waits.sure, waits.sure
        beta = size * facets
        beta[:, :tiers] -= beta[:, :1]
        if instance.inclusive:
            beta[:, -1] = 0  # the write-through of births is part of alpha
        touching = waits.touching(slots)
        if not touching:
            needed = _undominated(alpha, beta)
            alpha, beta, theta, waited = alpha[needed], beta[needed], theta[needed], waited[needed]
        units = instance.timed_units
        tier, sizes = tiers - 1, slots.sizes[0] / size
        begun = alpha  # with the waits of slots that read something at the tiers that a facet charges
        if touching:
            begun = alpha + np.minimum(waits.least(beta[:, tiers : 2 * tiers]), alpha.max(axis=0) - alpha)
            waited = waited + (begun - alpha)
        chords = [_Chord.of(begun, beta[:, tier], sizes, slots.reads)]
        shape = 2 + len(touching), 3 * tiers
        counted, others = np.zeros(shape, np.bool_), np.zeros(shape)
        counted[0, [tier, tiers + tier]] = counted[1, 2 * tiers + tier] = True
        # whichever facets are active: a read at another tier than 0 relieves that one
        others[1:, :tiers] = np.minimum(beta[:, :tiers].min(axis=0), 0)
        if writes_cut := not instance.inclusive and instance.rules.timing is Timing.PARALLEL:
            writes, live = beta[:, 2 * tiers :], instance.timed(instance.live_items[:-1] * units)
            most = live + slots.births
            elsewhere = writes[:, :tier].min(axis=1)
            chords.append(_Chord.of(alpha, writes[:, tier], sizes, most, elsewhere, slots.births))
        for n, k in enumerate(touching, 2):
            counted[n, [k, tiers + k]], others[n, k] = True, 0
            chords.append(_Chord.touching(alpha, waits.more(k), beta[:, k], sizes, slots.reads))
        used = [0, *([1] if writes_cut else []), *range(2, 2 + len(touching))]
        constant, slope, breakpoints, ends = map(np.stack, zip(*chords, strict=True))
        if integer_counts:
            begun = np.concatenate([begun, constant])
        return cls(
            begun, beta, sizes, counted[used], slope, others[used], breakpoints, ends, theta, tier, touching,
            units if instance.by_step else None, waited,
        )  # fmt: skip

    @property
    def splits(self) -> NDArray[np.int64]:
        """Where the chords of reads at the last tier and of writes to it begin, (1 or 2, steps, layers)."""
        return self.breakpoints[: len(self.breakpoints) - len(self.touching)]

    def part(self, steps: slice) -> SlotMinorants:
        """Return the minorants of some steps."""
        return dataclasses.replace(
            self,
            alpha=self.alpha[:, steps],
            waited=self.waited[:, steps],
            chord=self.chord[:, steps],
            breakpoints=self.breakpoints[:, steps],
            ends=self.ends[:, :, steps],
        )

    def prices(self, weights: Floats) -> Floats:
        """Return prices of counts, (3K, steps, layers), under weights (minorants, steps, layers)."""
        facets = len(self.beta)
        prices = combine(self.beta.T, weights[:facets]) * self.sizes
        for weight, chord, counted, others in zip(weights[facets:], *self._chords, strict=False):
            prices[counted] += weight * chord
            for count in np.flatnonzero(others):
                prices[count] += weight * (others[count] * self.sizes)
        return prices if self.units is None else prices * self.units

    def at(self, used: Floats, missing: Floats | None = None) -> Floats:
        """Return the value of every minorant at given counts (3K, steps, layers): (minorants, steps, layers).

        Parameters
        ----------
        missing
            Share of what is timed together that the counts leave out, (steps, layers or 1).
        """
        facets, used = len(self.beta), self._timed(used)
        values = self.alpha.copy() if missing is None else (1 - missing) * self.alpha
        combine(self.beta, used * self.sizes, values[:facets])
        for value, chord, counted, others in zip(values[facets:], *self._chords, strict=False):
            value += chord * used[counted].sum(axis=0)
            for count in np.flatnonzero(others):
                value += used[count] * (others[count] * self.sizes)
        return values

    def _timed(self, used: Floats) -> Floats:
        return used if self.units is None else (used * self.units).sum(axis=-1, keepdims=True)

    @property
    def _chords(self) -> tuple[Floats, NDArray[np.bool_], Floats]:
        """Slopes, counts and other prices of the chords."""
        return self.chord, self.counted, self.others


class _Chord(NamedTuple):
    """The chord of a maximum of affine functions, the facets, of a whole number in every slot.

    Attributes
    ----------
    constant, slope
        Its seconds at 0, and per item, (steps, layers).
    begin
        Where it begins; it ends one item further, (steps, layers).
    ends
        The facets that are active at its two ends, (2, steps, layers).
    """

    constant: Floats
    slope: Floats
    begin: NDArray[np.int64]
    ends: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        alpha: Floats,
        slope: Floats,
        sizes: Floats,
        most: NDArray[np.int64],
        elsewhere: Floats | None = None,
        births: NDArray[np.int64] | None = None,
    ) -> _Chord:
        """Return the chord that begins at the largest number, up to `most`, at which the slot is no longer.

        Parameters
        ----------
        alpha, slope
            The facets: seconds at 0, (V, steps, layers), and per item of size 1, (V,).
        sizes
            Size of each layer's items, (layers,).
        elsewhere, births
            The facets' seconds per birth that is not among the items, (V,), and the births, (steps, 1).
        """
        begin = marginal.breakpoints(alpha, np.outer(slope, sizes)[:, None], most)
        below, above = (alpha + slope[:, None, None] * (sizes * (begin + k)) for k in (0, 1))
        if elsewhere is not None and births is not None:
            for k, value in enumerate((below, above)):
                value += elsewhere[:, None, None] * (sizes * np.maximum(births - (begin + k), 0))
        rise = above.max(axis=0) - below.max(axis=0)
        ends = np.stack([_active(below, slope, -1), _active(above, slope, 1)])
        return cls(below.max(axis=0) - rise * begin, rise, begin, ends)

    @classmethod
    def touching(
        cls, alpha: Floats, wait: Floats, slope: Floats, sizes: Floats, reads: NDArray[np.int64]
    ) -> _Chord:
        """Return the chord from no read at a tier to the number at which it rises least.

        Parameters
        ----------
        alpha, slope, sizes
            As `of` takes them.
        wait
            Seconds that the facets wait once there is a read, (V, steps, layers).
        reads
            Largest number of reads, (steps, layers).
        """
        start, most = alpha.max(axis=0), np.maximum(reads, 1)
        level = alpha + wait - start

        def rises(number: NDArray[np.int64], some: NDArray[np.bool_]) -> Floats:
            """Return the largest rise per item of some facets, (steps, layers)."""
            rise = level / number + (slope[:, None] * sizes)[:, None]
            return np.where(some, rise, -np.inf).max(axis=0)

        # facets that start below rise ever faster per item, the others ever slower: best is where both meet
        low, high = np.ones_like(most), most
        while np.any(low < high):
            middle = (low + high + 1) // 2
            falling = rises(middle, level > 0) >= rises(middle, level <= 0)
            low, high = np.where(falling, middle, low), np.where(falling, high, middle - 1)
        everything = np.ones_like(level, np.bool_)
        after = np.minimum(low + 1, most)
        end = np.where(rises(after, everything) < rises(low, everything), after, low)
        there = alpha + wait + slope[:, None, None] * (sizes * end)
        ends = np.stack([_active(alpha, slope, -1), _active(there, slope, 1)])
        return cls(start, rises(end, everything), np.zeros_like(most), ends)


def _undominated(alpha: Floats, beta: Floats) -> list[int]:
    """Facets that no other facet is above at all counts in every slot."""
    keep: list[int] = []
    for n in np.argsort(-alpha.sum(axis=(1, 2)), kind="stable").tolist():
        steeper = np.flatnonzero((beta[n] <= beta[keep]).all(axis=1))
        if not any(np.all(alpha[n] <= alpha[keep[m]]) for m in steeper.tolist()):
            keep.append(n)
    return sorted(keep)


def _active(values: Floats, slope: Floats, side: int) -> NDArray[np.int64]:
    """The highest facet; among equals the one of least slope (side -1) or of greatest (side 1)."""
    order = np.argsort(side * -slope, kind="stable")
    top = values.max(axis=0)
    near = values[order] >= top - 1e-13 * top
    return order[near.argmax(axis=0)]


def ideal_theta(instance: Instance) -> Floats:
    """Resource weights that prove the ideal of every slot, for each set of late tiers that serve reads.

    Returns
    -------
    Weights, (sets, R, steps, layers); see `Certificate.theta`.
    """
    cost, slots = SlotCost.of(instance), Slots.of(instance)
    traffic, sets = ideal_bytes(instance, slots), []
    for number in range(1 << len(instance.memory.late_tiers)):
        reading = reading_tiers(instance, number)
        case = next(case for case in ideal_cases(cost) if np.array_equal(case.inside, reading))
        values = combine(case.rows, np.moveaxis(traffic, -1, 0)) + case.wait[:, None, None]
        sets.append(np.moveaxis(case.theta[values.argmax(axis=0)], -1, 0))
    return np.stack(sets)
