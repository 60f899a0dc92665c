"""Instances in which slots wait for latencies as long as for many items."""

from __future__ import annotations

import kvbound as kv
from kvbound.instance import Instance

_SMALL = {
    "name": "small", "kv_bytes_per_token_layer": 16384, "weight_bytes": 0,
    "weight_read_bytes_per_layer": 1_000_000,
}  # fmt: skip
"""A model of small items, but for its layers."""


def waiting(
    copies: str = "exclusive", migration: str = "prefetch", *, prompt: int = 100, steps: int = 40
) -> Instance:
    """Two layers over three tiers; the last makes a slot wait as long as 270 items of the second take."""
    memory = {
        "name": "waiting",
        "resources": {
            "hbm": "3350GB/s", "down": "54GB/s", "up": "54GB/s", "nvme_read": "7GB/s", "nvme_write": "5GB/s",
        },
        "tiers": [
            {"name": "hbm", "capacity": "15%", "reads": ["hbm"], "writes": ["hbm"]},
            {"name": "dram", "capacity": "30%", "reads": ["down"], "writes": ["up"]},
            {
                "name": "ssd", "capacity": None, "reads": ["down", "nvme_read"],
                "writes": ["up", "nvme_write"], "latency": "80us",
            },
        ],
    }  # fmt: skip
    trace, rules = _swaps(2, prompt, steps), {"copies": copies, "migration": migration}
    return kv.make_instance("waiting", memory=memory, llm=_SMALL | {"layers": 2}, trace=trace, rules=rules)


def four_tiers(copies: str, migration: str) -> Instance:
    """Four layers over HBM, DRAM, an SSD and another host; a slot takes four times the latency of the SSD."""
    memory = {
        "name": "four",
        "resources": {
            "hbm": "3350GB/s", "down": "54GB/s", "up": "54GB/s", "dram": "460GB/s", "nvme_read": "7GB/s",
            "nvme_write": "5GB/s", "network": "12.5GB/s",
        },
        "tiers": [
            {"name": "hbm", "capacity": "15%", "reads": ["hbm"], "writes": ["hbm"]},
            {
                "name": "dram", "capacity": "30%", "reads": ["down", "dram"], "writes": ["up", "dram"],
                "latency": "2us",
            },
            {
                "name": "ssd", "capacity": "40%", "reads": ["down", "nvme_read"],
                "writes": ["up", "nvme_write"], "latency": "80us",
            },
            {
                "name": "remote", "capacity": None, "reads": ["down", "network"], "writes": ["up", "network"],
                "latency": "100us",
            },
        ],
    }  # fmt: skip
    llm = {
        "name": "large", "layers": 4, "kv_bytes_per_token_layer": 262144, "weight_bytes": 0,
        "weight_read_bytes_per_layer": 160_000_000,
    }  # fmt: skip
    trace, rules = _swaps(4, 400, 100), {"copies": copies, "migration": migration}
    return kv.make_instance("four", memory=memory, llm=llm, trace=trace, rules=rules)


def seldom_waiting(prompt: int, steps: int, variation: float, *, layers: int = 1) -> Instance:
    """Layers over the tiers of `four_tiers`, of items so small that the fastest schedules seldom wait."""
    memory = four_tiers("exclusive", "prefetch").memory.to_mapping()
    settings = ("15%", "0us"), ("30%", "0us"), ("40%", "80us"), (None, "500us")
    for tier, (capacity, latency) in zip(memory["tiers"], settings, strict=True):
        tier |= {"capacity": capacity, "latency": latency}
    trace, llm = _swaps(layers, prompt, steps, variation), _SMALL | {"layers": layers}
    rules = {"copies": "exclusive", "migration": "prefetch"}
    return kv.make_instance("seldom", memory=memory, llm=llm, trace=trace, rules=rules)


def _swaps(layers: int, prompt: int, steps: int, variation: float = 0.1) -> dict[str, object]:
    """Reads of 30 % of the tokens, of which a share changes in every step."""
    spec = {"kind": "random-swap", "sparsity": 0.7, "variation": variation, "seed": 0}
    spec |= {"layers": layers, "prefill_tokens": prompt, "decode_steps": steps}
    return {"synthetic": spec}
