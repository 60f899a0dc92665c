"""The weights set: models larger than the fast tier, whose weights may be placed beside their KV."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from kvbound import catalog
from tests.instances.layout import document

RULES: Final = {"migration": "none", "granularity": 64}
"""Weights and KV stay where they are put, as in llama.cpp; 64 tokens of KV move as little as 16."""
STEPS: Final = 16


def documents() -> Iterator[dict[str, Any]]:
    """Every instance of the set."""
    for context in (10_000, 50_000):
        yield _dense(f"qwq-32b-16gb-{context // 1000}k", card(), qwq(), context, {"timing": "serial"})
    yield _dense("qwq-32b-16gb-10k-parallel", card(), qwq(), 10_000, {})
    yield _dense("llama-70b-gh200-96", "gh200-96-measured-memcpy", llama(), 1_024, {})


def _dense(name: str, memory: object, llm: Any, context: int, rules: dict[str, Any]) -> dict[str, Any]:
    synthetic = {
        "kind": "dense", "layers": llm["layers"], "prefill_tokens": context, "decode_steps": STEPS,
    }  # fmt: skip
    return document(name, memory, llm, {"synthetic": synthetic}, RULES | rules)


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


def llama() -> dict[str, Any]:
    """Llama-3.1-70B of the catalog, placeable."""
    entry = catalog.entry(catalog.Kind.LLM, "llama-3.1-70b")
    names = (
        "name", "layers", "kv_bytes_per_token_layer", "weight_bytes", "weight_read_bytes_per_layer", "source",
    )  # fmt: skip
    return {name: entry[name] for name in names} | {"weights": "placeable", "weight_chunk_bytes": "64MB"}
