"""The energy of a replayed schedule, and the claims about it.

Energies count at the level and point of the objective, `device` and `mid` by default. Of a read that either
of two copies may serve only the range of the energies of both is known, unless the times determine how much
each serves.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kvbound.checker.report import Energy, Floats, require

FIELDS: Mapping[str, tuple[str, ...]] = {
    "memory": ("energy", "mac_energy", "static_watts"),
    "llm": ("parameters",),
}
"""The fields of an expanded instance, by table, on which nothing but energies depends."""
PRICED = ("energy", "static_watts")
"""Those of the memory that are part of the objective where energy has a weight."""
PARTS = ("weights", "kv", "moves", "compute")
STATIC = "static"
"""Part of the energy where the memory states a power that is drawn all the time."""
_EQUAL = 1e-9
"""Relative difference up to which energies are equal; that of a transfer, relative to all transfers."""
_NOTHING = 1e-12
"""Share of the largest load up to which a load is a rounding error."""


@dataclass(frozen=True)
class Energies:
    """What energies follow from.

    Attributes
    ----------
    per_byte
        Joules of a byte on each resource, NaN where they are unknown, ``(resources,)``.
    per_output
        Joules of the arithmetic of a decoded token, None if they are unknown.
    watts
        Power that is drawn all the time, None if the memory states none.
    """

    per_byte: Floats
    per_output: float | None
    watts: float | None


@dataclass(frozen=True)
class Transfers:
    """The bytes that all slots of a layer transfer, by tier, each ``(layers, tiers)``.

    Attributes
    ----------
    weights, placed, kv
        Read of resident weights, of chunks of weights and of KV, by the tier that holds them.
    born, moved
        Written by births, and by moves.
    unread
        Read of items that move without being read.
    """

    weights: Floats
    placed: Floats
    kv: Floats
    born: Floats
    moved: Floats
    unread: Floats


def read_energies(expanded: Mapping[str, Any], level: str = "device", point: str = "mid") -> Energies:
    """Read what the energies of an expanded instance follow from, at a level and point of its data.

    Raises
    ------
    ValueError
        A field is not as expected.
    """
    memory, llm = expanded["memory"], expanded["llm"]
    per_bit, resources = memory.get("energy", {}), memory["resources"]
    per_mac = _picojoules(memory.get("mac_energy", {}), level, point)
    watts, parameters = memory.get("static_watts"), llm.get("parameters")
    require({
        "energies of the memory's resources only": set(per_bit) <= set(resources),
        "static_watts, a finite number >= 0, or no such field": watts is None or _is_amount(watts),
        "parameters, a whole number >= 0, or no such field": parameters is None or (
            _is_amount(parameters) and parameters == int(parameters)
        ),
    })  # fmt: skip
    found = (_picojoules(per_bit.get(name, {}), level, point) for name in resources)
    per_byte = np.array([math.nan if each is None else 8e-12 * each for each in found])
    operations = None
    # a token does not use all experts of a mixture
    if per_mac is not None and parameters is not None and not np.any(llm.get("experts", 0)):
        operations = 1e-12 * per_mac * parameters
    return Energies(per_byte, operations, watts)


def _picojoules(levels: Mapping[str, Any], level: str, point: str) -> float | None:
    found: float | None = levels.get(level, {}).get(point)
    require({"energies that are finite numbers >= 0": found is None or _is_amount(found)})
    return found


def _is_amount(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and 0 <= value < math.inf


def energy_of(
    energies: Energies,
    loads: tuple[Floats, Floats],
    sizes: Floats,
    bytes_of: Transfers,
    transferred: Floats | None,
    *,
    inclusive: bool,
) -> Energy | None:
    """Return the energy of a schedule's transfers, or None if one loads a resource whose energy is unknown.

    Parameters
    ----------
    loads
        1 where a read, or a write, at the tier loads the resource, ``(tiers, resources)`` each.
    sizes
        Bytes of a token's KV, ``(layers, tiers)``.
    transferred
        Bytes that each resource transfers in all slots, ``(resources,)``, None if they are not unique.
    inclusive
        Whether the last tier has a copy of everything.
    """
    (reads, writes), unknown = loads, np.isnan(energies.per_byte)
    joules = np.where(unknown, 0.0, energies.per_byte)
    some = transferred
    if some is None:  # what no split changes
        some = (bytes_of.weights + bytes_of.unread).sum(axis=0) @ reads
        some = some + (bytes_of.born + bytes_of.moved).sum(axis=0) @ writes
    if np.any(unknown & (some > _NOTHING * some.max(initial=0.0))):
        return None
    hidden = reads @ unknown > 0  # tiers whose reads load a resource of unknown energy
    if transferred is None and hidden[-1] and np.any((bytes_of.placed + bytes_of.kv)[:, hidden] > 0):
        return None  # at either copy
    # where one copy's energy is unknown, only the other may have served, so that the range holds all the same
    read, written = reads @ joules, writes @ joules
    least = most = np.broadcast_to(read, sizes.shape)
    if inclusive:
        instead = read[-1] * sizes[:, -1:] / np.maximum(sizes, 1)
        least, most = np.minimum(read, instead), np.maximum(read, instead)

    def span(sure: Floats, served: Floats) -> tuple[float, float]:
        there, begin = served > 0, sure.sum()
        low, high = (begin + (served[there] * each[there]).sum() for each in (least, most))
        return float(low), float(high)

    moves = float((bytes_of.unread * read + bytes_of.moved * written).sum())
    parts = {
        "weights": span(bytes_of.weights * read, bytes_of.placed),
        "kv": span(bytes_of.born * written, bytes_of.kv),
        "moves": (moves, moves),
    }
    if transferred is None:
        return Energy(parts, None)
    total, (least_weights, most_weights) = float(transferred @ joules), parts["weights"]
    if least_weights == most_weights:
        kv = max(total - most_weights - moves, 0.0)
        parts["kv"] = kv, kv
    return Energy(parts, total)


def false_energies(
    energies: Energies, found: Energy | None, claim: Mapping[str, Any], outputs: int, time_s: float
) -> Iterator[str]:
    """Compare a result's claims about energy, of the known form, with the recomputed ones."""
    if found is None:
        yield "energy_j is given, but the energy of what the schedule transfers is unknown"
        return
    whole = sum(least for least, _ in found.parts.values()) if found.transfers is None else found.transfers
    wrong = False
    for part, (least, most) in found.parts.items():
        if not least - _EQUAL * whole <= claim[part] <= most + _EQUAL * whole:
            wrong = True
            known = repr(least) if least == most else f"from {least!r} to {most!r}"
            yield f"energy_j.{part} is claimed to be {claim[part]!r}, but the schedule's is {known}"
    total = math.fsum(claim[part] for part in found.parts)
    if not wrong and found.transfers is not None and abs(total - whole) > _EQUAL * whole:
        yield f"{', '.join(found.parts)} of energy_j add up to {total!r}, but the schedule's to {whole!r}"
    others = {
        "compute": None if energies.per_output is None else energies.per_output * outputs,
        STATIC: None if energies.watts is None else energies.watts * time_s,
    }
    for part, value in others.items():
        claimed = claim.get(part)
        if (claimed is None) != (value is None) or not math.isclose(claimed or 0, value or 0, rel_tol=_EQUAL):
            yield f"energy_j.{part} is claimed to be {claimed!r}, but is {value!r}"
