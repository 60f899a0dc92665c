"""What may differ by layer: the bytes of a token's KV, and the window after which a layer drops a token."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

from kvbound.checker.report import require

Sizes: TypeAlias = tuple[tuple[int, ...], ...]
"""An integer for each layer and tier, (layers, tiers)."""

_MOST = 1 << 60
"""Largest value allowed for any single size."""


def read_sizes(expanded: Mapping[str, Any], layers: int) -> Sizes:
    """Return the bytes of one token's KV in each layer and tier; 0 where a layer keeps none.

    Raises
    ------
    ValueError
        A size is not as expected.
    """
    tiers, formats = expanded["memory"]["tiers"], expanded.get("formats", {})
    own = expanded["llm"]["kv_bytes_per_token_layer"]
    given = [formats.get(tier["name"], {"bytes": own})["bytes"] for tier in tiers]
    single = [size for size in given if not isinstance(size, list)] + [expanded["rules"]["granularity"]]
    lists = [sizes for sizes in (own, *given) if isinstance(sizes, list)]
    require({
        "whole positive bytes per item and granularity": all(is_size(size, 1) for size in single),
        "formats of the memory's own tiers": set(formats) <= {tier["name"] for tier in tiers},
        f"whole bytes >= 0 per item in each of {layers} layers": all(
            len(sizes) == layers and all(is_size(size, 0) for size in sizes) for sizes in lists
        ),
        "kv_bytes_per_token_layer as one integer where all layers are equal": (
            not isinstance(own, list) or own != own[:1] * len(own)
        ),
    })  # fmt: skip
    columns = [sizes if isinstance(sizes, list) else [sizes] * layers for sizes in given]
    kept = [size > 0 for size in own] if isinstance(own, list) else [True] * layers
    require({
        "formats of 0 bytes exactly where kv_bytes_per_token_layer is 0": all(
            [size > 0 for size in sizes] == kept for sizes in columns
        ),
    })  # fmt: skip
    return tuple(zip(*columns, strict=True))


def in_units(sizes: Sizes) -> tuple[tuple[int, ...], Sizes]:
    """Return the bytes of each tier's unit, the largest that divides all layers' sizes, and sizes in units.

    Where all layers are equal, a unit is a token's KV in a layer.
    """
    unit = tuple(math.gcd(*column) for column in zip(*sizes, strict=True))
    rows = {row: tuple(size // one for size, one in zip(row, unit, strict=True)) for row in set(sizes)}
    return unit, tuple(rows[row] for row in sizes)


def read_windows(expanded: Mapping[str, Any], layers: int) -> list[int | None]:
    """Return each layer's window in tokens, None where it keeps all of them.

    Raises
    ------
    ValueError
        The rule or a window is not as expected.
    """
    rule, llm = expanded["rules"].get("windows", "ignore"), expanded["llm"]
    require({
        'rules.windows "ends" or "ignore"': rule in ("ends", "ignore"),
        'windows of the llm exactly under rules.windows "ends"': ("windows" in llm) == (rule == "ends"),
    })  # fmt: skip
    windows = llm.get("windows", [None] * layers)
    require({
        f"windows: a list of {layers} integers >= 1 or null, not all null": rule == "ignore" or (
            isinstance(windows, list)
            and len(windows) == layers
            and all(window is None or is_size(window, 1) for window in windows)
            and any(windows)
        )
    })  # fmt: skip
    return windows


def is_size(value: Any, least: int) -> bool:
    """Whether it is an integer of at least so much and not absurdly large."""
    return type(value) is int and least <= value <= _MOST
