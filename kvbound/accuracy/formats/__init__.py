"""Number formats of cached values, exact to the bit: floats, ggml's blocks, and integers in groups."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from kvbound.accuracy.formats.codec import Bytes, Codec, Floats, round_trip
from kvbound.accuracy.formats.floats import E4M3, E5M2, Brain, Half, Single
from kvbound.accuracy.formats.ggml import Q80, Shifted, Signed
from kvbound.accuracy.formats.groups import Group
from kvbound.errors import UsageError
from kvbound.fields import did_you_mean

__all__ = ["CODECS", "Bytes", "Codec", "Floats", "codec", "round_trip"]

CODECS: Final[Mapping[str, Codec]] = {
    "f32": Single(),
    "f16": Half(),
    "bf16": Brain(),
    "fp8": E4M3,
    "fp8-e4m3": E4M3,
    "fp8-e5m2": E5M2,
    "q8_0": Q80(),
    "q5_1": Shifted("q5_1", 5),
    "q5_0": Signed("q5_0", 5),
    "q4_1": Shifted("q4_1", 4),
    "q4_0": Signed("q4_0", 4),
}
"""Formats by name; fp8 without more is E4M3."""
_GROUPS: Final = re.compile(r"int(?P<bits>[248])-g(?P<values>[1-9]\d{0,4})(?P<zero>-zero)?")


def codec(name: str) -> Codec:
    """Return the format with a name: one of `CODECS`, or integers in groups, such as ``int4-g64-zero``.

    Raises
    ------
    UsageError
        There is no such format.
    """
    if name in CODECS:
        return CODECS[name]
    if (group := _GROUPS.fullmatch(name)) is None:
        known = ", ".join(CODECS)
        raise UsageError(
            f"unknown format {name!r}: expected one of {known}, int8-g64, int4-g64-zero"
            f"{did_you_mean(name, CODECS)}"
        )
    return Group(name, int(group["bits"]), int(group["values"]), bool(group["zero"]))
