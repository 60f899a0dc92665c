"""The least time of a certificate's slots less the prices of their counts, in exact integers.

A slot's time is at least sum_r theta_r load_r / B_r for every theta >= 0 of sum 1 (serial: theta_r <= 1);
under another objective it is multiplied by the price of a second, and the energy of all loads is added. That
is linear in the counts, so that its minimum over their ranges has a closed form. The minimum is taken
separately, each with its own theta, over at most `whole` items read at one tier and over at least one more:
the number of items is an integer, so one of the two holds. With exclusive copies each of the two may in turn
be divided by the number of items written to the tier. Where tiers have latencies all these cases are divided
by the set of these tiers that serve reads; a slot then returns the shares of waits that blocks can have paid.
Where the transfers of a step overlap, a step takes the place of its slots.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from kvbound.checker.inputs import Case
from kvbound.checker.multipliers import FULL, Exact, Multipliers
from kvbound.checker.report import Ints


def together(case: Case) -> list[Sequence[int]]:
    """Return the layers that are timed together: each alone, or all."""
    return [range(case.layers)] if case.by_step else [[layer] for layer in range(case.layers)]


def live_units(case: Case, layers: Sequence[int]) -> Exact:
    """Return the items that exist when each slot begins, in units where layers are added up, (steps,)."""
    return _in_units(case, layers, "live")


def _in_units(case: Case, layers: Sequence[int], kind: str) -> Exact:
    """Add up a number of items in each step, "live" or "births": in units, but for a layer alone."""
    counts = [getattr(case.lives[layer], kind).astype(object) for layer in layers]
    return np.sum([count * size for count, size in zip(counts, _sizes(case, layers), strict=True)], axis=0)


def _sizes(case: Case, layers: Sequence[int]) -> list[int]:
    """Return what an item of each layer counts as."""
    return [case.units[layer][0] for layer in layers] if len(layers) > 1 else [1]


def _beyond_room(
    case: Case, slow: int, layers: Sequence[int], reading: list[bool], reads: Exact
) -> tuple[Exact, NDArray[np.bool_]]:
    """Return how many reads the tier `slow` serves at least, as other tiers have no room, and if all fit.

    Every layer's items are read where they are when its slot begins. They have been there since the step
    began: no layer's items move but in its own slots. So all that a step reads at a tier has room there.

    Parameters
    ----------
    reads
        Items read in each slot of these layers, in units where they are added up, (steps,).
    """
    size = 1 if len(layers) > 1 else case.units[layers[0]][0]
    last, inclusive = len(case.names) - 1, case.rules["copies"] == "inclusive"
    none, everywhere = 0 * reads, np.ones(len(reads), np.bool_)
    # with inclusive copies the last tier may serve what others hold
    holders = [k for k in range(last + 1) if reading[k] or (inclusive and reading[last])]
    others = [case.room[k] for k in holders if k != slow]
    unlimited = inclusive and last in holders and slow != last
    if size == 0 or not _keeps(case, layers) or unlimited or None in others:
        return none, everywhere
    room = sum(max(each or 0, 0) * case.granularity // size for each in others)
    if slow in holders:
        return np.maximum(reads - room, 0), everywhere
    return none, (reads <= room).astype(np.bool_)


def sum_of_slots(
    case: Case,
    given: Multipliers,
    layers: Sequence[int],
    reads: Sequence[Ints],
    within: tuple[Exact, Exact] | None = None,
    excluded: Callable[[list[bool]], NDArray[np.bool_]] | None = None,
) -> int | None:
    """Return the sum of the minima of a layer's slots, or of steps, each rounded down.

    Parameters
    ----------
    layers
        Those that are timed together. Of several, items count with their units.
    reads
        Items read in each slot of these layers, (steps,) each.
    within
        The least and the largest number of items read at the split tier, moved from there or not, that each
        slot may have, (steps,) each; without it any number that exists.
    excluded
        Whether the reads of each slot are known not to be served by exactly these tiers, (steps,).

    Returns
    -------
    The sum in units of 2**-scale seconds, or None if some slot has no such number or tiers.
    """
    rates = _Rates(case, given.scale)
    items = [each.astype(object) for each in reads]
    live, births = (_in_units(case, layers, kind) for kind in ("live", "births"))
    total = np.sum([count * size for count, size in zip(items, _sizes(case, layers), strict=True)], axis=0)
    each, first = 4 if given.whole_writes is not None else 2, layers[0]
    values, empty = [], []
    for part, theta in enumerate(given.theta[:, :, :, first].astype(object)):
        number, rest = divmod(part, each)
        reading = _reading(case, layers, number)
        if reading is None:
            continue
        read = _range(given.whole[:, first], live, rest % 2)
        least, fits = _beyond_room(case, given.tier, layers, reading, total)
        read = np.maximum(read[0], least), read[1]
        if within is not None:
            read = np.maximum(read[0], within[0]), np.minimum(read[1], within[1])
        written = (0 * live, live + births)
        if given.whole_writes is not None:
            written = _range(given.whole_writes[:, first], live + births, rest // 2)
        sums = _Sums(case, given, rates.unit, rates.of_bytes(theta), reading)
        for layer, of_layer in zip(layers, items, strict=True):
            sums.add(layer, of_layer, alone=len(layers) == 1)
        least, possible = sums.least(read, written)
        values.append(least + _wait(case, given, layers, reading, rates.shares(theta), rates.unit))
        impossible = (read[1] < read[0]) | (written[1] < written[0]) | ~possible | ~fits
        empty.append(impossible if excluded is None else impossible | excluded(reading))
    if np.all(empty, axis=0).any():
        return None
    most = np.maximum.reduce(values)
    least = np.minimum.reduce([np.where(*each, most) for each in zip(~np.array(empty), values, strict=True)])
    return int((least // rates.unit).sum())


class _Rates:
    """What bytes cost under weights theta, in integers.

    Prices are in 2**-scale seconds. theta_r / bandwidth_r is an integer in units of 1 / `unit` of that, and
    so is the energy of a byte, which counts in full.
    """

    def __init__(self, case: Case, scale: int) -> None:
        rates = [case.objective.second / Fraction(rate) for rate in case.bandwidth]
        energy = case.objective.byte or (Fraction(0),) * len(rates)
        self._common = math.lcm(*(each.denominator for each in (*rates, *energy)))
        self._finer, self._coarser = max(scale, 0), max(-scale, 0)
        self._whole = [
            (int(rate * self._common), int(each * self._common))
            for rate, each in zip(rates, energy, strict=True)
        ]
        # theta has the resources in the order of their names
        by_name = sorted(range(len(rates)), key=lambda r: case.resources[r])
        self._rank = [by_name.index(r) for r in range(len(rates))]
        self.unit = self._common * FULL << self._coarser

    def of_bytes(self, theta: Exact) -> list[Exact]:
        """Return the cost of a byte on each resource, from theta (resources, steps)."""
        pairs = zip(self._rank, self._whole, strict=True)
        return [theta[rank] * rate + FULL * energy << self._finer for rank, (rate, energy) in pairs]

    def shares(self, theta: Exact) -> list[Exact]:
        """Return the cost of a unit of time on each resource."""
        return [theta[rank] * (self._common << self._coarser) for rank in self._rank]


def _range(whole: Ints, most: Exact, more: int) -> tuple[Exact, Exact]:
    """Return the least and the largest number of items in one part: at most `whole`, or more."""
    if more:
        return np.maximum(whole.astype(object) + 1, 0), most
    return 0 * most, np.minimum(whole.astype(object), most)


class _Sums:
    """A lower bound of slots, given the ranges of the items read at, and written to, the split tier.

    Each item read is read at some tier, with inclusive copies at the cheaper copy; each birth is written to
    some tier, with inclusive copies to the last one; an unread live item may move. Counts whose price exceeds
    their cost take their largest value, all others their smallest. Only some tiers serve reads.

    Parameters
    ----------
    unit
        What prices are multiplied by.
    cost
        Of a byte on each resource.
    reading
        Whether each tier serves reads.
    """

    def __init__(
        self, case: Case, given: Multipliers, unit: int, cost: list[Exact], reading: list[bool]
    ) -> None:
        self.case, self.given, self.unit, self.reading = case, given, unit, reading
        zero = cost[0] * 0

        def priced(table: NDArray[np.float64]) -> list[Exact]:
            """Return the cost of a byte at each tier."""
            return [sum((cost[r] for r in np.flatnonzero(row)), zero) for row in table]

        self.read_byte, self.write_byte = priced(case.reads), priced(case.writes)
        self.fixed = zero
        self.must, self.possible = zero, np.ones(len(zero), np.bool_)  # reads that only the split tier serves
        self.counted: list[tuple[Exact, Exact]] = []  # net price of a unit there, and how many there are
        self.births = zero
        self.to_slow: list[Exact] = []
        self.elsewhere: list[Exact] = []

    def add(self, layer: int, reads: Exact, *, alone: bool) -> None:
        """Add a layer's slots, which read so many items, (steps,)."""
        case, slow = self.case, self.given.tier
        size, tiers = 1 if alone else case.units[layer][0], len(case.names)
        inclusive, life = case.rules["copies"] == "inclusive", case.lives[layer]
        live, births = life.live.astype(object), life.births.astype(object)
        paid = self.given.prices[:, :, layer].astype(object) * self.unit
        held, wrote = (
            [count * each for count, each in zip(case.sizes(layer), costs, strict=True)]
            for costs in (self.read_byte, self.write_byte)
        )  # of an item
        # what takes no bytes takes no time, wherever it is
        reading = [free or case.units[layer][0] == 0 for free in self.reading]
        read, extra = dict[int, Exact](), dict[int, Exact]()  # net of the prices, by tier
        for k in range(tiers):
            copies = [k, tiers - 1] if inclusive else [k]
            if any(reading[copy] for copy in copies):
                read[k] = np.minimum.reduce([held[copy] for copy in copies if reading[copy]]) - paid[k]
            if reading[k]:
                extra[k] = held[k] - paid[tiers + k]
        weight = Fraction(case.weight_reads[layer])
        self.fixed = self.fixed + weight.numerator * self.read_byte[0] // weight.denominator
        self.fixed = self.fixed - self._shares(layer, reading) * self.unit
        self._add_reads(read, extra, reads, live - reads, size)
        write = [w - paid[2 * tiers + k] for k, w in enumerate(wrote)]
        if inclusive:
            self.fixed = self.fixed + births * write[-1]
            self.fixed = self.fixed + sum(np.minimum(net, 0) * (live + births) for net in write[:-1])
            return
        others = [net for k, net in enumerate(write) if k != slow or size == 0]
        self.fixed = self.fixed + sum(np.minimum(net, 0) * (live + births) for net in others)
        elsewhere = np.maximum(np.minimum.reduce(others), 0)
        if size == 0:
            self.fixed = self.fixed + elsewhere * births
            return
        self.births = self.births + births * size
        self.to_slow.append(write[slow] // size)
        self.elsewhere.append(elsewhere // size)

    def _shares(self, layer: int, reading: list[bool]) -> Exact:
        """Return the sum of what blocks can pay, each in the dearest tier whose blocks are read, (steps,)."""
        if self.given.shares is None:
            return self.births * 0
        inclusive, late = self.case.rules["copies"] == "inclusive", np.flatnonzero(self.case.latency)
        open_to_reads = [reading[k] or (inclusive and reading[-1]) for k in late]
        dearest = self.given.shares[open_to_reads, :, layer].max(axis=0, initial=0)
        return np.asarray(dearest.sum(axis=-1, dtype=object), object)

    def _add_reads(
        self, read: dict[int, Exact], extra: dict[int, Exact], reads: Exact, unread: Exact, size: int
    ) -> None:
        """Add reads and moves of unread items; those at the split tier are counted, in units of this size."""
        slow = self.given.tier if size else -1
        others = [net for k, net in read.items() if k != slow]
        self.fixed = self.fixed + sum(np.minimum(net, 0) * unread for k, net in extra.items() if k != slow)
        if others:
            here = np.minimum.reduce(others)
            self.fixed = self.fixed + reads * here
            if slow in read:
                self.counted.append(((read[slow] - here) // size, reads * size))
        elif slow in read:  # every item read is read there
            self.fixed, self.must = self.fixed + reads * read[slow], self.must + reads * size
        else:
            self.possible &= (reads == 0).astype(np.bool_)
        if slow in extra:
            self.counted.append((extra[slow] // size, unread * size))

    def least(
        self, read: tuple[Exact, Exact], written: tuple[Exact, Exact]
    ) -> tuple[Exact, NDArray[np.bool_]]:
        """Return the bound, and whether it holds of any slot, given the ranges of reads and of writes."""
        low, high = np.maximum(read[0] - self.must, 0), read[1] - self.must
        possible, total = self.possible & (high >= 0).astype(np.bool_), self.fixed
        if self.counted:
            slope = np.minimum.reduce([net for net, _ in self.counted])
            floor = sum(np.minimum(net, 0) * most for net, most in self.counted)  # all that there is
            total = total + np.maximum(np.minimum(slope * low, slope * high), floor)
        else:
            possible &= (low == 0).astype(np.bool_)
        if self.to_slow:
            total = total + _written(
                np.minimum.reduce(self.to_slow), np.minimum.reduce(self.elsewhere), self.births, written
            )
        return total, possible


def _written(to_slow: Exact, elsewhere: Exact, births: Exact, there: tuple[Exact, Exact]) -> Exact:
    """Return the least price of a slot's writes to the split tier, given their range, and of other births.

    That is convex and piecewise linear in their number: births that are not among them are written elsewhere.
    """
    low, high = there
    numbers = low, high, np.maximum(low, np.minimum(births, high))
    return np.minimum.reduce(
        [to_slow * number + elsewhere * np.maximum(births - number, 0) for number in numbers]
    )


def _reading(case: Case, layers: Sequence[int], number: int) -> list[bool] | None:
    """Return which tiers serve reads of slots in a case, None if there are no such slots.

    Tiers without a latency always may; the bits of the number are the others. Tier 0 does where a layer reads
    weights. What takes no bytes takes no time: without KV only the weights wait.
    """
    late, weights = np.flatnonzero(case.latency).tolist(), _reads_weights(case, layers)
    reading = [k not in late or bool(number >> late.index(k) & 1) for k in range(len(case.latency))]
    if not _keeps(case, layers):
        return [True] * len(reading) if number == int(weights and 0 in late) else None
    return reading if reading[0] or not weights else None


def _keeps(case: Case, layers: Sequence[int]) -> bool:
    """Whether some layer keeps KV."""
    return any(case.units[layer][0] > 0 for layer in layers)


def _reads_weights(case: Case, layers: Sequence[int]) -> bool:
    """Whether some layer reads weights."""
    return bool((case.weight_reads[list(layers)] > 0).any())


def _wait(
    case: Case, given: Multipliers, layers: Sequence[int], reading: list[bool], share: list[Exact], unit: int
) -> Exact:
    """Return how long slots wait for the tiers that serve their reads, in units as costs have them.

    Parallel resources wait for the longest of the latencies, in shares of their theta; serial ones for all.
    """
    scale = Fraction(2) ** given.scale
    if not _keeps(case, layers):
        reading = [k == 0 and _reads_weights(case, layers) for k in range(len(reading))]
    late = [
        math.floor(case.objective.second * Fraction(seconds) * scale) if inside else 0
        for seconds, inside in zip(case.latency, reading, strict=True)
    ]
    if case.rules["timing"] == "serial":
        return sum(late) * unit + 0 * share[0]
    longest = [max(s if loads else 0 for s, loads in zip(late, of, strict=True)) for of in case.reads.T]
    return sum(seconds * theta for seconds, theta in zip(longest, share, strict=True))
