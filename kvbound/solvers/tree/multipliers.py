"""From the row duals of a node's relaxation to the multipliers of a certificate.

The dual of the row that defines a count is the count's price, that of a row of capacity the price of room.
The duals of a slot's facets weight the resources: a facet is a weighted sum of their times. A count cut is
no such sum, but on each side of a whole number it lies below one: the split of the certificate.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np

from kvbound.arithmetic import combine
from kvbound.certificate import Certificate
from kvbound.instance import Instance
from kvbound.models.time_indexed import NONE, TimeIndexed
from kvbound.solvers.lagrangian.rounding import ideal_certificate, rounded
from kvbound.solvers.lagrangian.slots.bounds import slot_bounds
from kvbound.solvers.lagrangian.slots.minorants import SlotMinorants, ideal_theta
from kvbound.solvers.tree.questions import Floats, Ints, Limits, whole_counts
from kvbound.solvers.tree.relaxation import Point

BITS = 44
"""The ideal time is about 2 to this power of units: coarser than in a single certificate, for small files."""
_NEAR = 1e-6
"""Distance from a whole number up to which a count is one."""


class DualMultipliers:
    """What the certificates of all nodes have in common.

    Parameters
    ----------
    program
        The program of the instance.
    split
        The tier by whose reads, and writes, slots are split.
    """

    def __init__(self, program: TimeIndexed, instance: Instance, split: int) -> None:
        self._program, self._instance, self._split = program, instance, split
        self._facet_weights = program.coefficients.theta
        self._ideal = ideal_theta(self._instance)
        self._minorants = SlotMinorants.of(self._instance)
        self._beta = self._minorants.beta[: len(self._minorants.theta)]  # of facets, without pairs of them
        cuts = np.array(program.cuts, np.int64).reshape(-1, 4)
        self._cuts = [cuts[cuts[:, 3] == writes] for writes in (0, 1)]
        self._births = program.coefficients.timed.births

    def certificate(self, point: Point, limits: Limits, *, moves_as_reads: bool = False) -> Certificate:
        """Return a certificate that claims no bound yet.

        Parameters
        ----------
        moves_as_reads
            Pay items that the split tier moves without a read no more than those it reads. A certificate's
            split counts both, the program's cuts only the latter: where these pay for reads there, as those
            relieve tier 0, slots could pretend to move items instead.
        """
        prices, capacity, facets, cuts = self._read(point.duals)
        if moves_as_reads:
            moved, read = self._instance.tiers + self._split, self._split
            prices[moved] = np.minimum(prices[moved], prices[read] - prices[0])
        left = 1 - np.minimum(facets.sum(axis=0) + sum(cuts), 1)
        base = combine(self._facet_weights.T, facets) + left * self._ideal  # (sets, R, steps, layers)
        splits = self._splits(point)
        tried = []
        for whole, writes in product(*splits):
            sides = [(reads, more) for more in self._write_ends(writes) for reads in self._ends(whole)]
            theta = np.stack([of_set + cuts[0] * r + cuts[1] * w for of_set in base for r, w in sides])
            tried.append(
                rounded(self._instance, prices, capacity, theta, self._split, whole, writes, bits=BITS)
            )
        return self._best_of_slots(tried, limits)

    def ideal(self) -> Certificate:
        """Return the certificate of the ideal time, in the form of all others."""
        found = replace(ideal_certificate(self._instance), tier=self._split)
        if len(self._minorants.splits) == 1:
            return found
        theta = np.repeat(found.theta[::2], 4, axis=0)
        return replace(found, whole_writes=np.full_like(found.whole, -1), theta=theta)

    def _read(self, duals: Floats) -> tuple[Floats, Floats, Floats, list[Floats]]:
        """Return prices (3K, steps, layers) and capacity (K, 1 + slots) in seconds, and weights of rows.

        The weights are those of the facets, (V, steps, layers), and in all of the count cuts of reads, and of
        writes, (steps, layers).
        """
        program, unit = self._program, self._program.unit_s
        shape = program.time.shape
        prices = np.moveaxis(duals[program.sums].reshape(*shape, -1), -1, 0)
        prices = prices * (program.coefficients.sizes * unit)
        known = program.room != NONE
        capacity = np.where(known, duals[np.where(known, program.room, 0)], 0.0) * unit
        capacity[:-1] *= -1  # room is limited above; of the last tier the blocks elsewhere, below
        facets = np.maximum(np.moveaxis(duals[program.facets], -1, 0), 0)
        cuts = []
        for rows in self._cuts:
            weight = np.zeros(shape)
            np.add.at(weight, (rows[:, 1], rows[:, 2]), np.maximum(duals[rows[:, 0]], 0))
            cuts.append(weight)
        total = np.maximum(facets.sum(axis=0) + sum(cuts), 1.0)
        return prices, np.maximum(capacity, 0), facets / total, [weight / total for weight in cuts]

    def _splits(self, point: Point) -> tuple[list[Ints], list[Ints] | list[None]]:
        """Return the whole numbers at which to try to split the reads, and the writes, of slots."""
        shape, none = self._program.time.shape, [None]
        if not point.values.size:
            return [np.full(shape, -1)], [np.full(shape, -1)] if len(self._minorants.splits) > 1 else none
        reads = np.floor(whole_counts(self._program, point.values, 0, self._split) + _NEAR).astype(np.int64)
        both = [reads, np.maximum(reads - 1, -1)]
        if len(self._minorants.splits) == 1:
            return both, none
        writes = np.floor(whole_counts(self._program, point.values, 2, self._split) + _NEAR).astype(np.int64)
        return both, [writes, np.maximum(writes - 1, -1)]

    def _ends(self, whole: Ints) -> list[Floats]:
        """Return the weights of the resources at both ends of the cut of reads from `whole` on."""
        slope = np.outer(self._beta[:, self._split], self._minorants.sizes)[:, None]
        facets = self._minorants.alpha[: len(slope)]
        return [
            self._active(facets + slope * np.maximum(whole + more, 0), slope, 2 * more - 1) for more in (0, 1)
        ]

    def _write_ends(self, whole: Ints | None) -> list[Floats]:
        """Return the weights of the resources at both ends of the cut of writes from `whole` on."""
        if whole is None:
            return [np.zeros_like(self._ideal[0])]
        tiers, sizes = self._instance.tiers, self._minorants.sizes
        beta = self._beta[:, 2 * tiers :]
        slope = np.outer(beta[:, self._split], sizes)[:, None]
        elsewhere = np.outer(np.delete(beta, self._split, axis=1).min(axis=1), sizes)[:, None]
        facets, found = self._minorants.alpha[: len(slope)], []
        for more in (0, 1):
            number = np.maximum(whole + more, 0)
            values = facets + slope * number + elsewhere * np.maximum(self._births - number, 0)
            found.append(self._active(values, slope, 2 * more - 1))
        return found

    def _active(self, values: Floats, slope: Floats, side: int) -> Floats:
        """Return the weights behind the highest facet; of equal ones the flattest (-1) or steepest (1)."""
        order = np.argsort(side * -slope[:, 0, 0], kind="stable")
        top = values.max(axis=0)
        near = values[order] >= top - 1e-12 * np.abs(top)
        theta = self._minorants.theta[order[near.argmax(axis=0)]]
        return np.moveaxis(theta, -1, 0)

    def _best_of_slots(self, tried: list[Certificate], limits: Limits) -> Certificate:
        """Return a certificate with the split of each slot that bounds it best."""
        if len(tried) == 1:
            return tried[0]
        bounds = np.stack([slot_bounds(self._instance, each, limits.of_slots)[0] for each in tried])
        best = bounds.argmax(axis=0)
        first = tried[0]

        def choose(name: str) -> Ints:
            stack = np.stack([getattr(each, name) for each in tried])
            index = best.reshape(1, *[1] * (stack.ndim - 3), *best.shape)
            chosen: Ints = np.take_along_axis(stack, index, axis=0)[0]
            return chosen

        writes = None if first.whole_writes is None else choose("whole_writes")
        return replace(first, whole=choose("whole"), theta=choose("theta"), whole_writes=writes)
