"""The time of one slot as a function of the bytes it moves: the one cost model.

A slot's work is a vector q of 3K byte counts: reads by the tier that holds the item (n_k), reads
that cannot be served from elsewhere (e_k: weights, items moved without being read), writes (z_k).
Its time is T(q) = max_v facets[v] @ q, plus latencies. With inclusive copies a read held in tier k
may be split between k and the last tier; T is then the optimum of a linear program, and the facets
are the vertices of its dual: weights theta over the resources, sum 1, each read priced at the
cheaper copy. The MIP, the relaxation, the dual and the annealer take their coefficients from here.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from kvbound.instance import Copies, Instance, Rules, Timing
from kvbound.memory import Memory

Array = NDArray[np.float64]
_SYSTEMS = 1 << 13  # solved at a time


@dataclass(frozen=True, eq=False)
class SlotCost:
    """Slot times of a memory under the given rules."""

    memory: Memory
    rules: Rules

    @classmethod
    def of(cls, instance: Instance) -> SlotCost:
        """Return the slot cost of an instance."""
        return cls(instance.memory, instance.rules)

    @property
    def tiers(self) -> int:
        """Number of tiers, K."""
        return len(self.memory.tiers)

    @property
    def inclusive(self) -> bool:
        """Whether the last tier keeps a copy of everything."""
        return self.rules.copies is Copies.INCLUSIVE

    @cached_property
    def read_costs(self) -> Array:
        """Seconds per byte read at each tier on each resource, shape (K, R)."""
        return self.memory.read_load / self.memory.bandwidths

    @cached_property
    def write_costs(self) -> Array:
        """Seconds per byte written at each tier on each resource, shape (K, R)."""
        return self.memory.write_load / self.memory.bandwidths

    @cached_property
    def latency(self) -> Array:
        """Seconds added once per slot for each tier touched, shape (K,)."""
        return np.array([tier.latency for tier in self.memory.tiers])

    @cached_property
    def facets(self) -> Array:
        """Rows in s/byte, shape (V, 3K): T = max over rows of facet @ (n, e, z)."""
        load, last = self.memory.read_load, self.tiers - 1
        theta = self._prices([load[k] - load[last] for k in range(last)] if self.inclusive else [])
        held = theta @ self.read_costs.T
        served = np.minimum(held, held[:, last:]) if self.inclusive else held
        return _undominated(np.hstack([served, held, theta @ self.write_costs.T]))

    @cached_property
    def ideal_weights(self) -> Array:
        """Weights theta over the resources, shape (V, R), one of which proves any slot's ideal time."""
        pairs = itertools.combinations(self.memory.read_load, 2)
        # any theta gives a bound; those where births change tier would add little for much work
        return self._prices([a - b for a, b in pairs])

    @cached_property
    def ideal_rows(self) -> Array:
        """Rows like `facets`, one for each of `ideal_weights`, when every read may be split over all tiers.

        Only the columns n_0 (all reads), e (weights), z_0 (births, wherever cheapest) and z_last
        (write-through) are meaningful: the relaxation in which placement is no constraint at all.
        """
        theta = self.ideal_weights
        held, written = theta @ self.read_costs.T, theta @ self.write_costs.T
        read = np.broadcast_to(held.min(axis=1, keepdims=True), held.shape)
        return np.hstack([read, held, written.min(axis=1, keepdims=True), written[:, 1:]])

    @cached_property
    def ideal_facets(self) -> Array:
        """The rows among `ideal_rows` that are somewhere above the others."""
        return _undominated(self.ideal_rows)

    def _prices(self, cuts: Sequence[Array]) -> Array:
        """Return the resource weights theta that can be optimal, shape (V, R)."""
        bandwidths = self.memory.bandwidths
        if self.rules.timing is Timing.SERIAL:
            return np.ones((1, len(bandwidths)))
        theta: Array = _rays(len(bandwidths), cuts) * bandwidths
        return theta / theta.sum(axis=1, keepdims=True)

    def times(self, q: Array) -> Array:
        """Return slot times in seconds.

        Parameters
        ----------
        q
            Bytes, shape (..., 3K).
        """
        if not self.latency.any():
            return np.asarray((q @ self.facets.T).max(axis=-1))
        return self._times_with_latency(q)

    def _times_with_latency(self, q: Array) -> Array:
        """Take the best set of tiers to keep off, their hits served by the last tier."""
        tiers, last = self.tiers, self.tiers - 1
        best = np.full(q.shape[:-1], np.inf)
        optional = range(last) if self.inclusive else ()
        for off in itertools.chain.from_iterable(
            itertools.combinations(optional, size) for size in range(len(optional) + 1)
        ):
            diverted = q.copy()
            for tier in off:
                diverted[..., last] += diverted[..., tier]
                diverted[..., tier] = 0
            bytes_at = diverted.reshape(*q.shape[:-1], 3, tiers).sum(axis=-2)
            touched = bytes_at > 0
            time = (diverted @ self.facets.T).max(axis=-1) + touched @ self.latency
            best = np.minimum(best, time)
        return best


def _rays(dimensions: int, cuts: Sequence[Array]) -> Array:
    """Return the extreme rays of the cells into which the hyperplanes cut @ x = 0 divide x >= 0.

    x is theta / bandwidths, a price per byte. A concave function that is linear on each cell takes
    its maximum over any slice of x >= 0 at one of them. The entries of cuts are -1, 0 and 1, so that
    determinants are whole numbers and no ratio of bandwidths, however extreme, hides a ray.
    """
    signed = [cut * np.sign(cut[np.flatnonzero(cut)[0]]) for cut in cuts if cut.any()]
    walls = np.unique(np.vstack([np.eye(dimensions), *signed]), axis=0)
    tight = itertools.combinations(range(len(walls)), dimensions - 1)
    found: list[Array] = []
    while chosen := list(itertools.islice(tight, _SYSTEMS)):
        shape = (len(chosen), dimensions - 1)
        systems = np.concatenate(
            [walls[np.array(chosen, np.intp).reshape(shape)], np.ones((len(chosen), 1, dimensions))], axis=1
        )
        systems = systems[np.abs(np.linalg.det(systems)) > 0.5]
        rays = np.linalg.solve(systems, np.eye(dimensions)[:, -1:])[:, :, 0]
        found.append(np.maximum(rays[rays.min(axis=1) > -1e-9], 0.0))
    rays = np.vstack(found)
    return rays[np.unique(np.round(rays, 12), axis=0, return_index=True)[1]]


def _undominated(rows: Array) -> Array:
    """Drop rows that are nowhere above another."""
    rows = np.unique(rows, axis=0)
    keep: list[int] = []
    for n in np.argsort(-rows.sum(axis=1), kind="stable"):
        if not any(np.all(rows[n] <= rows[m] * (1 + 1e-12)) for m in keep):
            keep.append(int(n))
    return rows[sorted(keep)]
