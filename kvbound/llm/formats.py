"""Number formats of cached values, with the bytes that a row of values takes in each.

Blocks of the ggml formats hold 32 values: a scale d, for some a minimum m (both float16), and the values. The
layouts are those of ``block_q8_0`` to ``block_q4_0`` in ggml. In formats such as ``int8-g64`` a group of 64
values has a float16 scale, and in ``int4-g64-zero`` a float16 zero point as well.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

from kvbound.fields import Fields, did_you_mean, show

ROW_FIELDS: Final = ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim")
"""Fields of a ``config.json`` that determine how long the rows of cached values are."""
_GROUPS: Final = re.compile(r"int(?P<bits>[248])-g(?P<values>[1-9]\d{0,4})(?P<zero>-zero)?")


@dataclass(frozen=True)
class Format:
    """A number format: the values of a block, and the bytes that they take together."""

    values: int
    bytes: int

    def row_bytes(self, values: int) -> int:
        """Bytes of a row of values, padded to whole blocks."""
        return self.bytes * -(-values // self.values)


FORMATS: Final[Mapping[str, Format]] = {
    "f32": Format(1, 4),
    "f16": Format(1, 2),
    "bf16": Format(1, 2),
    "fp8": Format(1, 1),
    "q8_0": Format(32, 2 + 32),
    "q5_1": Format(32, 2 + 2 + 4 + 16),
    "q5_0": Format(32, 2 + 4 + 16),
    "q4_1": Format(32, 2 + 2 + 16),
    "q4_0": Format(32, 2 + 16),
}
"""Formats by name; fp8 stands for e4m3 and e5m2 alike."""


@dataclass(frozen=True)
class KvShape:
    """The values of one token's K, or V, in one layer: rows of equal length.

    Parameters
    ----------
    rows, values
        Number of rows, and values of each.
    """

    rows: int
    values: int

    def bytes(self, format_: Format) -> int:
        """Bytes of all rows in a format."""
        return self.rows * format_.row_bytes(self.values)


def known(name: str) -> Format | None:
    """Return the format with a name, or None if there is none."""
    if name in FORMATS:
        return FORMATS[name]
    if (group := _GROUPS.fullmatch(name)) is None:
        return None
    bits, values = int(group["bits"]) * int(group["values"]), int(group["values"])
    return Format(values, -(-bits // 8) + 2 + 2 * bool(group["zero"]))


def kv_shape(kv_bytes: int, stored: Format, config: Mapping[str, Any]) -> KvShape | None:
    """Return the shape of the K of one token in one layer, which is also that of its V.

    Each takes half of the bytes: rows of ``head_dim`` values if the model's configuration agrees with that,
    otherwise one row.

    Parameters
    ----------
    kv_bytes
        Bytes of K and V together.
    stored
        Format in which they take these bytes, one without blocks.
    config
        Fields of the model's ``config.json``, or none.

    Returns
    -------
    The shape, or None if the bytes are not those of a whole number of values.
    """
    values = Fraction(kv_bytes * stored.values, 2 * stored.bytes)
    if values.denominator != 1:
        return None
    heads, size = config.get("num_key_value_heads"), config.get("head_dim")
    if size is None and isinstance(config.get("hidden_size"), int) and config.get("num_attention_heads"):
        size = config["hidden_size"] // config["num_attention_heads"]
    if isinstance(heads, int) and isinstance(size, int) and heads * size == values:
        return KvShape(heads, size)
    return KvShape(1, int(values))


def kv_sizes(
    fields: Fields, tier: str, usual: tuple[int, ...], stored: str, config: Mapping[str, Any]
) -> tuple[int, ...]:
    """Return the bytes of one token's KV in each layer, in a tier with a format of its own.

    Parameters
    ----------
    fields
        Formats by tier: a name, ``{"k": ..., "v": ...}``, or ``{"bytes": ...}``, a number or one per layer.
    usual
        Bytes in the format `stored`, shape (layers,); 0 where a layer keeps no KV.
    stored, config
        As for `kv_shape`, the format by its name.

    Raises
    ------
    InputError
        There is no such format, or the KV cannot be stored in it.
    """
    given = fields.raw(tier)
    if given is None:
        return usual
    if isinstance(given, Mapping) and "bytes" in given:
        return _stated(fields.child(tier), len(usual))
    names = [given, given]
    if isinstance(given, Mapping):
        table = fields.child(tier)
        names = [table.text("k"), table.text("v")]
        table.done()
    formats = [_format(fields, tier, name) for name in names]
    base = known(stored)
    if base is None or base.values > 1:
        expected = "{'bytes': ...}, as the llm's kv_format is neither f32, f16, bf16 nor fp8"
        raise fields.error(tier, expected)
    sizes = {0: 0}
    for kv_bytes in set(usual) - {0}:
        shape = kv_shape(kv_bytes, base, config)
        if shape is None:
            odd = f"{kv_bytes:,} B of {stored} are no whole number of values"
            raise fields.error(tier, f"{{'bytes': ...}}, as {odd}")
        sizes[kv_bytes] = sum(shape.bytes(format_) for format_ in formats)
    return tuple(sizes[kv_bytes] for kv_bytes in usual)


def _stated(table: Fields, layers: int) -> tuple[int, ...]:
    """Return the bytes that a table states for all layers, or for each."""
    given = table.raw("bytes")
    if not isinstance(given, list | tuple):
        sizes = (table.integer("bytes", 1, 2**40),) * layers
    elif len(given) != layers:
        raise table.error("bytes", f"one number for each of the {layers} layers, not {len(given)}")
    else:
        single = (Fields({"bytes": each}, table.file, table.field) for each in given)
        sizes = tuple(each.integer("bytes", 0, 2**40) for each in single)
    table.done()
    return sizes


def _format(fields: Fields, tier: str, name: object) -> Format:
    found = known(name) if isinstance(name, str) else None
    if found is None:
        names = ", ".join(FORMATS)
        hint = did_you_mean(name, FORMATS) if isinstance(name, str) else ""
        raise fields.error(
            tier, f"a format ({names}, int8-g64, int4-g64, int4-g64-zero), not {show(name)}{hint}"
        )
    return found
