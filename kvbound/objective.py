"""What is minimised: decode time, energy, or a mix of both."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from kvbound.errors import InputError
from kvbound.fields import Fields, located, show
from kvbound.memory import ENERGY_LEVELS, ENERGY_POINTS, Memory

LEAST, MOST = 1e-18, 1e18
"""Range of the weights that are not 0."""


class Prices(NamedTuple):
    """An objective for one memory.

    Attributes
    ----------
    second
        Price of a second of decode time, with the power that is drawn all the time.
    byte
        Price of a byte's energy on each resource, shape (resources,); empty if energy does not count.
    """

    second: float = 1.0
    byte: tuple[float, ...] = ()


TIME = Prices()
"""Time alone, in seconds."""


@dataclass(frozen=True)
class Objective:
    """Weights of decode time and energy, and which estimates of energies count.

    The energy is that of transfers and, where the memory states it, of static power. That of arithmetic is
    the same for all schedules and left out.

    Attributes
    ----------
    time, energy
        Weight of a second, and of a joule; not both 0.
    level, point
        Level and point of the memory's energies, for results as well.

    Raises
    ------
    InputError
        A field is invalid.
    """

    time: float = 1.0
    energy: float = 0.0
    level: str = "device"
    point: str = "mid"

    def __post_init__(self) -> None:
        for name in ("time", "energy"):
            weight = getattr(self, name)
            if not (weight == 0 or LEAST <= weight <= MOST):
                raise InputError("objective", name, f"0, or a weight from {LEAST} to {MOST}, not {weight!r}")
        if not (self.time or self.energy):
            raise InputError("objective", "", "a weight of time or of energy above 0, not both 0")
        for name, known in (("level", ENERGY_LEVELS), ("point", ENERGY_POINTS)):
            if getattr(self, name) not in known:
                expected = f"one of {', '.join(known)}, not {getattr(self, name)!r}"
                raise InputError("objective", name, expected)

    @property
    def time_alone(self) -> bool:
        """Whether decode time in seconds is all that counts."""
        return self.time == 1 and self.energy == 0

    @classmethod
    def from_mapping(cls, mapping: object, file: object = "objective", field: str = "") -> Objective:
        """Read an objective in the form of instance files.

        Raises
        ------
        InputError
            A field is invalid; the message names it and what was expected.
        """
        fields = Fields(mapping, file, field)
        time, energy = (fields.number(name, 0, MOST, getattr(cls, name)) for name in ("time", "energy"))
        level, point = (fields.text(name, getattr(cls, name)) for name in ("level", "point"))
        fields.done()
        with located(file, field):
            return cls(time, energy, level, point)

    @classmethod
    def from_text(cls, text: str) -> dict[str, Any]:
        """Return the table of an instance file for text such as ``energy`` or ``time=1,energy=0.5``.

        The words stand for these alone; what is not named has its default.

        Raises
        ------
        InputError
            The text has another form.
        """
        found: dict[str, Any] = {}
        for n, part in enumerate(text.split(",")):
            name, equals, value = (each.strip() for each in part.partition("="))
            if not n and not equals and name in ("time", "energy"):
                found |= {"time": float(name == "time"), "energy": float(name == "energy")}
            elif value and name in ("level", "point"):
                found[name] = value
            elif name in ("time", "energy") and (number := as_decimal(value)) is not None:
                found[name] = number
            else:
                expected = "time, energy, or weights such as time=1,energy=0.5"
                raise InputError("objective", "", f"{expected}, not {show(text)}")
        return found

    def __str__(self) -> str:
        """Return text that `from_text` reads."""
        parts = [f"time={self.time:g},energy={self.energy:g}"]
        if 1 in (self.time, self.energy) and 0 in (self.time, self.energy):
            parts = ["time" if self.time else "energy"]
        if float(f"{self.time:g}") != self.time or float(f"{self.energy:g}") != self.energy:
            parts = [f"time={self.time!r},energy={self.energy!r}"]
        defaults = TIME_ALONE.level, TIME_ALONE.point
        for name, value, usual in zip(("level", "point"), (self.level, self.point), defaults, strict=True):
            parts += [f"{name}={value}"] if value != usual else []
        return ",".join(parts)

    def to_mapping(self) -> dict[str, Any]:
        """Return the fields of instance files."""
        return asdict(self)

    def prices(self, memory: Memory) -> Prices:
        """Return the prices that a memory's energies give.

        Raises
        ------
        InputError
            Energy counts, and that of a resource which transfers load is unknown, or nothing costs anything.
        """
        if not self.energy:
            return Prices(float(self.time))
        joules = memory.joules_per_byte(self.level, self.point)
        for name, each in zip(memory.resources, joules.tolist(), strict=True):
            if math.isnan(each) and any(name in (*tier.reads, *tier.writes) for tier in memory.tiers):
                expected = f"energies known at level {self.level}, point {self.point}"
                raise InputError(
                    "objective", "energy", f"{expected}; memory {memory.name!r} has none for {name!r}"
                )
        second = self.time + self.energy * (memory.static_watts or 0.0)
        byte = tuple((self.energy * np.nan_to_num(joules)).tolist())
        if not (second or any(byte)):
            raise InputError("objective", "energy", f"energies above 0; all of memory {memory.name!r} are 0")
        return Prices(float(second), byte)

    def value(self, time_s: float, energy_j: float) -> float:
        """Return the objective of a decode time and of the energy of transfers and static power."""
        return self.time * time_s + (self.energy * energy_j if self.energy else 0.0)


TIME_ALONE = Objective()
"""The default: decode time in seconds."""


def as_decimal(text: str) -> float | None:
    """Return the number that a text is, None if it is none."""
    try:
        return float(text)
    except ValueError:
        return None
