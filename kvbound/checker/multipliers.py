"""The multipliers of a certificate: its arrays, validated so that sums along an item's path fit int64."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kvbound.checker.arrays import array
from kvbound.checker.inputs import Case
from kvbound.checker.report import Ints, Refused

FULL = 1 << 40
MOST = 1 << 62
"""Numbers along an item's path must stay below this, for int64 not to overflow."""

Exact: TypeAlias = NDArray[np.object_]  # Python integers: no overflow


@dataclass(frozen=True)
class Multipliers:
    """The certificate's arrays; see `kvbound.certificate`."""

    bound_s: float
    scale: int
    capacity: Ints  # (tiers, 1 + steps * layers)
    prices: Ints  # (3 tiers, steps, layers): reads, reads without choice, writes
    tier: int
    whole: Ints  # (steps, timed layers): where each minimum is split in two
    whole_writes: Ints | None  # (steps, timed layers): where each of the two is split again
    theta: Ints  # (cases, resources sorted by name, steps, timed layers); see slot_minima
    shares: Ints | None  # (tiers with a latency, steps, layers, blocks): what a block read there pays


def read_multipliers(case: Case, arrays: Mapping[str, Any]) -> Multipliers:
    """Read and validate the multipliers."""
    tiers, resources, slots = len(case.names), len(case.resources), (case.steps, case.layers)
    timed = case.steps, case.timed_layers
    four, sets = "whole_writes" in arrays, 1 << int((case.latency > 0).sum())
    given = Multipliers(
        float(array(arrays, bound_name(case), "float64")),
        int(array(arrays, "scale", "int64")),
        array(arrays, "capacity", "int64", tiers, 1 + case.steps * case.layers),
        array(arrays, "prices", "int64", 3 * tiers, *slots),
        int(array(arrays, "tier", "int64")),
        array(arrays, "whole", "int64", *timed),
        array(arrays, "whole_writes", "int64", *timed) if four else None,
        array(arrays, "theta", "int64", sets * (4 if four else 2), resources, *timed),
        _shares(case, arrays),
    )
    theta = given.theta
    bounded = bool(theta.min() >= 0 and theta.max() <= FULL)
    share = case.rules["timing"] == "serial" or (bounded and bool((theta.sum(axis=1) <= FULL).all()))
    for expected, holds in {
        "scale from -1000 to 1000": -1000 <= given.scale <= 1000,
        "a tier of the memory": 0 <= given.tier < tiers,
        "whole_writes with exclusive copies only": not four or case.rules["copies"] == "exclusive",
        "capacity prices >= 0": bool(given.capacity.min() >= 0),
        "shares of waits >= 0": given.shares is None or bool(given.shares.min(initial=0) >= 0),
        "no shares of waits where reads are dense": given.shares is None or not case.dense,
        f"theta >= 0, at most {FULL} in all (serial: each)": bounded and share,
        "numbers of a path below 2**62": largest(case, given) < MOST,
    }.items():
        if not holds:
            raise Refused(f"the certificate is malformed: expected {expected}")
    return given


def _shares(case: Case, arrays: Mapping[str, Any]) -> Ints | None:
    if "shares" not in arrays:
        return None
    late, blocks = int((case.latency > 0).sum()), len(case.lives[0].head)
    return array(arrays, "shares", "int64", late, case.steps, case.layers, blocks)


def bound_name(case: Case) -> str:
    """Return the name of the bound in files: other objectives than time alone are not in seconds."""
    return "bound_s" if case.objective.time_alone else "bound"


def largest(case: Case, given: Multipliers) -> int:
    """Return an upper bound on the absolute value of every number along an item's path."""

    def most(values: Ints) -> Exact:
        low, high = (end(axis=(0, 2)).astype(object) for end in (values.min, values.max))
        return np.maximum(high, -low)  # (steps,)

    tiers = len(case.names)
    blocks = [int(life.chunks.max(initial=1)) for life in case.lives]  # of the largest block
    units = [[n * size for size in row] for n, row in zip(blocks, case.units, strict=True)]
    most_units = [max(column) for column in zip(*units, strict=True)]
    capacity = (given.capacity.astype(object).sum(axis=1) * most_units).max()
    read, extra, write = (most(given.prices[k * tiers : (k + 1) * tiers]) for k in range(3))
    step = read + extra + 4 * write
    if given.shares is not None:
        capacity += given.shares.max(axis=(0, 2, 3), initial=0).sum(dtype=object)
    return int(capacity + max(blocks) * case.granularity * (step.sum() + step.max()))


def priced_capacities(case: Case, given: Multipliers) -> dict[int, int]:
    """Return the room in units of each tier whose capacity has a price."""
    limits = {}
    for k in np.flatnonzero(given.capacity.any(axis=1)).tolist():
        room = case.room[k]
        if room is None or (case.rules["copies"] == "inclusive" and k == len(case.names) - 1):
            raise Refused(f"the certificate is malformed: {case.names[k]} has capacity prices but no limit")
        limits[k] = room
    return limits
