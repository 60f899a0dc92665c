"""A certificate: the multipliers that prove a time lower bound, however they were found.

Items and slots are coupled only by counts. A certificate puts integer prices on the counts and on capacity,
which separates items and slots, and bounds each slot's time by a weighted sum of its resources' times. By
weak duality any such numbers prove some bound; `kvbound.checker` recomputes it in integers.

Equations: "Rounding to a certificate" in docs/methods.md.
"""

from __future__ import annotations

import math
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvbound.errors import InputError
from kvbound.files import atomic_write
from kvbound.instance import Instance
from kvbound.reading import open_npz
from kvbound.units import show

SCHEMA = "kvbound.certificate/1"
FULL = 1 << 40
"""The largest sum of a slot's resource weights."""

MOST_SCALE = 1000
"""The largest magnitude of a scale: the unit of prices is 2**-1000 to 2**1000 seconds."""

BOUND = {False: "bound_s", True: "bound"}
"""The name of the bound in files: of time in seconds, and of another objective."""
UNIT = {False: "s", True: "of the objective"}

_DIMENSIONS = {"capacity": 2, "prices": 3, "whole": 2, "theta": 4}
_OPTIONAL = {"whole_writes": 2, "shares": 4}


@dataclass(frozen=True, eq=False)
class Certificate:
    """Multipliers of one instance and the bound they prove.

    Attributes
    ----------
    bound_s
        Time lower bound in seconds, rounded down, or the lower bound of another objective. The file calls
        that ``bound``; its prices are in units of the objective where seconds are named here.
    scale
        Prices are in units of 2**-scale seconds.
    capacity
        Price of a unit of a tier's room at the start and after every slot, (K, 1 + steps * layers), at least
        0, and 0 where a tier has no limit; see `kvbound.Instance.capacity_units`.
    prices
        Per item read, read without a choice, and written, by tier: (3K, steps, layers).
    tier, whole
        Each slot is bounded in two cases: with at most `whole` items read at this tier, and with more; -1
        where only the second applies; (steps, layers). Where the transfers of a step overlap this is of
        steps, (steps, 1), and counts units; see `kvbound.Instance.timed_units`.
    theta
        Weights of the resources, sorted by name, in all cases: (2, R, steps, layers or 1), units of 1 / FULL.
        Where tiers have latencies there are two for each set of these tiers, of those slots in which they and
        no others of them serve reads: the bits of the set's number are its tiers, the fastest first.
    whole_writes
        If given, each of the two cases is one for at most this many items written to the tier, and one for
        more; `theta` then has first the two for at most as many, four in place of every two.
    shares
        If given, what a block pays in each slot, beside the prices of its counts, if anything of it is read
        at a tier that has a latency, or carried from there by a move that costs anything: (late tiers,
        steps, layers, blocks), at least 0. The slot returns the most that the blocks can have paid.
    mixed
        Whether it is of another objective than time alone.
    """

    instance_sha256: str
    bound_s: float
    scale: int
    capacity: NDArray[np.int64]
    prices: NDArray[np.int64]
    tier: int
    whole: NDArray[np.int64]
    theta: NDArray[np.int64]
    whole_writes: NDArray[np.int64] | None = None
    shares: NDArray[np.int64] | None = None
    mixed: bool = False

    def __repr__(self) -> str:
        """Return the bound, in one line."""
        return f"<Certificate: no schedule takes less than {self.bound_s:.6g} {UNIT[self.mixed]}>"

    @property
    def of_slots(self) -> dict[str, NDArray[np.int64]]:
        """The arrays with one entry for every slot, (..., steps, layers), by name."""
        arrays = {"prices": self.prices, "whole": self.whole, "theta": self.theta}
        return arrays if self.whole_writes is None else arrays | {"whole_writes": self.whole_writes}

    def arrays(self) -> dict[str, Any]:
        """Return the arrays of its file, by name."""
        return {
            "schema": np.array(SCHEMA),
            "instance_sha256": np.array(self.instance_sha256),
            BOUND[self.mixed]: np.float64(self.bound_s),
            "scale": np.int64(self.scale),
            "tier": np.int64(self.tier),
            **{name: getattr(self, name) for name in _DIMENSIONS},
            **{name: given for name in _OPTIONAL if (given := getattr(self, name)) is not None},
        }


def write_certificate(certificate: Certificate, path: Path | str) -> None:
    """Write certificate.npz atomically."""
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **certificate.arrays())


def read_certificate(path: Path | str, instance: Instance | None = None) -> Certificate:
    """Read certificate.npz; verifying the bound is left to the checker.

    Without an instance its arrays may have any size.

    Raises
    ------
    InputError
        The file is not a certificate, or not one of the instance.
    """
    with open_npz(path, "a certificate") as file:
        if (schema := file.text("schema")) != SCHEMA:
            raise InputError(path, "schema", f"{SCHEMA!r}, found {show(schema)}")
        sha256 = file.text("instance_sha256")
        if instance is not None and sha256 != instance.sha256:
            raise InputError(
                path, "instance_sha256", "the hash of this instance; the certificate belongs to another"
            )
        mixed = is_mixed(file.names, instance)
        bound_s = float(file.array(BOUND[mixed], np.float64))
        scale, tier = (int(file.array(name, np.int64)) for name in ("scale", "tier"))
        found = {name: count for name, count in _OPTIONAL.items() if name in file.names}
        shapes = {name: (-1,) * count for name, count in (_DIMENSIONS | found).items()}
        if instance is not None:
            shapes = _shapes(instance, found)
            if abs(scale) > MOST_SCALE:
                raise InputError(path, "scale", f"{-MOST_SCALE} to {MOST_SCALE}, found {scale}")
        arrays = {name: file.array(name, np.int64, *shape) for name, shape in shapes.items()}
    return Certificate(sha256, bound_s, scale, tier=tier, mixed=mixed, **arrays)


def is_mixed(names: Container[str], instance: Instance | None) -> bool:
    """Whether a file's bound, of an instance if that is known, is not one of time alone."""
    return BOUND[True] in names if instance is None else not instance.objective.time_alone


def _shapes(instance: Instance, found: Container[str]) -> dict[str, tuple[int, ...]]:
    tiers, slots = instance.tiers, (instance.decode_steps, instance.layers)
    timed = slots[0], 1 if instance.by_step else slots[1]
    late = len(instance.memory.late_tiers)
    optional = {"whole_writes": timed, "shares": (late, *slots, instance.blocks)}
    return {
        **{name: shape for name, shape in optional.items() if name in found},
        "capacity": (tiers, 1 + math.prod(slots)),
        "prices": (3 * tiers, *slots),
        "whole": timed,
        "theta": ((4 if "whole_writes" in found else 2) << late, len(instance.memory.resources), *timed),
    }
