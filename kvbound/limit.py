"""How fast a model can decode at a given context at best, and with some static placements.

A decode step reads the weights that a token needs and the KV of the tokens that it attends to, each byte from
a tier that held it when the step began, and no tier holds more than its capacity. Whatever moves when, and
however layers overlap, the step therefore takes at least the optimum of a linear program over the bytes read
from each tier. Latencies, arithmetic, and weights that no layer reads, such as embeddings, are left out: they
can only add to it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np

from kvbound.cost.slot import SlotCost
from kvbound.errors import InfeasibleError, UsageError
from kvbound.llm.model import Llm
from kvbound.memory import Memory
from kvbound.policies.llamacpp import RESERVE
from kvbound.rules import Rules
from kvbound.units import format_bytes


@dataclass(frozen=True)
class Decoding:
    """A setting in which steps decode one token of each sequence.

    Parameters
    ----------
    context
        Tokens of each sequence whose KV exists when a step begins.
    batch
        Sequences decoded together, for which the weights are read once.
    share
        Share of the context that a step reads: 1 with full attention.
    allocated
        Tokens of each sequence for which room is kept; by default the context.

    Raises
    ------
    UsageError
        A number makes no sense.
    InfeasibleError
        Weights and KV do not fit into all tiers together.
    """

    memory: Memory
    llm: Llm
    context: int
    batch: int = 1
    share: float = 1.0
    allocated: int | None = None

    def __post_init__(self) -> None:
        if self.context < 0 or self.batch < 1 or not 0 <= self.share <= 1:
            raise UsageError(
                "a limit needs a context of at least 0 tokens, a batch of at least 1 and a share of at most 1"
            )
        if self.allocated is not None and self.allocated < self.context:
            raise UsageError(
                f"room for {self.allocated:,} tokens does not hold a context of {self.context:,}"
            )
        sizes = [tier.capacity for tier in self.memory.tiers]
        needed = int(self.llm.weight_bytes) + self.kv_bytes
        if None not in sizes and needed > sum(size or 0 for size in sizes):
            weights, kv = format_bytes(self.llm.weight_bytes), format_bytes(self.kv_bytes)
            room = format_bytes(sum(size or 0 for size in sizes))
            raise InfeasibleError(
                f"{weights} of weights and {kv} of KV do not fit into {self.memory.name}, which holds {room}"
            )

    @cached_property
    def cost(self) -> SlotCost:
        """Seconds per byte of the memory."""
        return SlotCost(self.memory, Rules())

    @property
    def kv_bytes(self) -> int:
        """Bytes that the KV of all sequences takes."""
        return sum(self.kv_by_layer)

    @property
    def kv_by_layer(self) -> list[int]:
        """Bytes that the KV of all sequences takes in each layer, shape (layers,)."""
        return self._kept(self.context if self.allocated is None else self.allocated)

    @property
    def kv_reads(self) -> Fraction:
        """Bytes of KV that a step reads."""
        return sum(self.kv_reads_by_layer, Fraction(0))

    @property
    def kv_reads_by_layer(self) -> list[Fraction]:
        """Bytes of KV that a step reads in each layer, shape (layers,)."""
        return [Fraction(self.share) * size for size in self._kept(self.context)]

    def _kept(self, tokens: int) -> list[int]:
        """Return the bytes of all sequences' KV by layer."""
        return [self.batch * size for size in self.llm.kv_kept(tokens)]

    @property
    def weight_reads(self) -> Fraction:
        """Bytes of weights that a step reads."""
        return sum(map(Fraction, self.llm.weight_reads.tolist()), Fraction(0))

    @property
    def reads(self) -> Fraction:
        """Bytes that a step reads."""
        return self.weight_reads + self.kv_reads

    @property
    def births(self) -> Fraction:
        """Bytes of the KV that a step adds."""
        return self.batch * Fraction(self.llm.kv_bytes(1))


@dataclass(frozen=True)
class Limit:
    """A time lower bound of a decode step.

    Attributes
    ----------
    time_s
        The bound, proved in rational arithmetic and rounded down.
    reads
        Bytes that a step reads from each tier, by its name, if it takes no longer than that.
    resources
        Share of the time that each resource accounts for; see `kvbound.binding.Binding.resources`.
    """

    time_s: float
    reads: Mapping[str, float]
    resources: Mapping[str, float]


def decode_limit(setting: Decoding) -> Limit:
    """Return the least time of a decode step."""
    from scipy.optimize import linprog

    memory, cost = setting.memory, setting.cost
    tiers, rates = len(memory.tiers), memory.bandwidths
    rooms = [_room(setting, k) for k in range(tiers)]
    # columns: bytes read from each tier, bytes written to each, time; in units of all bytes, and of their
    # time on the slowest resource
    size = float(setting.reads + setting.births) or 1.0
    unit = size / rates.min()
    busy = np.vstack([cost.read_costs, cost.write_costs]).T * size / unit
    sums = np.zeros((2, 2 * tiers + 1))
    sums[0, :tiers] = sums[1, tiers:-1] = 1
    bounds = [(0, None if room is None else float(room) / size) for room in rooms] + [(0, None)] * (tiers + 1)
    found: Any = linprog(
        np.eye(2 * tiers + 1)[-1], np.hstack([busy, -np.ones((len(rates), 1))]), np.zeros(len(rates)),
        sums, [float(setting.reads) / size, float(setting.births) / size], bounds, method="highs",
    )  # fmt: skip
    weights = np.maximum(-found.ineqlin.marginals, 0)
    weights /= weights.sum() or 1.0
    prices = [Fraction(max(-price, 0.0)) * Fraction(unit / size) for price in found.upper.marginals[:tiers]]
    served = (found.x[:tiers] * size).tolist()
    return Limit(
        _proved(setting, weights.tolist(), prices, rooms),
        dict(zip((tier.name for tier in memory.tiers), served, strict=True)),
        dict(zip(memory.resources, weights.tolist(), strict=True)),
    )


def sequential_s(setting: Decoding) -> float:
    """Return the least seconds of a decode step that reads one tier after the other, and then writes."""
    tiers = range(len(setting.memory.tiers))
    left, seconds = setting.reads, min(_written_s(setting, tier, setting.births) for tier in tiers)
    for tier in sorted(tiers, key=lambda k: _read_s(setting, k, Fraction(1))):
        room = _room(setting, tier)
        part = left if room is None else min(left, room)
        left, seconds = left - part, seconds + _read_s(setting, tier, part)
    return seconds


def _room(setting: Decoding, tier: int) -> Fraction | None:
    """Return the bytes that a step can read from a tier: those that it holds, and weights read again."""
    size = setting.memory.tiers[tier].capacity
    if size is None:
        return None
    again = max(setting.weight_reads - Fraction(setting.llm.weight_bytes), Fraction(0))
    return Fraction(size) + again


def _proved(
    setting: Decoding, weights: list[float], room_prices: list[Fraction], rooms: list[Fraction | None]
) -> float:
    """Return a time lower bound by weak duality: it holds for all weights and prices >= 0.

    Parameters
    ----------
    weights
        One for each resource; their sum is made 1.
    room_prices
        Seconds per byte of each tier's capacity.
    """
    memory, total = setting.memory, sum(map(Fraction, weights)) or Fraction(1)
    rates = zip(memory.resources.items(), weights, strict=True)
    seconds = {name: Fraction(weight) / total / Fraction(rate) for (name, rate), weight in rates}
    paid = [Fraction(0) if room is None else price for room, price in zip(rooms, room_prices, strict=True)]
    reads = min(
        sum((seconds[name] for name in tier.reads), price)
        for tier, price in zip(memory.tiers, paid, strict=True)
    )
    births = min(sum((seconds[name] for name in tier.writes), Fraction(0)) for tier in memory.tiers)
    rent = sum((price * (room or 0) for room, price in zip(rooms, paid, strict=True)), Fraction(0))
    exact = max(reads * setting.reads + births * setting.births - rent, Fraction(0))
    nearest = float(exact)
    return nearest if Fraction(nearest) <= exact else math.nextafter(nearest, 0.0)


def layers_that_fit(setting: Decoding) -> int:
    """Return how many of the last layers fit into tier 0, as llama.cpp's ``-ngl`` places them.

    `RESERVE` stays free. A layer takes its part of all weights, by what is read of it, and of the room for
    KV.
    """
    capacity, total = setting.memory.tiers[0].capacity, setting.weight_reads
    assert capacity is not None  # only the last tier may be unlimited
    stored = Fraction(setting.llm.weight_bytes) / total if total else Fraction(0)
    room, count = Fraction(capacity) - RESERVE, 0
    layers = list(zip(setting.llm.weight_reads.tolist(), setting.kv_by_layer, strict=True))
    for weights, kv in reversed(layers):
        room -= Fraction(weights) * stored + kv
        if room < 0:
            break
        count += 1
    return count


def layers_first_s(setting: Decoding) -> float | None:
    """Return the seconds of a step with the layers that fit in tier 0 and the others in tier 1.

    None if these do not fit there. Layers run one after the other where they are.
    """
    weights, count = list(map(Fraction, setting.llm.weight_reads.tolist())), layers_that_fit(setting)
    first = len(weights) - count
    far, near = (sum(part, Fraction(0)) for part in (weights[:first], weights[first:]))
    reads = sum(setting.kv_reads_by_layer[first:], Fraction(0))
    births = setting.batch * Fraction(sum(setting.llm.kv_sizes[first:]))
    stored = Fraction(setting.llm.weight_bytes) * far / (setting.weight_reads or 1)
    if not _holds(setting, 1, stored + sum(setting.kv_by_layer[:first])):
        return None
    others = setting.kv_reads - reads, setting.births - births
    return _step_s(setting, 0, near + reads, births) + _step_s(setting, 1, far + others[0], others[1])


def weights_first_s(setting: Decoding) -> float | None:
    """Return the seconds of a step with weights in tier 0 and KV in tier 1; None if they do not fit.

    llama.cpp places them so with ``-nkvo``.
    """
    if not (_holds(setting, 0, setting.llm.weight_bytes) and _holds(setting, 1, setting.kv_bytes)):
        return None
    weights = _step_s(setting, 0, setting.weight_reads, Fraction(0))
    return weights + _step_s(setting, 1, setting.kv_reads, setting.births)


def all_in_first_s(setting: Decoding) -> float | None:
    """Return the seconds of a step with everything in tier 0; None if it is too large."""
    fits = _holds(setting, 0, setting.llm.weight_bytes + setting.kv_bytes)
    return _step_s(setting, 0, setting.reads, setting.births) if fits else None


def _step_s(setting: Decoding, tier: int, reads: Fraction, births: Fraction) -> float:
    """Return the seconds of reading bytes from one tier, and of writing others there."""
    return _read_s(setting, tier, reads) + _written_s(setting, tier, births)


def _holds(setting: Decoding, tier: int, size: float | Fraction) -> bool:
    capacity = setting.memory.tiers[tier].capacity
    return capacity is None or size <= capacity


def _read_s(setting: Decoding, tier: int, size: Fraction) -> float:
    """Return the time of reading bytes from one tier, through resources that work side by side."""
    return float(size) * float(setting.cost.read_costs[tier].max())


def _written_s(setting: Decoding, tier: int, size: Fraction) -> float:
    """Return the time of writing bytes to one tier."""
    return float(size) * float(setting.cost.write_costs[tier].max())


def sequences_that_fit(setting: Decoding) -> int | None:
    """Return how many such sequences fit into tier 0 beside the weights; None if any number does."""
    size, one = setting.memory.tiers[0].capacity, setting.kv_bytes // setting.batch
    assert size is not None  # only the last tier may be unlimited
    return max((int(size) - int(setting.llm.weight_bytes)) // one, 0) if one else None
