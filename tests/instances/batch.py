"""The batch set: recorded sequences that are decoded together, with arrivals and ends, on common memories."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from kvbound import catalog
from kvbound.recording.attention import from_qk
from kvbound.recording.library import LICENCE, RECORDINGS
from kvbound.trace import Trace
from kvbound.trace.batch import batch
from tests.instances.layout import document
from tests.instances.real import RECORDINGS_HERE

PERCENT: Final = 15
"""Share of its own past tokens that every sequence reads."""
SEQUENCES: Final = 4
"""Recorded sequences; further ones of a batch are other stretches of them."""
CONTEXT: Final = 32_768
"""Length of the real context that a sequence of `TOKENS` tokens stands for."""
TOKENS: Final = 256
MEMORIES: Final = {"h100": "h100-pcie5", "h200": "h200-pcie5", "gh200": "gh200-144"}
MODELS: Final = {"8b": "llama-3.1-8b", "70b": "llama-3.1-70b"}


@dataclass(frozen=True)
class Arrivals:
    """A batch: prompt tokens of the shortest sequence, steps of each, and their first steps."""

    prompt: int
    steps: int
    starts: tuple[int, ...]

    @property
    def name(self) -> str:
        """``batch-4``."""
        return f"batch-{len(self.starts)}"

    def trace(self) -> Trace:
        """Decode the sequences together."""
        sequences = [self._sequence(number) for number in range(len(self.starts))]
        whole = batch(sequences, self.starts)
        source = (
            f"{len(self.starts)} sequences decoded together, stretches of native512's sequences 0-3: "
            f"{RECORDINGS[0].what}; each reads the {PERCENT} % of its past tokens with the largest "
            "head-averaged attention probability"
        )
        return Trace(
            whole.prefill_tokens, whole.rows, source=source, licence=LICENCE, timeline=whole.timeline
        )

    def _sequence(self, number: int) -> Trace:
        recorded, stretch = number % SEQUENCES, number // SEQUENCES
        file = RECORDINGS_HERE / f"qk_native512_seq{recorded}.npz"
        return from_qk(file, 0, self.prompt + 16 * stretch, PERCENT / 100, steps=self.steps)


BATCHES: Final = (
    Arrivals(192, 128, (0, 0)),
    Arrivals(128, 96, (0, 0, 16, 48)),
    Arrivals(96, 80, (0, 0, 0, 8, 16, 24, 40, 64)),
    Arrivals(64, 64, (*(0,) * 8, *(12,) * 2, *(24,) * 2, *(36,) * 2, *(48,) * 2)),
    Arrivals(48, 48, (*(0,) * 12, *(2 * n for n in range(1, 21)))),
)

PREFETCH: Final = {"migration": "prefetch"}
EXCLUSIVE: Final = {"copies": "exclusive"}
PAGES: Final = {"granularity": 16}

CELLS: Final[tuple[tuple[int, str, str, int, dict[str, Any]], ...]] = (
    (2, "8b", "h100", 25, {}),
    (2, "70b", "gh200", 10, {}),
    (4, "8b", "h100", 25, {}),
    (4, "8b", "gh200", 10, {}),
    (4, "70b", "h200", 25, {}),
    (8, "8b", "h100", 10, {}),
    (8, "8b", "h100", 25, EXCLUSIVE),
    (8, "8b", "gh200", 25, EXCLUSIVE),
    (8, "70b", "h200", 25, PREFETCH),
    (8, "8b", "gh200", 25, PAGES),
    (16, "8b", "h200", 25, {}),
    (16, "70b", "gh200", 10, {}),
    (16, "8b", "h100", 25, PAGES),
    (32, "8b", "h100", 25, {}),
    (32, "70b", "h100", 10, {}),
    (32, "8b", "gh200", 10, {}),
)
"""Batch, model, memory, room in per cent of the largest live KV, and rules."""


def traces() -> dict[str, Trace]:
    """The traces of the set by name; several instances share one."""
    return {each.name: each.trace() for each in BATCHES}


def documents(traces: dict[str, Trace]) -> Iterator[dict[str, Any]]:
    """Every instance of the set."""
    for size, model, memory, room, rules in CELLS:
        words = [f"g{value}" if isinstance(value, int) else value for value in rules.values()]
        name = "-".join([f"b{size}", model, memory, f"c{room}", *words])
        llm = shaped_llm(MODELS[model], traces[f"batch-{size}"].layers)
        trace = {"path": f"batch-{size}.trace"}
        yield document(name, MEMORIES[memory], llm, trace, rules, hbm=f"{room}%")


def shaped_llm(name: str, layers: int) -> dict[str, Any]:
    """A few layers with the KV of a catalog model, and its weights in proportion to the contexts."""
    entry = catalog.entry(catalog.Kind.LLM, name)
    read = entry["weight_read_bytes_per_layer"] * TOKENS // CONTEXT
    return {
        "name": f"{name}-shaped",
        "layers": layers,
        "kv_bytes_per_token_layer": entry["kv_bytes_per_token_layer"],
        "weight_bytes": 0,
        "weight_read_bytes_per_layer": read,
        "source": f"{layers} layers of {name}; weights as at contexts of {CONTEXT:,} tokens, each of which "
        f"a sequence of about {TOKENS} recorded tokens stands for",
    }
