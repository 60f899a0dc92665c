"""A model's architecture in bytes, layer by layer, as read from a ``config.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kvbound.llm.model import Llm


@dataclass(frozen=True)
class Architecture:
    """Bytes of cache and weights of every layer; layers may differ.

    Parameters
    ----------
    name, model_type, source
        The model's name, its type, and the origin of the numbers.
    kv_bytes_per_token
        Bytes of one token's entry in the cache of each layer; 0 where a layer keeps none.
    weight_read_bytes
        Bytes of weights a token reads in each layer.
    windows
        Sliding window of each layer in tokens, None where attention is full.
    parameters
        Number of parameters of the whole model.
    weight_bytes
        Bytes of all weights.
    kv_format
        Number format of the cache, a name of `kvbound.llm.formats`; empty if it is none of these.
    sources
        Field of an `Llm` to the derivation of its number.
    experts, expert_bytes
        Routed experts of each layer and the bytes of one, 0 where there are none; both empty unless they are
        known exactly.
    experts_read
        Experts of a layer that a token reads.
    config
        Fields of the ``config.json`` that determine how long the rows of cached values are.
    """

    name: str
    model_type: str
    source: str
    kv_bytes_per_token: tuple[int, ...]
    weight_read_bytes: tuple[int, ...]
    windows: tuple[int | None, ...]
    parameters: int
    weight_bytes: int
    kv_format: str = "f16"
    sources: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    config: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    experts: tuple[int, ...] = ()
    expert_bytes: tuple[int, ...] = ()
    experts_read: int = 0

    @property
    def layers(self) -> int:
        """Layers, with and without a cache."""
        return len(self.kv_bytes_per_token)

    @property
    def kv_layers(self) -> int:
        """Layers that keep a cache."""
        return sum(size > 0 for size in self.kv_bytes_per_token)

    def to_llm(self) -> Llm:
        """Return the model as an `Llm`.

        Raises
        ------
        InputError
            No layer keeps a cache.
        """
        reads = self.weight_read_bytes
        return Llm(
            name=self.name,
            layers=self.layers,
            kv_bytes_per_token_layer=tuple(self.kv_bytes_per_token),
            weight_bytes=self.weight_bytes,
            weight_read_bytes_per_layer=reads[0] if len(set(reads)) == 1 else tuple(reads),
            source=self.source,
            sources=self.sources,
            windows=self.windows,
            kv_format=self.kv_format,
            config=self.config,
            experts=self.experts or 0,
            expert_bytes=self.expert_bytes or 0,
            experts_read=self.experts_read,
            parameters=self.parameters,
        )

    def to_mapping(self) -> dict[str, Any]:
        """Return all fields as JSON-ready values: those of an `Llm`, as lists where layers may differ."""
        kept = list(self.kv_bytes_per_token)
        more: dict[str, Any] = {"windows": list(self.windows)} if any(self.windows) else {}
        if self.experts:
            more["experts"], more["expert_bytes"] = list(self.experts), list(self.expert_bytes)
            more["experts_read"] = self.experts_read
        return {
            "name": self.name,
            "model_type": self.model_type,
            "layers": self.layers,
            "kv_layers": self.kv_layers,
            "kv_bytes_per_token_layer": kept[0] if len(set(kept)) == 1 else kept,
            "kv_bytes_per_token_layers": kept,
            "kv_bytes_per_token": sum(kept),
            "parameters": self.parameters,
            "weight_bytes": self.weight_bytes,
            "weight_read_bytes_per_layer": list(self.weight_read_bytes),
            **more,
            "source": self.source,
            "sources": dict(self.sources),
        }
