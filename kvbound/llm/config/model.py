"""A language model as numbers of parameters and cached values, without number formats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final

_MOST_RUNS: Final = 8


@dataclass(frozen=True)
class Layer:
    """One layer, in numbers of parameters and cached values.

    Parameters
    ----------
    kv_values
        Values that a token adds to this layer's cache; 0 if it has none or shares another layer's.
    window
        Sliding window in tokens; None for full attention.
    attention, ffn, experts, router
        Parameters of the matrices of attention, of the feed-forward part that every token passes, of all
        routed experts, and of the router.
    active
        Parameters of the routed experts that one token passes.
    vectors
        Parameters of norms, biases and the like: held, but not counted as read.
    how, kv_how
        Derivation of the numbers, in words.
    routed, chosen
        Number of routed experts, and of those that one token passes; 0 if that is not known.
    """

    kv_values: int
    window: int | None = None
    attention: int = 0
    ffn: int = 0
    experts: int = 0
    active: int = 0
    router: int = 0
    vectors: int = 0
    how: str = ""
    kv_how: str = ""
    routed: int = 0
    chosen: int = 0

    @property
    def held(self) -> int:
        """All parameters of the layer."""
        return self.attention + self.ffn + self.experts + self.router + self.vectors


@dataclass(frozen=True)
class Model:
    """All layers of a model, and the number of parameters outside them."""

    layers: tuple[Layer, ...]
    outside: int
    outside_how: str
    remarks: Mapping[str, str] = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        """Parameters of the whole model."""
        return self.outside + sum(layer.held for layer in self.layers)


def per_layer(hows: list[str]) -> str:
    """Join the layers' texts: one if all are equal, else one for each run of layers or each distinct text."""
    runs = [(how, len(list(run))) for how, run in groupby(hows)]
    if len(runs) == 1:
        return runs[0][0]
    if len(runs) > _MOST_RUNS:
        return "; ".join(f"{number} layers: {how}" for how, number in Counter(hows).items())
    texts, start = [], 0
    for how, length in runs:
        where = f"layers {start} to {start + length - 1}" if length > 1 else f"layer {start}"
        texts.append(f"{where}: {how}")
        start += length
    return "; ".join(texts)
