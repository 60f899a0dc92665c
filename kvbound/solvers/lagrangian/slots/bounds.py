"""What the multipliers of a certificate prove of each slot: its least time less the prices paid to it.

A certificate bounds a slot in cases. These are linear minimisations over the slot's counts, which the checker
makes in integers, here in floating point.

Equations: "Rounding to a certificate" in docs/methods.md.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvbound.arithmetic import combine
from kvbound.certificate import FULL, Certificate
from kvbound.cost.ideal import Slots
from kvbound.cost.slot import SlotCost, set_number
from kvbound.instance import Instance
from kvbound.objective import TIME

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def resource_order(instance: Instance) -> list[int]:
    """Positions of the resources in the order of their names, as certificates have them."""
    names = list(instance.memory.resources)
    return sorted(range(len(names)), key=names.__getitem__)


def reading_tiers(instance: Instance, number: int) -> NDArray[np.bool_]:
    """Which tiers serve reads in a case of a certificate: those without a latency, and some others.

    Parameters
    ----------
    number
        The bits of the others, in the order of the late tiers.
    """
    reading = np.ones(instance.tiers, np.bool_)
    for n, k in enumerate(instance.memory.late_tiers):
        reading[k] = number >> n & 1
    return reading


def beyond_room(
    instance: Instance, reads: Floats | Ints, slow: int, reading: NDArray[np.bool_]
) -> tuple[Floats, NDArray[np.bool_]]:
    """Return how many reads a tier serves at least, as others have no room, and if all fit, by slot.

    All items that a step reads are where they were when it began, as no layer's items move but in its own
    slots: what a tier serves has had room there.

    Parameters
    ----------
    reads
        Reads of what is timed together, in units where the transfers of a step overlap, (steps, layers or 1).
    slow
        The tier.
    reading
        Whether each tier serves reads, (K,).
    """
    last, room = instance.tiers - 1, np.zeros(reads.shape[1])
    holders = reading | (instance.inclusive and reading[last])  # the last tier may serve what others hold
    sizes = np.ones(1) if instance.by_step else instance.units
    keeps = instance.timed(instance.units) > 0
    for k in np.flatnonzero(holders):
        limit = instance.capacity_units[k]
        if k == slow:
            continue
        if limit is None or (instance.inclusive and k == last):
            room[:] = np.inf
        else:
            room += limit * instance.granularity // np.maximum(sizes, 1)
    room = np.where(keeps, room, np.inf)
    least = np.maximum(reads - room, 0) if holders[slow] else np.zeros(reads.shape)
    return least, (reads <= room) | holders[slow]


class SlotLimits(NamedTuple):
    """What is known of slots, or of steps, (steps, 1), if their transfers overlap.

    Attributes
    ----------
    least, most
        The range of items that each slot reads at the certificate's tier, moved from there or not,
        (steps, layers) each. Where it is empty the bound is infinite.
    serving
        Whether each tier serves reads, 1 or 0, or -1 where that is not known, (K, steps, layers).
    """

    least: Ints
    most: Ints
    serving: NDArray[np.int8]


def slot_bounds(
    instance: Instance, certificate: Certificate, within: SlotLimits | None = None
) -> tuple[Floats, Floats]:
    """Return the least time of every slot minus the prices paid to it, in units, (steps, layers).

    Where the transfers of a step overlap these are sums over its slots, (steps, 1).

    Returns
    -------
    The bounds, and the sums of their terms' magnitudes, which limit the rounding errors where terms cancel.
    """
    slots = Slots.by_layer(instance)
    least, magnitude = np.full(certificate.whole.shape, np.inf), np.zeros(certificate.whole.shape)
    for case in range(len(certificate.theta)):
        value, terms = _Case(instance, certificate, case, slots, within).bound()
        least, magnitude = np.minimum(least, value), np.maximum(magnitude, terms)
    return least, magnitude


class _Case:
    """A case of a certificate: which late tiers serve reads, and how much is read at and written to a tier.

    Attributes
    ----------
    held, wrote
        Cost of an item read from each tier, and written there, in units, (K, steps, layers).
    paid
        Prices paid for an item read, read without a choice, and written, (3, K, steps, layers).
    theta
        Weights of the resources, (R, steps, layers or 1).
    units
        What an item of each layer counts as in what is timed together, (layers,).
    earned
        What the shares of waits bring in if all blocks are read, (steps, layers or 1).
    read, written
        The least and the largest number of units read at, and written to, the tier, (steps, layers or 1)
        each.
    """

    def __init__(
        self,
        instance: Instance,
        certificate: Certificate,
        case: int,
        slots: Slots,
        within: SlotLimits | None,
    ) -> None:
        self.instance, self.slots, self.slow = instance, slots, certificate.tier
        number, rest = divmod(case, len(certificate.theta) >> len(instance.memory.late_tiers))
        more_writes, more_reads = divmod(rest, 2)
        self.reading = reading_tiers(instance, number)
        keeps = instance.units > 0  # what takes no bytes takes no time, wherever it is
        self.serves, self.units = self.reading[:, None] | ~keeps, instance.timed_units
        self.reads, self.born = slots.reads.astype(np.float64), slots.births.astype(np.float64)
        self.live = instance.live_items[:-1].astype(np.float64)
        self.unread, self.unit = self.live - self.reads, 2.0**certificate.scale
        order, memory = resource_order(instance), instance.memory
        self.theta = np.empty(certificate.theta[case].shape)
        self.theta[order] = certificate.theta[case] * (self.unit / FULL)
        cost = self.theta / memory.bandwidths[:, None, None]
        if instance.prices != TIME:
            energy = self.unit * np.array(instance.prices.byte or 0.0).reshape(-1, 1, 1)
            cost = instance.prices.second * cost + energy
        sizes = np.array(instance.unit_sizes, np.float64)[:, None, None] * instance.units
        byte = combine(memory.read_load, cost)
        self.held, self.wrote = sizes * byte, sizes * combine(memory.write_load, cost)
        self.weights = self._timed(byte[0] * instance.weight_reads)
        self.earned = self._timed(self._shares(certificate))
        self.paid = certificate.prices.astype(np.float64).reshape(3, instance.tiers, *self.reads.shape)
        live, born = (self._timed(each * self.units) for each in (self.live, self.born))
        low, high = _range(certificate.whole, live, more_reads)
        has_weights = self._timed(slots.weights) > 0
        self.excluded = has_weights & (not self.reading[0])
        only_weights = has_weights & (instance.memory.tiers[0].latency > 0)
        self.excluded |= (self._timed(keeps) == 0) & (number != only_weights)
        reads = self._timed(self.reads * self.units)
        least, fits = beyond_room(instance, reads, certificate.tier, self.reading)
        low = np.maximum(low, least)
        self.excluded |= ~fits
        if within is not None:
            low, high = np.maximum(low, within.least), np.minimum(high, within.most)
            known = within.serving >= 0
            serves = self.reading[:, None] if instance.by_step else self.serves
            self.excluded |= (known & (within.serving != serves[:, None])).any(axis=0)
        self.read = low, high
        self.written = _range(certificate.whole_writes, live + born, more_writes)

    def bound(self) -> tuple[Floats, Floats]:
        """Return the case's bound, infinity where it is empty, and the sum of its terms' magnitudes."""
        wait = self._wait()
        terms = np.abs(self.paid) + np.stack([self.held, self.held, self.wrote])
        magnitude = 3 * self.reads * terms[0].max(axis=0) + self.unread * terms[1].sum(axis=0)
        magnitude += (self.live + 2 * self.born) * terms[2].sum(axis=0)
        magnitude = self._timed(magnitude) + self.weights + wait + self.earned
        (low, high), (fewest, most) = self.read, self.written
        empty = (high < low) | (most < fewest) | self.excluded
        least = self.weights + (wait - self.earned) + self._reads() + self._writes()
        return np.where(empty, np.inf, least), magnitude

    def _shares(self, certificate: Certificate) -> Floats:
        """Return the most that blocks can pay, each in one tier open to reads, (steps, layers)."""
        if certificate.shares is None:
            return np.zeros(self.reads.shape)
        most = np.zeros(certificate.shares.shape[1:], np.int64)
        for k, shares in zip(self.instance.memory.late_tiers, certificate.shares, strict=True):
            # with inclusive copies the last tier may serve what others hold
            serves = self.serves[k] | (self.serves[-1] if self.instance.inclusive else False)
            np.maximum(most, shares, out=most, where=serves[:, None])
        return most.sum(axis=-1, dtype=np.float64)

    def _timed(self, each: NDArray[Any]) -> NDArray[Any]:
        return self.instance.timed(each)

    def _per_unit(self, each: Floats) -> Floats:
        """Return the least price of a unit of what is timed together, from prices of items."""
        if not self.instance.by_step:
            return each
        return np.where(self.units > 0, each / np.maximum(self.units, 1), np.inf).min(axis=-1, keepdims=True)

    def _wait(self) -> Floats:
        """Return how long slots wait for the tiers that serve reads, in units."""
        cost = SlotCost.of(self.instance)
        number = set_number(self.reading)
        alone = cost.waits(np.eye(len(self.theta)))[:, number]
        if cost.serial:
            return np.full(self.theta.shape[1:], self.unit * alone[0])
        return combine(alone[None], self.theta)[0]

    def _reads(self) -> Floats:
        """Return the least price of a slot's reads, infinity if the tiers that serve any cannot."""
        inclusive, slow, nothing = self.instance.inclusive, self.slow, self.units == 0
        served = [np.where(inside, held, np.inf) for held, inside in zip(self.held, self.serves, strict=True)]
        if inclusive:
            served = [np.minimum(here, served[-1]) for here in served]
        price = [here - paid for here, paid in zip(served, self.paid[0], strict=True)]
        extra = [
            np.where(inside, held - paid, np.inf)
            for held, paid, inside in zip(self.held, self.paid[1], self.serves, strict=True)
        ]
        moved = sum(np.minimum(net, 0) * self.unread for k, net in enumerate(extra) if k != slow)
        here, other = price[slow], np.minimum.reduce([net for k, net in enumerate(price) if k != slow])
        other = np.where(nothing, np.minimum(other, here), other)
        moved = moved + np.where(nothing, np.minimum(extra[slow], 0) * self.unread, 0)
        elsewhere = np.isfinite(other)
        all_here = np.isfinite(here) & ~elsewhere
        must = self._timed(np.where(all_here, self.units * self.reads, 0))
        low, high = (np.maximum(n - must, 0) for n in self.read)
        fixed = self._timed(np.where(all_here, _price(self.reads, here), _price(self.reads, other)) + moved)
        fixed = np.where(must <= self.read[1], fixed, np.inf)
        change = np.where(elsewhere, here, np.inf) - np.where(elsewhere, other, 0)
        change, extra_here = (np.where(nothing, np.inf, net) for net in (change, extra[slow]))
        slope = np.minimum(self._per_unit(change), self._per_unit(extra_here))
        floor = np.minimum(change, 0) * self.reads + np.minimum(extra_here, 0) * self.unread
        return fixed + np.maximum(np.minimum(_price(low, slope), _price(high, slope)), self._timed(floor))

    def _writes(self) -> Floats:
        """Return the least price of a slot's writes."""
        write, slow, all_items = self.wrote - self.paid[2], self.slow, self.live + self.born
        if self.instance.inclusive:
            fixed = self.born * write[-1] + np.minimum(write[:-1], 0).sum(axis=0) * all_items
            return self._timed(fixed)
        target, others = write[slow], np.delete(write, slow, axis=0)
        nothing, elsewhere = self.units == 0, np.maximum(others.min(axis=0), 0)
        fixed = np.minimum(others, 0).sum(axis=0) * all_items
        anywhere = np.minimum(target, 0) * all_items
        anywhere += np.minimum(elsewhere, np.maximum(target, 0)) * self.born
        fixed = self._timed(fixed + np.where(nothing, anywhere, 0))
        births, (fewest, most) = self._timed(self.born * self.units), self.written
        numbers = (fewest, most, np.clip(births, fewest, most))
        there, elsewhere = self._per_unit(target), self._per_unit(elsewhere)
        there, elsewhere = (np.where(np.isinf(each), 0, each) for each in (there, elsewhere))
        to_slow = [there * n + elsewhere * np.maximum(births - n, 0) for n in numbers]
        return fixed + np.min(to_slow, axis=0)


def _price(number: Floats, price: Floats) -> Floats:
    """Return number * price, 0 for no item even if the price is infinite."""
    return np.where(number > 0, number, 0) * np.where(number > 0, price, 0)


def _range(whole: Ints | None, most: Floats, more: int) -> tuple[Floats, Floats]:
    """Return the least and the largest number of items up to `whole`, or above it, (steps, layers) each."""
    if whole is None:
        return np.zeros_like(most), most
    if more:
        return np.maximum(whole + 1.0, 0), most
    return np.zeros_like(most), np.minimum(whole, most)
