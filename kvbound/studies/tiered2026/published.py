"""Numbers that the study states, and the models and runs that they belong to: data to compare with.

The study is the article "Adaptive KV Cache Placement" on tiered memories of 2026 and its public code.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Final

from kvbound import catalog
from kvbound.llm.model import Llm
from kvbound.memory import Memory
from kvbound.tiered2026 import Run, Setting

TIERS: Final = "tiered2026"
"""The tiers of the study's code, in the catalog."""
ARTICLE: Final = "tiered2026-article"
"""Those that its article names."""
PROMPT: Final = 128
"""Tokens of the prompt of every run."""


@dataclass(frozen=True)
class Model:
    """A model as the study takes it.

    Attributes
    ----------
    name
        In the catalog, whose ``config.json`` gives layers and KV.
    weight_bytes
        Size of the file with weights in Q4_K_M, read in every step.
    parameters
        As the study rounds them.
    layers, kv_bytes
        Layers, and KV bytes of a token in 16 bits, as the study states them.
    predicted_at
        Tokens whose KV is read in the prediction from bandwidth.
    """

    name: str
    weight_bytes: int
    parameters: int
    layers: int
    kv_bytes: int
    predicted_at: int

    @property
    def llm(self) -> Llm:
        """The model of the catalog with the study's weights."""
        found = catalog.llm(self.name)
        return dataclasses.replace(
            found,
            weight_bytes=self.weight_bytes,
            weight_read_bytes_per_layer=self.weight_bytes / found.layers,
            parameters=self.parameters,
        )

    def setting(self, bits: int = 16) -> Setting:
        """Return the model on the tiers of the study's code."""
        return Setting.of(catalog.memory(TIERS), self.llm, bits)


SMOLLM2: Final = Model("smollm2-135m", 105_454_432, 135_000_000, 30, 23_040, 186)
TINYLLAMA: Final = Model("tinyllama-1.1b", 668_788_096, 1_100_000_000, 22, 22_528, 179)
LLAMA: Final = Model("llama-2-7b", 4_081_004_224, 6_700_000_000, 32, 524_288, 170)
MODELS: Final = {model.name: model for model in (SMOLLM2, TINYLLAMA, LLAMA)}


@dataclass(frozen=True)
class PublishedRun:
    """A run of the study: its last context, and what it states of it.

    Attributes
    ----------
    context
        Tokens of the last step.
    crossing, kv_bytes, source, target
        Step of the only crossing, the KV that moves, and its tiers.
    spill_all_ms, adaptive_ms
        Longest step of each policy.
    p99_ms, total_ms
        99th percentile and total of both.
    """

    context: int
    crossing: int
    kv_bytes: int
    source: str
    target: str
    spill_all_ms: float
    adaptive_ms: float
    p99_ms: float
    total_ms: float

    def run(self, model: Model) -> Run:
        """Return the run in the study's accounting."""
        return Run(model.setting(), PROMPT, self.context - PROMPT)


RUNS: Final = {
    LLAMA.name: PublishedRun(
        65_792, 65_409, 34_360_262_656, "hbm", "dram",
        1011.8218808, 538.1050243, 11.4123048891, 546_211.36584143,
    ),
    TINYLLAMA.name: PublishedRun(
        200_000, 59, 4_212_736, "sram", "hbm", 1.5446001863, 1.5446001863, 1.5311593090, 174_399.5374150
    ),
}  # fmt: skip

CONTEXT: Final = 4096
"""Context of the table of bytes per token."""
BITS: Final = (16, 8, 4)
WINDOWS: Final = (512, 1024)
BYTES_PER_TOKEN: Final = {
    SMOLLM2.name: (199_849_312, 152_651_872, 129_053_152, 117_273_952, 129_070_432),
    TINYLLAMA.name: (761_085_312, 714_936_704, 691_862_400, 680_344_960, 691_879_296),
    LLAMA.name: (6_229_012_160, 5_155_008_192, 4_618_006_208, 4_349_963_968, 4_618_399_424),
}
"""At `CONTEXT` tokens: by `BITS`, then 16 bits with each of `WINDOWS`."""

CONTEXTS: Final = tuple(128 * 4**n for n in range(8))
"""Contexts of the study's sweep."""
COMPUTE_ONLY: Final = {SMOLLM2.name: 1_155_556, TINYLLAMA.name: 141_818, LLAMA.name: 23_283.6}
MEMORY_BOUND: Final = {SMOLLM2.name: 14_169.9, TINYLLAMA.name: 2311.2, LLAMA.name: 372.9}
"""Predicted tokens/s on the A100 with 40 GB."""
RIDGE_T4: Final = 203.125
MEASURED: Final = {
    ("a100-40", SMOLLM2.name): (458.0, 458.0),
    ("a100-40", TINYLLAMA.name): (421.0, 429.0),
    ("a100-40", LLAMA.name): (153.8, 156.8),
    ("t4", SMOLLM2.name): (323.0, 348.0),
    ("t4", TINYLLAMA.name): (189.0, 199.0),
    ("t4", LLAMA.name): (32.7, 40.8),
}
"""Slowest and fastest run with llama.cpp, tokens/s: 150 tokens, weights in Q4_K_M, all on the GPU."""
DECODED: Final = 150


def memory(tiers: str, model: Model, *, weights_inside: bool) -> Memory:
    """Return tiers of the catalog; where weights take up no room, tier 0 is larger by them."""
    found = catalog.memory(tiers)
    first, *others = found.tiers
    assert first.capacity is not None  # only the last tier may be unlimited
    extra = 0 if weights_inside else model.weight_bytes
    return dataclasses.replace(
        found, tiers=(dataclasses.replace(first, capacity=first.capacity + extra), *others)
    )
