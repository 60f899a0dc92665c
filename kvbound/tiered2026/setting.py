"""What the study's formulas take from a memory and a language model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from kvbound.errors import InfeasibleError, InputError
from kvbound.llm.model import Llm
from kvbound.memory import Memory, Tier
from kvbound.units import format_bytes

BITS = 16
"""Bits of a cached value in an llm's own KV."""


@dataclass(frozen=True)
class Place:
    """A tier by its numbers alone.

    Attributes
    ----------
    name
        As in the memory.
    capacity
        Bytes, None for unlimited.
    read, write
        Bytes/s, of the slowest resource on the way.
    joules
        Of a byte read, NaN where unknown.
    """

    name: str
    capacity: float | None
    read: float
    write: float
    joules: float

    def holds(self, size: Fraction | float) -> bool:
        """Whether that many bytes fit."""
        return self.capacity is None or size <= self.capacity


@dataclass(frozen=True)
class Setting:
    """A memory and a model as the study's formulas see them.

    Attributes
    ----------
    tiers
        Fastest first, whatever their order in the memory.
    home
        Tier of the weights: the memory's tier 0. They take up no room there.
    weight_bytes
        Bytes of the weights, all of which every step reads.
    kv_bytes
        Bytes of a token's KV in all layers.
    parameters
        Parameters of the model, for the energy of arithmetic and the roofline.
    joules_per_mac
        Of a multiply-accumulate operation, None where unknown.
    """

    tiers: tuple[Place, ...]
    home: Place
    weight_bytes: int
    kv_bytes: Fraction
    parameters: int
    joules_per_mac: float | None = None

    @classmethod
    def of(cls, memory: Memory, llm: Llm, bits: int = BITS) -> Setting:
        """Return the setting of a memory and a model.

        Parameters
        ----------
        bits
            Bits of a cached value, where the llm's KV has 16; scales are not counted.

        Raises
        ------
        InputError
            The bits are not from 1 to 64, or the llm does not state its parameters.
        """
        if not isinstance(bits, int) or not 1 <= bits <= 64:
            raise InputError("tiered2026", "bits", f"1 to 64 bits of a cached value, not {bits!r}")
        if llm.parameters is None:
            raise InputError(f"llm {llm.name!r}", "parameters", "the number of parameters")
        joules = dict(zip(memory.resources, memory.joules_per_byte().tolist(), strict=True))
        places = [_place(tier, memory.resources, joules) for tier in memory.tiers]
        return cls(
            tuple(sorted(places, key=lambda place: -place.read)),
            places[0],
            int(llm.weight_bytes),
            Fraction(llm.kv_bytes(1) * bits, BITS),
            llm.parameters,
            memory.joules_per_mac(),
        )

    def landing(self, tokens: int) -> Place:
        """Return the fastest tier that holds the KV of that many tokens.

        Raises
        ------
        InfeasibleError
            No tier holds it.
        """
        size = tokens * self.kv_bytes
        for place in self.tiers:
            if place.holds(size):
                return place
        raise InfeasibleError(f"no single tier holds {format_bytes(float(size))} of KV, {tokens:,} tokens")

    def most_tokens(self, place: Place) -> float:
        """Return the tokens whose KV a tier holds, infinite where it is unlimited."""
        return math.inf if place.capacity is None else int(Fraction(place.capacity) / self.kv_bytes)

    def bytes_per_token(self, context: int, window: int | None = None) -> Fraction:
        """Return the bytes that a step reads and writes to decode one token.

        Parameters
        ----------
        context
            Tokens whose KV is read.
        window
            The latest tokens, to which the reads are limited; by default none.
        """
        read = context if window is None else min(context, window)
        return self.weight_bytes + (read + 1) * self.kv_bytes

    def seconds(self, tokens: int, written: int = 1) -> float:
        """Return the time of a step whose whole KV is in one tier.

        Parameters
        ----------
        tokens
            Tokens whose KV is read, those that the step writes included.
        written
            Tokens that it writes: one for each user.
        """
        place, size = self.landing(tokens), float(self.kv_bytes)
        weights = self.weight_bytes / self.home.read
        return weights + tokens * size / place.read + written * size / place.write

    def joules(self, tokens: int) -> tuple[float, float, float]:
        """Return the energy of such a step: weights, KV and arithmetic.

        NaN where the memory does not state an energy.
        """
        place = self.landing(tokens)
        mac = math.nan if self.joules_per_mac is None else self.joules_per_mac
        kv = float((tokens + 1) * self.kv_bytes) * place.joules
        return self.weight_bytes * self.home.joules, kv, self.parameters * mac


def _place(tier: Tier, rates: Mapping[str, float], joules: Mapping[str, float]) -> Place:
    read = min(rates[name] for name in tier.reads)
    write = min((rates[name] for name in tier.writes), default=math.inf)
    return Place(tier.name, tier.capacity, read, write, sum(joules[name] for name in tier.reads))
