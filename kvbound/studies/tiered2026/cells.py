"""The study's runs as cells: under its own accounting, and as instances."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from kvbound import catalog
from kvbound.instance import Instance
from kvbound.memory import Memory
from kvbound.rules import Copies, Migration, Overlap, Rules
from kvbound.studies.study import Scale
from kvbound.studies.tiered2026.published import (
    ARTICLE,
    LLAMA,
    MODELS,
    PROMPT,
    RUNS,
    TIERS,
    TINYLLAMA,
    memory,
)
from kvbound.tiered2026 import Run, Setting, adaptive_spread, fill_first, spill_all
from kvbound.workloads import Dense

SCALES: Final = {scale.name: scale for scale in (Scale("quick", 64, 32, 4.0), Scale("full", 1, 1, 60.0))}
POLICIES: Final = ("spill-all", "adaptive-spread", "fill-first")
"""The study's two policies, and the better placement on its assumptions."""


@dataclass(frozen=True)
class Cell:
    """One run.

    Parameters
    ----------
    model
        Name of the model.
    context
        Tokens of the last step.
    weights
        "outside": the weights take up no room in HBM, as in the study; "inside": they do.
    tiers
        Memory of the catalog.
    """

    model: str = LLAMA.name
    context: int = RUNS[LLAMA.name].context
    weights: str = "outside"
    tiers: str = TIERS

    @property
    def name(self) -> str:
        """The model, and the factors that differ from the study's run."""
        usual = RUNS[self.model].context
        parts = [self.model, *([f"context-{self.context}"] if self.context != usual else [])]
        parts += ["weights-inside"] if self.weights == "inside" else []
        return "-".join([*parts, *(["article"] if self.tiers == ARTICLE else [])])

    @property
    def factors(self) -> dict[str, str | int]:
        """The values of all factors."""
        return dataclasses.asdict(self)

    @property
    def as_published(self) -> Cell:
        """The cell itself: no two have the same results under the study's accounting."""
        return self

    def instance(self, scale: Scale, seed: int = 0) -> Instance:
        """Return the cell's instance under `physical` accounting, for which the study's has no rule.

        All tiers are read side by side, and so are the layers of a step. One token is born per step; it is
        read from the next step on.
        """
        model = MODELS[self.model]
        small, share = self._reduced(scale)
        given = memory(self.tiers, model, weights_inside=self.weights == "inside")
        rules = Rules(copies=Copies.EXCLUSIVE, migration=Migration.PREFETCH, overlap=Overlap.STEP)
        prompt, steps = self._tokens(scale)
        reads = Dense(small.layers, prompt, steps, seed=seed)
        return Instance(self.name, _smaller(given, share), small, rules, reads)

    def run(self, scale: Scale) -> Run:
        """Return the cell under the study's accounting."""
        small, share = self._reduced(scale)
        prompt, steps = self._tokens(scale)
        return Run(Setting.of(_smaller(catalog.memory(self.tiers), share), small), prompt, steps)

    def _tokens(self, scale: Scale) -> tuple[int, int]:
        """Return the tokens of the prompt, and the steps."""
        prompt = max(1, round(PROMPT / scale.tokens))
        return prompt, round(self.context / scale.tokens) - prompt

    def _reduced(self, scale: Scale) -> tuple[Any, float]:
        """Return the model with fewer layers and less weights, and its share of all bytes."""
        llm = MODELS[self.model].llm
        layers = math.ceil(llm.layers / scale.layers)
        share = layers / llm.layers / scale.tokens
        small = dataclasses.replace(
            llm,
            layers=layers,
            weight_bytes=llm.weight_bytes * share,
            weight_read_bytes_per_layer=float(llm.weight_reads[0]) / scale.tokens,
        )
        return small, share


def _smaller(given: Memory, share: float) -> Memory:
    sizes = [None if tier.capacity is None else tier.capacity * share for tier in given.tiers]
    tiers = (dataclasses.replace(tier, capacity=size) for tier, size in zip(given.tiers, sizes, strict=True))
    return dataclasses.replace(given, tiers=tuple(tiers))


def entries(cell: Cell, scale: Scale) -> dict[str, Mapping[str, Any]]:
    """Return the decode time of each of the `POLICIES`, under the study's accounting."""
    run = cell.run(scale)
    inside = cell.weights == "inside"
    times = {
        "spill-all": spill_all(run),
        "adaptive-spread": adaptive_spread(run),
        "fill-first": fill_first(run.setting, run.tokens, weights_inside=inside),
    }
    return {
        name: {"time_s": math.fsum(steps.tolist()), "hit_rate": None, "note": ""}
        for name, steps in times.items()
    }


RUN: Final = Cell()
SMALL: Final = Cell(TINYLLAMA.name, RUNS[TINYLLAMA.name].context)
INSIDE: Final = Cell(weights="inside")
LONGER: Final = Cell(context=2 * RUNS[LLAMA.name].context, weights="inside")
OTHER: Final = Cell(weights="inside", tiers=ARTICLE)

TABLES: Final[dict[str, tuple[Cell, ...]]] = {
    "runs": (RUN, SMALL),
    "weights": (RUN, INSIDE),
    "context": (INSIDE, LONGER),
    "tiers": (INSIDE, OTHER),
}
"""Cells of each table, in order; a cell may be in several tables."""
