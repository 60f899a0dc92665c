"""GPUs as rooflines: arithmetic and the bandwidth of their own memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from kvbound import units
from kvbound.errors import InputError

_TERA = "TFLOP/s"


@dataclass(frozen=True)
class Gpu:
    """A GPU's two rates.

    Parameters
    ----------
    name
        Name in the catalog.
    flops
        Floating-point operations per second.
    bandwidth
        Bytes/s of its own memory.
    source
        What the GPU is.
    sources
        Field to the origin of its number.

    Raises
    ------
    InputError
        A rate is not finite and above 0.
    """

    name: str
    flops: float
    bandwidth: float
    source: str = field(default="", compare=False)
    sources: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        for what in ("flops", "bandwidth"):
            rate = getattr(self, what)
            if not 0 < rate < math.inf:
                raise InputError(f"gpu {self.name!r}", what, f"a finite rate above 0, not {rate!r}")

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Gpu:
        """Read an entry of ``gpu.toml``."""
        operations = float(Fraction(mapping["flops"].removesuffix(_TERA)) * 10**12)
        bandwidth = float(units.parse_bandwidth(mapping["bandwidth"]))
        return cls(mapping["name"], operations, bandwidth, mapping["source"], mapping["sources"])
