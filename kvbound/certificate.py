"""A certificate: the numbers that prove a time lower bound, whatever found them.

Items and slots are coupled only by counts. A certificate puts integer prices on the counts and on room,
so that items and slots fall apart; it also says by which mix of resources each slot's time is bounded.
Any such numbers prove something: weak duality. `kvbound.checker` recomputes what, in integers.
"""

from __future__ import annotations

import math
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
"""What a slot's resource weights add up to at most."""

MOST_SCALE = 1000
"""The unit of prices is 2**-1000 to 2**1000 seconds."""

_DIMENSIONS = {"capacity": 2, "prices": 3, "whole": 2, "theta": 4}


@dataclass(frozen=True, eq=False)
class Certificate:
    """Multipliers of one instance and the bound they prove.

    Attributes
    ----------
    bound_s
        Time lower bound in seconds, rounded down.
    scale
        Prices count units of 2**-scale seconds.
    capacity
        Price of a block's room at the start and after every slot, (K, 1 + steps * layers), >= 0, zero
        where a tier has no limit.
    prices
        Per item read, read without choice, and written, by tier: (3K, steps, layers).
    tier, whole
        Each slot is bounded twice, with at most `whole` items read at this tier and with more; -1 for
        no such split; (steps, layers).
    theta
        Weights of the resources, in sorted order, in the two cases: (2, R, steps, layers), in units of
        1 / FULL.
    """

    instance_sha256: str
    bound_s: float
    scale: int
    capacity: NDArray[np.int64]
    prices: NDArray[np.int64]
    tier: int
    whole: NDArray[np.int64]
    theta: NDArray[np.int64]

    def __repr__(self) -> str:
        """Return what is proved, in a line."""
        return f"<Certificate: no schedule takes less than {self.bound_s:.6g} s>"

    def arrays(self) -> dict[str, Any]:
        """Return what the file holds."""
        return {
            "schema": np.array(SCHEMA),
            "instance_sha256": np.array(self.instance_sha256),
            "bound_s": np.float64(self.bound_s),
            "scale": np.int64(self.scale),
            "tier": np.int64(self.tier),
            **{name: getattr(self, name) for name in _DIMENSIONS},
        }


def write_certificate(certificate: Certificate, path: Path | str) -> None:
    """Write certificate.npz whole or not at all."""
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **certificate.arrays())


def read_certificate(path: Path | str, instance: Instance | None = None) -> Certificate:
    """Read certificate.npz; what it proves is the checker's business.

    Without an instance its arrays may have any size.

    Raises
    ------
    InputError
        The file is no certificate, or none of the instance.
    """
    with open_npz(path, "a certificate") as file:
        if (schema := file.text("schema")) != SCHEMA:
            raise InputError(path, "schema", f"{SCHEMA!r}, found {show(schema)}")
        sha256 = file.text("instance_sha256")
        if instance is not None and sha256 != instance.sha256:
            raise InputError(
                path, "instance_sha256", "the hash of this instance; the certificate belongs to another"
            )
        bound_s = float(file.array("bound_s", np.float64))
        scale, tier = (int(file.array(name, np.int64)) for name in ("scale", "tier"))
        shapes = {name: (-1,) * count for name, count in _DIMENSIONS.items()}
        if instance is not None:
            shapes = _shapes(instance)
            if abs(scale) > MOST_SCALE:
                raise InputError(path, "scale", f"{-MOST_SCALE} to {MOST_SCALE}, found {scale}")
        arrays = {name: file.array(name, np.int64, *shape) for name, shape in shapes.items()}
    return Certificate(sha256, bound_s, scale, tier=tier, **arrays)


def _shapes(instance: Instance) -> dict[str, tuple[int, ...]]:
    tiers, slots = instance.tiers, (instance.decode_steps, instance.layers)
    return {
        "capacity": (tiers, 1 + math.prod(slots)),
        "prices": (3 * tiers, *slots),
        "whole": slots,
        "theta": (2, len(instance.memory.resources), *slots),
    }
