"""Slot minorants: affine functions of a slot's counts that bound its time from below.

A minorant is an inequality T >= alpha + beta . counts. Each facet of the slot cost is one; so is, between two
tiers, the chord of the time between two consecutive numbers of reads at the last tier, since these numbers
are integers, and with exclusive copies the chord between two numbers of writes to it. Where tiers have
latencies, so is the chord between no read at such a tier and some, and so are pairs of facets
(`facet_pairs`). With more tiers, and with latencies, chords only guide the ascent. The dual's prices are
convex combinations of minorants.

Equations: "Minorants of a slot" in docs/methods.md.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvbound.arithmetic import combine
from kvbound.cost.ideal import Slots, ideal_bytes
from kvbound.cost.ideal_cases import ideal_cases
from kvbound.cost.slot import SlotCost
from kvbound.cost.traffic import Columns, fixed_traffic
from kvbound.instance import Instance
from kvbound.rules import Timing
from kvbound.solvers.lagrangian.slots.bounds import reading_tiers
from kvbound.solvers.lagrangian.slots.chords import Chord
from kvbound.solvers.lagrangian.slots.facet_pairs import FacetPairs
from kvbound.solvers.lagrangian.slots.waits import Waits

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_CLOSED = 1e6
"""Price of what is closed, in multiples of the highest price of a count."""


@dataclass(frozen=True, eq=False)
class SlotMinorants:
    """Minorants of every slot: V facets and pairs of them, and C chords unless counts may be fractional.

    Where the transfers of a step overlap they are of steps, with one entry in place of those of all layers.

    Attributes
    ----------
    alpha
        Seconds at counts 0, (V + C, steps, layers), or (V, steps, layers) without the chords.
    beta
        Seconds per item of the largest size of each count, of facets and pairs, (V, 3K): reads by tier,
        relative to tier 0, extra reads by source, writes by tier.
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
        Weights over the resources behind each facet, (facets, R).
    behind
        The facets behind each facet and pair, see `FacetPairs.facets`; a facet itself is both, and its tier
        is -1; (V, 3).
    tier
        The tier whose reads and writes the first chords count.
    touching
        The tiers whose reads the last chords count, one each: those whose first read adds to the wait.
    units
        What an item of each layer counts as in a step, (layers,); None if slots have times of their own.
    charges
        Seconds that reads at each late tier add to facets and pairs at least, beyond what `alpha` includes,
        (late tiers, V, steps, layers).
    closed
        Where it is settled which tiers serve a slot's reads, a price of each count that keeps blocks from
        using others, (3K, steps, layers); else None.
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
    behind: NDArray[np.int64]
    tier: int
    touching: tuple[int, ...]
    units: NDArray[np.int64] | None
    charges: Floats
    closed: Floats | None = None

    @classmethod
    def of(
        cls, instance: Instance, integer_counts: bool = True, *, serving: Bools | None = None
    ) -> SlotMinorants:
        """Derive the minorants from the slot cost.

        Parameters
        ----------
        serving
            Whether each tier serves reads of a slot, (K, steps, layers or 1), where that is settled; the
            minorants then hold for such slots only.
        """
        cost, tiers, size = SlotCost.of(instance), instance.tiers, int(instance.item_bytes.max())
        slots = Slots.of(instance)
        base = fixed_traffic(instance, slots.weights, slots.births, slots.sizes)
        Columns.of(base).reads[..., 0] = slots.reads * slots.sizes
        facets, theta = cost.facets, cost.facet_weights
        waits = Waits(cost, instance, slots, serving)
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
        chords = [Chord.of(begun, beta[:, tier], sizes, slots.reads)]
        shape = 2 + len(touching), 3 * tiers
        counted, others = np.zeros(shape, np.bool_), np.zeros(shape)
        counted[0, [tier, tiers + tier]] = counted[1, 2 * tiers + tier] = True
        # whichever facets are active: a read at another tier than 0 relieves that one
        others[1:, :tiers] = np.minimum(beta[:, :tiers].min(axis=0), 0)
        if writes_cut := not instance.inclusive and instance.rules.timing is Timing.PARALLEL:
            writes, live = beta[:, 2 * tiers :], instance.timed(instance.live_items[:-1] * units)
            most = live + slots.births
            elsewhere = writes[:, :tier].min(axis=1)
            chords.append(Chord.of(alpha, writes[:, tier], sizes, most, elsewhere, slots.births))
        for n, k in enumerate(touching, 2):
            counted[n, [k, tiers + k]], others[n, k] = True, 0
            chords.append(Chord.touching(alpha, waits.more(k), beta[:, k], sizes, slots.reads))
        used = [0, *([1] if writes_cut else []), *range(2, 2 + len(touching))]
        constant, slope, breakpoints, ends = map(np.stack, zip(*chords, strict=True))
        late = instance.memory.late_tiers
        pairs, charges = FacetPairs.none(len(late), alpha, beta), np.zeros((len(late), *alpha.shape))
        if touching:
            pairs = FacetPairs.of(alpha, beta, waits, late, sizes, slots.reads)
            charges = np.stack([waits.more(k, waited) for k in late])
        alone = np.arange(len(beta))
        behind = np.stack([alone, alone, np.full(len(beta), -1)], axis=1)
        return cls(
            np.concatenate([begun, pairs.alpha, *([constant] if integer_counts else [])]),
            np.concatenate([beta, pairs.beta]), sizes, counted[used], slope, others[used], breakpoints, ends,
            theta, np.concatenate([behind, pairs.facets]), tier, touching,
            units if instance.by_step else None, np.concatenate([charges, pairs.charges], axis=1),
            None if serving is None else _closed(instance, serving, float(beta.max())),
        )  # fmt: skip

    @property
    def has_pairs(self) -> bool:
        """Whether there are pairs of facets: some waits are longer than slots that do not wait."""
        return len(self.behind) > len(self.theta)

    @property
    def splits(self) -> NDArray[np.int64]:
        """Where the chords of reads at the last tier and of writes to it begin, (1 or 2, steps, layers)."""
        return self.breakpoints[: len(self.breakpoints) - len(self.touching)]

    def part(self, steps: slice) -> SlotMinorants:
        """Return the minorants of some steps."""
        return dataclasses.replace(
            self,
            alpha=self.alpha[:, steps],
            charges=self.charges[:, :, steps],
            closed=None if self.closed is None else self.closed[:, steps],
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
        if self.units is not None:
            prices = prices * self.units
        return prices if self.closed is None else prices + self.closed

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


def _closed(instance: Instance, serving: Bools, highest: float) -> Floats:
    """Return `SlotMinorants.closed`, given the highest price of a count."""
    shape = instance.tiers, instance.decode_steps, instance.layers
    moves = np.broadcast_to(~serving, shape)
    reads = moves & ~serving[-1] if instance.inclusive else moves  # the last tier serves what others hold
    return _CLOSED * highest * np.concatenate([reads, moves, np.zeros(shape, np.bool_)])


def _undominated(alpha: Floats, beta: Floats) -> list[int]:
    """Facets that no other facet is above at all counts in every slot."""
    keep: list[int] = []
    for n in np.argsort(-alpha.sum(axis=(1, 2)), kind="stable").tolist():
        steeper = np.flatnonzero((beta[n] <= beta[keep]).all(axis=1))
        if not any(np.all(alpha[n] <= alpha[keep[m]]) for m in steeper.tolist()):
            keep.append(n)
    return sorted(keep)


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
