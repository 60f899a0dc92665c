"""Documents of instances and of their parts, in the form of instance files."""

import copy
from typing import Any

Document = dict[str, Any]
Size = int | float | str


def tier(name: str, capacity: Size | None, reads: str, writes: str | None = None) -> Document:
    """A tier; its resources are separated by blanks, and the same for reads and writes unless given."""
    return {
        "name": name, "capacity": capacity, "reads": reads.split(),
        "writes": (reads if writes is None else writes).split(),
    }  # fmt: skip


def two_tiers(fast: Size, slow: Size, capacity: Size, names: tuple[str, str] = ("hbm", "ddr")) -> Document:
    """A memory of two tiers, each with its own bus of the given bandwidth."""
    tiers = [tier(names[0], capacity, "fast"), tier(names[1], None, "slow")]
    return {"name": "m", "resources": {"fast": fast, "slow": slow}, "tiers": tiers}


def linked_tiers(rates: dict[str, Size], capacity: Size, name: str = "m") -> Document:
    """A memory of two tiers with a link: rates of the fast tier, the link down and up, and the slow tier."""
    fast, down, up, slow = rates
    tiers = [tier(fast, capacity, fast), tier(slow, None, f"{down} {slow}", f"{up} {slow}")]
    return {"name": name, "resources": rates, "tiers": tiers}


def llm(layers: int = 1, item: Size = 1, *, weights: Size = 0, reads: Any = 0, name: str = "l") -> Document:
    """A language model: bytes per item, of resident weights, and of weights read per layer."""
    return {
        "name": name, "layers": layers, "kv_bytes_per_token_layer": item, "weight_bytes": weights,
        "weight_read_bytes_per_layer": reads,
    }  # fmt: skip


GH200 = linked_tiers(
    {"hbm": "4900GB/s", "c2c_down": "450GB/s", "c2c_up": "450GB/s", "lpddr": "500GB/s"}, "144GB", "gh200-144"
)
"""The memory gh200-144 of the catalog."""

DOCUMENT: Document = {
    "schema": "kvbound.instance/1",
    "name": "toy",
    "memory": two_tiers("40B/s", 10, 40, ("hbm", "ddr.0")),
    "llm": llm(item=4, reads=[3]),
    "trace": {"prefill_tokens": 2, "reads": [[[0, 1]], [[2, 0]]]},
    "rules": {"migration": "prefetch"},
}
"""A valid instance file."""


def changed(path: str, value: object, document: Document = DOCUMENT) -> Document:
    """The document with one field set, or removed where `value` is `...`; the path has slashes."""
    made = copy.deepcopy(document)
    *way, last = [int(key) if key.isdecimal() else key for key in path.split("/")]
    place: Any = made
    for key in way:
        place = place[key]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return made
