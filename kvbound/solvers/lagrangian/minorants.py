"""Slot minorants: affine functions of a slot's counts that bound its time from below.

A minorant is an inequality T >= alpha + beta . counts. Each facet of the slot cost is one; so is, between two
tiers, the chord of the time between two consecutive numbers of reads at the last tier, since these numbers
are integers, and with exclusive copies the chord between two numbers of writes to it. With more tiers chords
only guide the ascent. The dual's prices are convex combinations of minorants.

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
from kvbound.cost.slot import SlotCost
from kvbound.cost.traffic import Columns, fixed_traffic
from kvbound.instance import Instance
from kvbound.rules import Timing

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SlotMinorants:
    """Minorants of every slot: its V facets, and its C chords unless counts may be fractional.

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
        or not, and where it applies writes to it.
    chord
        Slopes of the chords, seconds per item of these counts, (C, steps, layers).
    others
        What `beta` is to facets, for the other counts in the chords, (C, 3K).
    breakpoints
        Whole numbers where the chords begin; they end one item further, (C, steps, layers).
    ends
        The facets that are active at the two ends, (C, 2, steps, layers).
    theta
        Weights over the resources behind each facet, (V, R).
    tier
        The tier whose reads and writes the chords count.
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

    @classmethod
    def of(cls, instance: Instance, integer_counts: bool = True) -> SlotMinorants:
        """Derive the minorants from the slot cost."""
        cost, tiers, size = SlotCost.of(instance), instance.tiers, int(instance.item_bytes.max())
        slots = Slots.of(instance)
        base = fixed_traffic(instance)
        Columns.of(base).reads[..., 0] = slots.reads * slots.sizes
        facets = cost.facets
        alpha = combine(facets, np.moveaxis(base, -1, 0)) + sure_latency(instance, slots)
        beta = size * facets
        beta[:, :tiers] -= beta[:, :1]
        if instance.inclusive:
            beta[:, -1] = 0  # the write-through of births is part of alpha
        needed = _undominated(alpha, beta)
        alpha, beta = alpha[needed], beta[needed]
        tier, sizes = tiers - 1, instance.item_bytes / size
        chords = [_Chord.of(alpha, beta[:, tier], sizes, slots.reads)]
        counted, others = np.zeros((2, 3 * tiers), np.bool_), np.zeros((2, 3 * tiers))
        counted[0, [tier, tiers + tier]] = counted[1, 2 * tiers + tier] = True
        if not instance.inclusive and instance.rules.timing is Timing.PARALLEL:
            writes, most = beta[:, 2 * tiers :], instance.live_items[:-1] + slots.births
            elsewhere = writes[:, :tier].min(axis=1)
            chords.append(_Chord.of(alpha, writes[:, tier], sizes, most, elsewhere, slots.births))
            # whichever facets are active: a read at another tier than 0 relieves that one
            others[1, :tiers] = np.minimum(beta[:, :tiers].min(axis=0), 0)
        constant, slope, breakpoints, ends = map(np.stack, zip(*chords, strict=True))
        if integer_counts:
            alpha = np.concatenate([alpha, constant])
        count, theta = len(chords), cost.facet_weights[needed]
        return cls(alpha, beta, sizes, counted[:count], slope, others[:count], breakpoints, ends, theta, tier)

    def part(self, steps: slice) -> SlotMinorants:
        """Return the minorants of some steps."""
        return dataclasses.replace(
            self,
            alpha=self.alpha[:, steps],
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
        return prices

    def at(self, used: Floats, missing: Floats | None = None) -> Floats:
        """Return the value of every minorant at given counts (3K, steps, layers): (minorants, steps, layers).

        Parameters
        ----------
        missing
            Share of each slot's items that the counts leave out, (steps, layers).
        """
        facets = len(self.beta)
        values = self.alpha.copy() if missing is None else (1 - missing) * self.alpha
        combine(self.beta, used * self.sizes, values[:facets])
        for value, chord, counted, others in zip(values[facets:], *self._chords, strict=False):
            value += chord * used[counted].sum(axis=0)
            for count in np.flatnonzero(others):
                value += used[count] * (others[count] * self.sizes)
        return values

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


def sure_latency(instance: Instance, slots: Slots, reads_at: int | None = None) -> Floats:
    """Return the latency in seconds that each slot has under any placement, (steps, layers).

    Parameters
    ----------
    slots
        All slots of the instance.
    reads_at
        A tier whose items the slot is known to read.
    """
    latency = np.array([tier.latency for tier in instance.memory.tiers])
    touched = np.zeros((instance.tiers, *slots.reads.shape), bool)
    touched[0] = slots.weights > 0
    born = slots.births * slots.sizes > 0
    if instance.inclusive:
        touched[-1] |= born
    elif reads_at is not None:
        touched[reads_at] = True
    least = np.where((slots.reads * slots.sizes > 0) | born, latency.min(), 0.0)
    return np.where(touched.any(axis=0), combine(latency[None], touched)[0], least)


def ideal_theta(instance: Instance) -> Floats:
    """Resource weights that prove the ideal time of every slot, (R, steps, layers)."""
    cost = SlotCost.of(instance)
    traffic = ideal_bytes(instance, Slots.of(instance))
    best = combine(cost.ideal_rows, np.moveaxis(traffic, -1, 0)).argmax(axis=0)
    return np.moveaxis(cost.ideal_weights[best], -1, 0)
