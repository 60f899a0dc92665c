"""What an instance minimises: decode time, energy, or a mix of both, in exact fractions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from kvbound.checker.report import require

LEVELS, POINTS = ("device", "system"), ("low", "mid", "high")
_FIELDS = {"time", "energy", "level", "point"}


@dataclass(frozen=True)
class Objective:
    """The objective of an instance.

    Attributes
    ----------
    time, energy
        Weight of a second, and of a joule.
    level, point
        Level and point at which energies count.
    second
        Price of a second: its weight, and that of the power that is drawn all the time.
    byte
        Price of a byte's energy on each resource, (resources,); empty where energy has no weight.
    """

    time: Fraction = Fraction(1)
    energy: Fraction = Fraction(0)
    level: str = "device"
    point: str = "mid"
    second: Fraction = Fraction(1)
    byte: tuple[Fraction, ...] = ()

    @property
    def time_alone(self) -> bool:
        """Whether decode time in seconds is all that counts."""
        return self.time == 1 and not self.energy

    @property
    def of_time(self) -> bool:
        """Whether transfers cost nothing but their time."""
        return not any(self.byte)

    def value(self, time_s: float, energy_j: float) -> float:
        """Return the objective of a decode time and of the energy of transfers and static power."""
        return float(self.time) * time_s + float(self.energy) * energy_j


TIME = Objective()


def weighs_energy(expanded: Mapping[str, Any]) -> bool:
    """Whether energies of the memory are part of what the instance minimises."""
    return bool(expanded.get("objective", {}).get("energy", 0))


def read_objective(expanded: Mapping[str, Any]) -> Objective:
    """Read the objective of an expanded instance; without one it is time alone.

    Raises
    ------
    ValueError
        It is not as expected, or weighs energies that the memory does not state.
    """
    if "objective" not in expanded:
        return TIME
    given, memory = expanded["objective"], expanded["memory"]
    weights = [given["time"], given["energy"]]
    require({
        "an objective of time, energy, level and point": set(given) == _FIELDS,
        "weights of the objective that are finite numbers >= 0": all(map(_is_weight, weights)),
        "a weight of the objective above 0": any(weights),
        "a known level and point of energies": given["level"] in LEVELS and given["point"] in POINTS,
    })  # fmt: skip
    time, energy = map(Fraction, weights)
    rules = expanded["rules"]
    alone = time == 1 and not energy
    require({"the objective time under accounting fang2025": alone or rules["accounting"] == "physical"})
    if not energy:
        return Objective(time, energy, given["level"], given["point"], time)
    joules = []
    used = {name for tier in memory["tiers"] for name in (*tier["reads"], *tier["writes"])}
    for name in memory["resources"]:
        known = memory.get("energy", {}).get(name, {}).get(given["level"], {}).get(given["point"])
        require({
            f"the energy of a byte on {name!r}, as it is part of the objective": known is not None
            or name not in used,
            "energies that are finite numbers >= 0": known is None or _is_weight(known),
        })  # fmt: skip
        joules.append(Fraction(known or 0) * 8 / 10**12)
    watts = memory.get("static_watts")
    require({"static_watts, a finite number >= 0": watts is None or _is_weight(watts)})
    second = time + energy * Fraction(watts or 0)
    return Objective(
        time, energy, given["level"], given["point"], second, tuple(energy * each for each in joules)
    )


def _is_weight(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and 0 <= value < math.inf
