"""What the sets of the library have in common: the shape of their files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvbound.instance import SCHEMA
from kvbound.rules import Rules

ITEM_BYTES = 16_384
"""KV of one token and layer: 4 d with d = 4096, as arXiv 2508.13231 counts Llama-3.1-8B."""
WEIGHT_SHARE = 0.68
"""Weights read in a slot over the KV read in a mean slot, as in that study's full-size run."""
LINKS = {450: "gh200-paper", 64: "pcie6-paper"}
"""Catalog memories by the rate of their link in GB/s, the same in both directions."""


def document(
    name: str, memory: object, llm: object, trace: object, rules: Mapping[str, Any], **overrides: Any
) -> dict[str, Any]:
    """One instance file, rules spelled out; `overrides` are capacities by the name of their tier."""
    spelled = Rules.from_mapping(rules).to_mapping()
    content = {"schema": SCHEMA, "name": name, "memory": memory, "llm": llm, "trace": trace, "rules": spelled}
    changes = {f"memory.tiers.{tier}.capacity": capacity for tier, capacity in overrides.items()}
    return content | ({"overrides": changes} if changes else {})


def scaled_llm(name: str, counts: NDArray[np.int64], source: str) -> dict[str, Any]:
    """A model of as many layers as `counts` (steps, layers) has, its weight reads in proportion to them."""
    return {
        "name": name,
        "layers": counts.shape[1],
        "kv_bytes_per_token_layer": ITEM_BYTES,
        "weight_bytes": 0,
        "weight_read_bytes_per_layer": round(WEIGHT_SHARE * ITEM_BYTES * float(counts.mean())),
        "source": source,
    }


def write(content: Mapping[str, Any], path: Path) -> None:
    """Write JSON as people lay it out: whatever fits stays on one line."""
    path.write_text(_lay_out(content, 0) + "\n", encoding="utf-8")


def _lay_out(value: Any, indent: int) -> str:
    flat = json.dumps(value, ensure_ascii=False, allow_nan=False)
    if len(flat) + indent <= 100 or not isinstance(value, dict | list):
        return flat
    pad = "\n" + " " * (indent + 2)
    if isinstance(value, dict):
        parts = [f"{json.dumps(key)}: {_lay_out(entry, indent + 2)}" for key, entry in value.items()]
        return "{" + pad + f",{pad}".join(parts) + "\n" + " " * indent + "}"
    parts = [_lay_out(entry, indent + 2) for entry in value]
    return "[" + pad + f",{pad}".join(parts) + "\n" + " " * indent + "]"
