"""The canonical form of an expanded instance, and its hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

UNHASHED = {"memory": ("energy", "mac_energy", "static_watts"), "llm": ("parameters",)}
"""Fields that energies alone depend on, which the hash leaves out: no schedule, time or bound does."""
PRICED = ("energy", "static_watts")
"""Those of them that the hash holds where energy is part of the objective."""


def plain(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document with whole numbers as integers, so that 23e9 and 23000000000 give the same hash."""
    return {key: _plain(value) for key, value in document.items()}


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        return plain(value)
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def sha256(expanded: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the canonical JSON of an expanded instance.

    It leaves out the name, what only energies depend on, an objective of time alone, and that reads are
    dense, which follows from their hashes.
    """
    body = {key: value for key, value in expanded.items() if key != "name"}
    objective = body.get("objective", {"time": 1, "energy": 0})
    if objective["time"] == 1 and not objective["energy"]:
        body.pop("objective", None)
    kept = PRICED if objective["energy"] else ()
    for part, names in UNHASHED.items():
        left_out = set(names).difference(kept)
        body[part] = {name: value for name, value in body[part].items() if name not in left_out}
    body["trace"] = {name: value for name, value in body["trace"].items() if name != "dense"}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
