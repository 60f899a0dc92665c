"""A memory hierarchy: tiers, fast to slow, and the resources their reads and writes load."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kvbound.errors import InputError
from kvbound.fields import MAX_BYTES, Fields, located, show
from kvbound.units import UnitError, is_share, whole_down

MAX_TIERS: Final = 8
"""With links the number of facets of slot times triples with each tier, to 2,000 for eight."""
MAX_RESOURCES: Final = 128
MAX_WATTS: Final = 1e9
ENERGY_LEVELS: Final = ("device", "system")
ENERGY_POINTS: Final = ("low", "mid", "high")

Energy = Mapping[str, Mapping[str, float]]
"""Level (``device`` or ``system``) to ``low``, ``mid``, ``high``: pJ."""


@dataclass(frozen=True)
class Tier:
    """One place a KV entry can be in.

    Parameters
    ----------
    name
        Unique within its memory.
    capacity
        Bytes, resident weights included; None is unlimited. Rounded down to an int.
    reads, writes
        Names of the resources that a byte read from (written to) this tier loads; writes may load none.
    latency
        Seconds, once per slot in which the tier is touched.
    """

    name: str
    capacity: float | None
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    latency: float = 0.0

    def __post_init__(self) -> None:
        if self.capacity is not None:
            try:
                object.__setattr__(self, "capacity", whole_down(self.capacity))
            except UnitError as error:
                raise InputError(f"tier {self.name!r}", "capacity", str(error)) from None


@dataclass(frozen=True)
class Memory:
    """Tiers, fast to slow, over shared resources.

    Parameters
    ----------
    name
        Name for display, and of catalog entries.
    resources
        Name to bandwidth in bytes/s; a resource is for example a tier's own bus, or one direction of a link.
    tiers
        At least two, fastest first; only the last may be unlimited.
    source
        What the memory is, and the origin of its numbers.
    sources
        Dotted field, such as ``resources.hbm`` or ``tiers.hbm.capacity``, to the origin of its number.
    energy
        Resource to level (``device`` or ``system``) to ``low``, ``mid``, ``high``: pJ per bit transferred.
    mac_energy
        Level to ``low``, ``mid``, ``high``: pJ per multiply-accumulate operation, which is two FLOPs.
    static_watts
        Power that is drawn all the time, None if unknown. Times do not depend on it, nor on energies.

    Raises
    ------
    InputError
        A value is invalid, or a tier uses a resource that does not exist.
    """

    name: str
    resources: Mapping[str, float] = field(hash=False)
    tiers: tuple[Tier, ...]
    source: str = field(default="", compare=False)
    sources: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    energy: Mapping[str, Energy] = field(default_factory=dict, compare=False, repr=False)
    mac_energy: Energy = field(default_factory=dict, compare=False, repr=False)
    static_watts: float | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "resources", dict(self.resources))
        for name, rate in self.resources.items():
            self._require(
                0 < rate < math.inf, f"resources.{name}", f"a finite bandwidth above 0, not {rate!r}"
            )
        rates = len(self.resources)
        self._require(rates <= MAX_RESOURCES, "resources", f"at most {MAX_RESOURCES} resources, not {rates}")
        count = len(self.tiers)
        self._require(2 <= count <= MAX_TIERS, "tiers", f"2 to {MAX_TIERS} tiers, fast to slow, not {count}")
        for k, tier in enumerate(self.tiers):
            self._check_tier(k, tier)
        watts = self.static_watts
        valid = watts is None or 0 <= watts < math.inf
        self._require(valid, "static_watts", f"a finite power of at least 0, not {watts!r}")

    def _check_tier(self, k: int, tier: Tier) -> None:
        at = f"tiers.{tier.name}"
        unique = tier.name not in {other.name for other in self.tiers[:k]}
        self._require(unique, at, "every tier's name only once")
        for what, used in (("reads", tier.reads), ("writes", tier.writes)):
            for name in used:
                known = ", ".join(self.resources)
                self._require(name in self.resources, f"{at}.{what}", f"names out of {known}, not {name!r}")
            self._require(len(used) == len(set(used)), f"{at}.{what}", "every resource only once")
        self._require(bool(tier.reads), f"{at}.reads", "at least one resource")
        if tier.capacity is None:
            last = k == len(self.tiers) - 1
            self._require(last, f"{at}.capacity", "a size, as only the last tier may be unlimited")
        else:
            valid = tier.capacity <= MAX_BYTES
            self._require(valid, f"{at}.capacity", f"at most {MAX_BYTES:,} bytes, not {show(tier.capacity)}")
        valid = 0 <= tier.latency < math.inf
        self._require(valid, f"{at}.latency", f"a finite time of at least 0, not {tier.latency!r}")

    def _require(self, valid: bool, where: str, expected: str) -> None:
        if not valid:
            raise InputError(f"memory {self.name!r}", where, expected)

    @property
    def bandwidths(self) -> NDArray[np.float64]:
        """Bandwidth of each resource, bytes/s, ``(resources,)``."""
        return np.array(list(self.resources.values()), dtype=np.float64)

    @property
    def late_tiers(self) -> tuple[int, ...]:
        """Numbers of the tiers that have a latency."""
        return tuple(k for k, tier in enumerate(self.tiers) if tier.latency)

    def joules_per_byte(self, level: str = "device", point: str = "mid") -> NDArray[np.float64]:
        """Energy of a byte on each resource, in joules, NaN where it is unknown, ``(resources,)``."""
        known = (self.energy.get(name, {}).get(level, {}) for name in self.resources)
        return np.array([8e-12 * points.get(point, math.nan) for points in known])

    def joules_per_mac(self, level: str = "device", point: str = "mid") -> float | None:
        """Energy of a multiply-accumulate operation, in joules, or None where it is unknown."""
        found = self.mac_energy.get(level, {}).get(point)
        return None if found is None else 1e-12 * found

    @property
    def read_load(self) -> NDArray[np.float64]:
        """1 where a read from the tier loads the resource, else 0, ``(tiers, resources)``."""
        return self._load([tier.reads for tier in self.tiers])

    @property
    def write_load(self) -> NDArray[np.float64]:
        """1 where a write to the tier loads the resource, else 0, ``(tiers, resources)``."""
        return self._load([tier.writes for tier in self.tiers])

    def _load(self, used: list[tuple[str, ...]]) -> NDArray[np.float64]:
        return np.array([[name in names for name in self.resources] for names in used], dtype=np.float64)

    @classmethod
    def from_mapping(
        cls,
        mapping: object,
        file: object = "memory",
        field: str = "",
        share_of: Callable[[Fraction], float] | None = None,
    ) -> Memory:
        """Read a memory in the form of instance files and the catalog.

        Parameters
        ----------
        mapping
            ``name``, ``resources``, ``tiers``; optionally ``source``, ``sources``, ``energy``,
            ``mac_energy``, ``static_watts``. Numbers are bytes, bytes/s and seconds; text carries a unit.
        file, field
            Place of `mapping`, for messages.
        share_of
            Function that converts a capacity given as a share, such as ``"30%"``, into bytes; without it
            shares are refused, as they have a meaning only together with an llm and a trace.

        Raises
        ------
        InputError
            A field is missing or invalid; the message names it and what was expected.
        """
        fields = Fields(mapping, file, field)
        rates = fields.child("resources")
        memory: dict[str, Any] = {
            "name": fields.name("name"),
            "resources": {name: rates.bandwidth(name) for name in rates},
            "tiers": tuple(_read_tier(tier, share_of) for tier in fields.children("tiers")),
            "source": fields.text("source", ""),
            "sources": _read_sources(fields.child("sources", {})),
            "energy": _read_energy(fields.child("energy", {}), rates),
            "mac_energy": _read_levels(fields.child("mac_energy", {}), "operation"),
            "static_watts": fields.number("static_watts", 0, MAX_WATTS, default=None),
        }
        fields.done()
        with located(file, field):
            return cls(**memory)

    def to_mapping(self) -> dict[str, Any]:
        """Return the fields that results depend on, in bytes and seconds, as in expanded instances.

        Energies and powers are left out where none are known.
        """
        known = {
            "energy": {name: _spelled(levels) for name, levels in self.energy.items()},
            "mac_energy": _spelled(self.mac_energy),
            "static_watts": self.static_watts,
        }
        return {
            "name": self.name,
            "resources": dict(self.resources),
            "tiers": [
                {
                    "name": tier.name,
                    "capacity": tier.capacity,
                    "reads": list(tier.reads),
                    "writes": list(tier.writes),
                    "latency": tier.latency,
                }
                for tier in self.tiers
            ],
            **{name: value for name, value in known.items() if value not in ({}, None)},
        }


def _spelled(levels: Energy) -> dict[str, dict[str, float]]:
    return {level: dict(points) for level, points in levels.items()}


def _read_tier(fields: Fields, share_of: Callable[[Fraction], float] | None) -> Tier:
    tier = Tier(
        name=fields.name("name"),
        capacity=_read_capacity(fields, share_of),
        reads=fields.names("reads"),
        writes=fields.names("writes"),
        latency=fields.seconds("latency", 0.0),
    )
    fields.done()
    return tier


def _read_capacity(fields: Fields, share_of: Callable[[Fraction], float] | None) -> float | None:
    value = fields.raw("capacity", "a size, a share, or null for unlimited")
    if value is None or value == "unlimited":  # TOML has no null
        return None
    if not is_share(value):
        return math.floor(fields.bytes("capacity"))
    if share_of is None:
        raise fields.error("capacity", f"a size, as {value!r} of the KV needs an instance around it")
    return share_of(fields.exact_share("capacity"))


def _read_sources(fields: Fields) -> dict[str, str]:
    return {path: fields.text(path) for path in fields}


def _read_energy(fields: Fields, resources: Fields) -> dict[str, Energy]:
    energy: dict[str, Energy] = {}
    for name in fields:
        if not resources.has(name):
            raise fields.error(name, f"one of the resources {', '.join(resources)}")
        energy[name] = _read_levels(fields.child(name), "bit")
    return energy


def _read_levels(fields: Fields, per: str) -> Energy:
    levels = {level: _read_points(fields.child(level), per) for level in ENERGY_LEVELS if fields.has(level)}
    fields.done()
    return levels


def _read_points(fields: Fields, per: str) -> dict[str, float]:
    points = {point: fields.number(point, 0, 1e6) for point in ENERGY_POINTS if fields.has(point)}
    fields.done()
    if not points or any(low > high for low, high in pairwise(points.values())):
        expected = f"low <= mid <= high in pJ per {per}, at least one of them"
        raise fields.error("", f"{expected}, not {show(points)}")
    return points
