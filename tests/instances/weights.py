"""The weights set: models larger than the fast tier, whose weights may be placed beside their KV."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from kvbound import catalog
from tests.instances.layout import document

RULES: Final = {"migration": "none", "granularity": 64}
"""Weights and KV stay where they are put, as in llama.cpp; 64 tokens of KV move as little as 16."""
STEPS: Final = 16
FETCHED: Final = {"timing": "serial", "migration": "on-read", "granularity": 1024}
"""Experts are fetched when they are read, and the layer waits for them."""
ROUTING: Final[dict[str, Any]] = {"decode_steps": 32, "experts": 8, "experts_per_token": 2, "repeat": 0.3}
"""More steps, in which experts are read again; with this chance a token keeps both experts."""


def documents() -> Iterator[dict[str, Any]]:
    """Every instance of the set."""
    for context in (10_000, 50_000):
        yield _dense(f"qwq-32b-16gb-{context // 1000}k", card(), qwq(), context, {"timing": "serial"})
    yield _dense("qwq-32b-16gb-10k-parallel", card(), qwq(), 10_000, {})
    yield _dense("llama-70b-gh200-96", "gh200-96-measured-memcpy", llama(), 1_024, {})
    yield _dense("mixtral-4of32-h100", h100(), mixtral(4), 32_768, FETCHED, ROUTING)


def _dense(
    name: str, memory: object, llm: Any, context: int, rules: dict[str, Any],
    more: dict[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    synthetic = {
        "kind": "dense", "layers": llm["layers"], "prefill_tokens": context, "decode_steps": STEPS,
    }  # fmt: skip
    return document(name, memory, llm, {"synthetic": synthetic | (more or {})}, RULES | rules)


def h100() -> dict[str, Any]:
    """An eighth of the catalog's H100, for 4 of 32 layers, beside a host.

    The host's memory is read through the link and at the same time, which serial timing would count twice.
    """
    entry = catalog.entry(catalog.Kind.MEMORY, "h100-pcie5-measured")
    names = "hbm", "pcie_down", "pcie_up"
    return {
        "name": "h100-pcie5-eighth",
        "source": f"an eighth of the capacity; {entry['source']}",
        "resources": {name: entry["resources"][name] for name in names},
        "tiers": [
            {"name": "hbm", "capacity": "10GB", "reads": ["hbm"], "writes": ["hbm"]},
            {"name": "ddr5", "capacity": None, "reads": ["pcie_down"], "writes": ["pcie_up"]},
        ],
    }


def card() -> dict[str, Any]:
    """A card of 16 GB beside a host whose processor computes on what is there, at 60 GB/s."""
    tiers = (("hbm", "16GB"), ("ddr5", None))
    return {
        "name": "card-16gb",
        "resources": {"hbm": "624GB/s", "ddr5": "60GB/s"},
        "tiers": [
            {"name": name, "capacity": size, "reads": [name], "writes": [name]} for name, size in tiers
        ],
    }


def qwq() -> dict[str, Any]:
    """QwQ-32B in about 3.5 bits: 64 layers, 14 GB."""
    return {
        "name": "qwq-32b",
        "layers": 64,
        "kv_bytes_per_token_layer": 4096,
        "weight_bytes": "14GB",
        "weight_read_bytes_per_layer": "218.75MB",
        "weights": "placeable",
        "weight_chunk_bytes": "16MB",
        "source": "ollama issue 9750: 14 GB of weights, 262,144 B of KV a token",
    }


def mixtral(layers: int) -> dict[str, Any]:
    """So many layers of the catalog's Mixtral-8x7B, their experts placeable, without what is outside them."""
    entry = catalog.entry(catalog.Kind.LLM, "mixtral-8x7b")
    names = (
        "name", "kv_bytes_per_token_layer", "weight_read_bytes_per_layer", "experts", "expert_bytes",
        "experts_read",
    )  # fmt: skip
    unread = (entry["experts"] - entry["experts_read"]) * entry["expert_bytes"]
    return {name: entry[name] for name in names} | {
        "layers": layers,
        "weight_bytes": layers * (entry["weight_read_bytes_per_layer"] + unread),
        "weights": "placeable",
        "source": f"{layers} of the 32 layers; {entry['source']}",
    }


def llama() -> dict[str, Any]:
    """Llama-3.1-70B of the catalog, placeable."""
    entry = catalog.entry(catalog.Kind.LLM, "llama-3.1-70b")
    names = (
        "name", "layers", "kv_bytes_per_token_layer", "weight_bytes", "weight_read_bytes_per_layer", "source",
    )  # fmt: skip
    return {name: entry[name] for name in names} | {"weights": "placeable", "weight_chunk_bytes": "64MB"}
