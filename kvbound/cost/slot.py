"""The time of one slot as a function of its traffic, the basis of all methods.

The traffic of a slot is a vector q of 3K byte counts, see `kvbound.cost.traffic.Columns`. Where tiers hold
items in other formats, an item counts with its bytes in tier 0 everywhere, and the costs of a byte are those
of the bytes that the tier transfers in its place. The time is
T(q) = max_v facets[v] @ q where no tier has a latency. With inclusive copies a read held in tier k may be
split between k and the last tier; T is then the optimum of a linear program, and the facets are the vertices
of its dual: weights theta over the resources, of sum 1, with each read priced at the cheaper copy. The MIP,
the relaxation, the dual and the annealer take their coefficients from here.

Reads wait for the latency of the tier that serves them, on each of its resources, all at once. For a given
set S of tiers that serve reads the time is max_v(facets[v] @ q + waits[v, S]); T is the least over the sets.

Under another objective than time alone T stands for that, and docstrings that speak of seconds for its units:
the energy of all transfers counts on every resource, so that it, too, is a maximum over weights theta.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvbound.arithmetic import combine
from kvbound.cost.prices import byte_costs, exact_costs, from_cheaper_copies
from kvbound.cost.rays import split_rays, undominated
from kvbound.cost.traffic import Columns
from kvbound.instance import Instance
from kvbound.memory import Memory
from kvbound.objective import TIME, Prices
from kvbound.rules import Copies, Rules, Timing

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

_MOST = 1 << 27
"""Largest product of traffic entries and facets at which all slots are costed at once."""
_ROUNDING = 4e-15
"""Share of a slot's cost that is taken for a rounding error."""


class PricedTraffic(NamedTuple):
    """Traffic with prices: the bytes times their prices, plus the wait, add up to the slot time.

    Attributes
    ----------
    served
        Bytes with every read assigned to the tier that serves it, shape (..., 3K); see `Columns`.
    read, write
        Prices of a byte read from, and written to, each tier, in s/byte, shape (..., K).
    wait
        Seconds that the slot waits for latencies, shape (...).
    """

    served: Array
    read: Array
    write: Array
    wait: Array


def set_number(inside: NDArray[np.bool_]) -> Integers:
    """Return the numbers of sets of tiers, shape (...,), from which tiers are inside, shape (..., K).

    The tiers of a set are the bits of its number.
    """
    return np.asarray(inside @ (1 << np.arange(inside.shape[-1])))


@dataclass(frozen=True, eq=False)
class SlotCost:
    """Slot times of a memory under the given rules, or another objective of them."""

    memory: Memory
    rules: Rules
    unit_sizes: tuple[int, ...] = ()
    prices: Prices = TIME

    @classmethod
    def of(cls, instance: Instance) -> SlotCost:
        """Return the slot cost of an instance."""
        return cls(instance.memory, instance.rules, instance.unit_sizes, instance.prices)

    @cached_property
    def of_time(self) -> SlotCost:
        """The same slots, costed in seconds."""
        return self if self.prices == TIME else SlotCost(self.memory, self.rules, self.unit_sizes)

    @cached_property
    def size_ratio(self) -> Integers:
        """Bytes transferred at each tier for a byte of tier 0's format, times a common factor, shape (K,)."""
        sizes = np.array(self.unit_sizes or (1,) * self.tiers, np.int64)
        whole: Integers = sizes // np.gcd.reduce(sizes)
        return whole

    @cached_property
    def format_ratio(self) -> Array:
        """Bytes transferred at each tier for a byte of tier 0's format, shape (K, 1)."""
        return (self.size_ratio / self.size_ratio[0])[:, None]

    @property
    def tiers(self) -> int:
        """Number of tiers, K."""
        return len(self.memory.tiers)

    @property
    def inclusive(self) -> bool:
        """Whether the last tier keeps a copy of everything."""
        return self.rules.copies is Copies.INCLUSIVE

    @property
    def serial(self) -> bool:
        """Whether resources transfer one after the other."""
        return self.rules.timing is Timing.SERIAL

    @cached_property
    def read_costs(self) -> Array:
        """Seconds per byte read at each tier on each resource, shape (K, R)."""
        return self._costs(self.memory.read_load)

    @cached_property
    def write_costs(self) -> Array:
        """Seconds per byte written at each tier on each resource, shape (K, R)."""
        return self._costs(self.memory.write_load)

    def _costs(self, load: Array) -> Array:
        return byte_costs(load * self.format_ratio, self.memory.bandwidths, self.prices, serial=self.serial)

    @cached_property
    def latency(self) -> Array:
        """Seconds that reads of each tier wait, shape (K,)."""
        return np.array([tier.latency for tier in self.memory.tiers])

    @cached_property
    def latency_costs(self) -> Array:
        """What these waits cost under the objective, shape (K,)."""
        return self.latency if self.prices == TIME else self.prices.second * self.latency

    def waits(self, theta: Array) -> Array:
        """Return the seconds that a slot waits for each set of tiers that serve its reads, shape (V, 2**K).

        Parallel resources wait at the same time, each for the longest latency of the tiers whose reads load
        it; serial resources one after the other, for every tier of the set.

        Parameters
        ----------
        theta
            Weights over the resources, shape (V, R). Sets are in the order of their `set_number`.
        """
        inside = np.arange(1 << self.tiers)[:, None] >> np.arange(self.tiers) & 1  # (sets, K)
        if self.serial:
            return np.broadcast_to(combine(self.latency_costs[None], inside.T), (len(theta), len(inside)))
        late = inside[:, :, None] * (self.latency_costs[:, None] * self.memory.read_load)
        return combine(theta, late.max(axis=1).T)

    @cached_property
    def facet_waits(self) -> Array:
        """What `waits` returns for the facets."""
        return self.waits(self.facet_weights)

    @cached_property
    def facets(self) -> Array:
        """Rows in s/byte, shape (V, 3K): T = max over rows of facet @ (n, e, z)."""
        return self._facets[0]

    @cached_property
    def facet_weights(self) -> Array:
        """Weights theta over the resources that price each facet, shape (V, R)."""
        return self._facets[1]

    @cached_property
    def _facets(self) -> tuple[Array, Array]:
        last = self.tiers - 1
        load = self.scaled(self.memory.read_load)
        theta = self.weights_of(split_rays(load) if self.inclusive else np.eye(load.shape[1]))
        held = combine(theta, self.read_costs.T)
        served = np.minimum(held, held[:, last:]) if self.inclusive else held
        rows = np.hstack([served, held, combine(theta, self.write_costs.T)])
        needed = undominated(np.hstack([rows, np.unique(self.waits(theta), axis=1)]))
        return rows[needed], theta[needed]

    def scaled(self, load: Array) -> Array | NDArray[np.object_]:
        """Return loads of each tier times the integers `size_ratio`, or what they cost, shape (K, R)."""
        whole = load * self.size_ratio[:, None]
        return whole if self.serial else exact_costs(whole, self.memory.bandwidths, self.prices)

    def weights_of(self, rays: Array) -> Array:
        """Turn prices per byte x, shape (V, R), into weights theta of sum 1; with serial timing all are 1."""
        if self.serial:
            return np.ones((1, rays.shape[1]))
        theta = rays * self.memory.bandwidths
        return theta / theta.sum(axis=1, keepdims=True)

    def times(self, traffic: Array) -> Array:
        """Return slot times in seconds.

        Parameters
        ----------
        traffic
            Bytes, shape (..., 3K).
        """
        if halves := self._halves(traffic):
            return np.concatenate([self.times(half) for half in halves])
        best = np.full(traffic.shape[:-1], np.inf)
        for diverted in self._diversions(traffic):
            best = np.minimum(best, self._values(diverted).max(axis=0))
        return best

    def seconds(self, traffic: Array) -> Array:
        """Return seconds under any objective, with reads split as in `split`; `traffic` as for `times`."""
        return self.times(traffic) if self.prices == TIME else self.of_time.times(self.split(traffic))

    def _halves(self, traffic: Array) -> tuple[Array, ...]:
        """Return the two halves of traffic too large to be costed at once, else an empty tuple."""
        if traffic.ndim == 1 or len(traffic) < 2 or traffic.size * len(self.facets) <= _MOST:
            return ()
        half = len(traffic) // 2
        return traffic[:half], traffic[half:]

    def split(self, traffic: Array) -> Array:
        """Return the traffic of least time with every read assigned to the tier that serves it.

        Reads that either copy may serve become reads without that choice. With two tiers the split is, among
        those of least time, the one of least total work. With more tiers it is determined one tier after the
        other, each for the least work that this tier's bytes cause. Under energy alone time breaks ties.

        Parameters
        ----------
        traffic
            Bytes, shape (..., 3K).
        """
        if halves := self._halves(traffic):
            return np.concatenate([self.split(half) for half in halves])
        if not self.prices.second and self.inclusive:
            return self.of_time.split(from_cheaper_copies(traffic, self.read_costs.sum(axis=1)))
        chosen = self._diverted(traffic)
        return self._assign_reads(chosen) if self.inclusive else chosen

    def priced(self, traffic: Array) -> PricedTraffic:
        """Return the traffic split as in `split`, with prices of its bytes that add up to the slot time.

        The prices are the dual solution of the slot's linear program: what one more byte costs. They are
        seconds under any objective.

        Parameters
        ----------
        traffic
            Bytes, shape (..., 3K).
        """
        if halves := self._halves(traffic):
            parts = (self.priced(half) for half in halves)
            return PricedTraffic(*map(np.concatenate, zip(*parts, strict=True)))
        if self.prices != TIME:
            return self.of_time.priced(self.split(traffic))
        chosen = self._diverted(traffic)
        row = self._values(chosen).argmax(axis=0)
        read, write = (combine(self.facet_weights, costs.T) for costs in (self.read_costs, self.write_costs))
        served = self._assign_reads(chosen) if self.inclusive else chosen
        return PricedTraffic(served, read[row], write[row], self.facet_waits[row, self._reading(chosen)])

    def busy(self, traffic: Array) -> Array:
        """Return the seconds that each resource is busy, shape (..., R), with reads split as in `split`.

        Parameters
        ----------
        traffic
            Bytes, shape (..., 3K).
        """
        if halves := self._halves(traffic):
            return np.concatenate([self.busy(half) for half in halves])
        held, extra, written = np.split(self.split(traffic), 3, axis=-1)
        costs = self.of_time
        read = combine(costs.read_costs.T, np.moveaxis(held + extra, -1, 0))
        return np.moveaxis(combine(costs.write_costs.T, np.moveaxis(written, -1, 0), read), 0, -1)

    def _diverted(self, traffic: Array) -> Array:
        """Return the traffic of least time among those that leave tiers with a latency unread."""
        best, chosen = np.full(traffic.shape[:-1], np.inf), traffic
        for diverted in self._diversions(traffic):
            time = self._values(diverted).max(axis=0)
            chosen = np.where((time < best)[..., None], diverted, chosen)
            best = np.minimum(best, time)
        return chosen

    def _assign_reads(self, q: Array) -> Array:
        """Return q with each tier's reads turned into reads without choice, at the least time."""
        last, q, reading = self.tiers - 1, q.copy(), self._reading(q)
        least = self._values(q, reading).max(axis=0)
        for tier in range(last):
            home, away = self.tiers + tier, self.tiers + last
            held = q[..., tier].copy()
            q[..., home] += held
            q[..., tier] = 0
            slack = np.moveaxis(least - self._values(q, reading), 0, -1)
            if self.prices != TIME:  # slopes may be near 0: rounding errors must not divert much
                slack += (_ROUNDING * (1 + tier) * least)[..., None]
            slope = self.facets[:, away] - self.facets[:, home]  # per byte diverted
            # prices are integers times a common factor: they differ by much or only by rounding
            slope[np.abs(slope) < 1e-9 * self.facets[:, home]] = 0
            # between these bounds any part may be diverted
            rising, falling = slope > 0, slope < 0
            if self.read_costs[last].sum() < self.read_costs[tier].sum():
                part = (slack[..., rising] / slope[rising]).min(axis=-1, initial=np.inf)
            else:
                part = (slack[..., falling] / slope[falling]).max(axis=-1, initial=0.0)
            part = np.clip(part, 0, held)
            q[..., home] -= part
            q[..., away] += part
        return q

    def _values(self, q: Array, reading: Integers | None = None) -> Array:
        """Return the value of every facet in seconds, with waits, shape (V, ...).

        `reading` is what `_reading` returns, by default of q.
        """
        values = combine(self.facets, np.moveaxis(q, -1, 0))
        if self.latency.any():
            values += self.facet_waits[:, self._reading(q) if reading is None else reading]
        return values

    def _reading(self, q: Array) -> Integers:
        """Return the number of the set of tiers that bytes are, or may be, read from."""
        columns = Columns.of(q)
        touched = (columns.reads > 0) | (columns.extra_reads > 0)
        if self.inclusive:
            touched[..., -1] |= columns.reads[..., :-1].any(axis=-1)
        return set_number(touched)

    def _diversions(self, q: Array) -> Iterator[Array]:
        """Yield q for each set of tiers whose reads the last tier serves instead, and without its help."""
        last = self.tiers - 1
        forced = q[..., [last, self.tiers + last]].any(axis=-1)
        if self.inclusive and self.latency[last] and not forced.all():
            direct = q.copy()
            direct[..., self.tiers : 2 * self.tiers] += q[..., : self.tiers]
            direct[..., : self.tiers] = 0
            yield direct
        # without a latency to save, the facets already contain the best split
        optional = np.flatnonzero(self.latency[:last]) if self.inclusive else ()
        for size in range(len(optional) + 1):
            for unused in itertools.combinations(optional, size):
                diverted = q.copy() if unused else q
                for tier in unused:
                    diverted[..., last] += diverted[..., tier]
                    diverted[..., tier] = 0
                yield diverted
