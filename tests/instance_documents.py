"""One sound instance document, and the same with one field changed."""

import copy
from typing import Any

DOCUMENT: dict[str, Any] = {
    "schema": "kvbound.instance/1",
    "name": "toy",
    "memory": {
        "name": "m",
        "resources": {"fast": "40B/s", "slow": 10},
        "tiers": [
            {"name": "hbm", "capacity": 40, "reads": ["fast"], "writes": ["fast"]},
            {"name": "ddr.0", "capacity": None, "reads": ["slow"], "writes": ["slow"]},
        ],
    },
    "llm": {
        "name": "l", "layers": 1, "kv_bytes_per_token_layer": 4, "weight_bytes": 0,
        "weight_read_bytes_per_layer": [3],
    },
    "trace": {"prefill_tokens": 2, "reads": [[[0, 1]], [[2, 0]]]},
    "rules": {"migration": "prefetch"},
}  # fmt: skip


def changed(path: str, value: object) -> dict[str, Any]:
    """DOCUMENT with one field set, or removed where `value` is ..."""
    document = copy.deepcopy(DOCUMENT)
    *way, last = [int(key) if key.isdecimal() else key for key in path.split("/")]
    place: Any = document
    for key in way:
        place = place[key]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return document
