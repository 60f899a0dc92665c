"""The study arXiv 2508.13231 as data: its setting, variations of one factor at a time, published numbers.

Fang and others, "Accelerating LLM Inference via Dynamic KV Cache Placement in Heterogeneous Memory
System", IEEE Computer Architecture Letters, 2025.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from kvbound import catalog
from kvbound.fang2025.adapter import PUBLISHED as POLICIES
from kvbound.instance import Instance
from kvbound.memory import Memory
from kvbound.rules import Accounting, Migration, Rules
from kvbound.studies.study import Scale, Study
from kvbound.workloads import CountRule, Fang2025, RecordedLike, Synthetic

LLM: Final = "llama-3.1-8b-mha"
LINKS: Final = {"pcie6-paper": 64, "pcie6": 128, "nvlink3-paper": 300, "gh200-paper": 450}
"""Memories of the catalog, and their external link's GB/s in each direction."""
OPTIONS: Final = {"sa-guided": {"window": 5, "topk": 0.5}}
"""Options of policies: the values at which the study's search starts."""
SINK_TOKENS: Final = 4
"""Number of first tokens that every slot of an actual-like trace reads."""

HEADLINE: Final = 5.87
"""The largest improvement that the study states; it is not a ratio of its published numbers."""
PUBLISHED: Final[dict[str, dict[str, float]]] = {
    "paper": {
        "best": 24.59210623, "sa-guided": 24.93242105, "page": 25.14844094,
        "reactive": 89.11331360, "static": 165.31451300,
    },
    "actual-like": {
        "best": 24.59591295, "sa-guided": 25.69888687, "page": 47.73469309,
        "reactive": 85.94637843, "static": 140.00842914,
    },
    "high": {
        "best": 24.61097011, "sa-guided": 52.4433197, "page": 65.13965017,
        "reactive": 100.42653231, "static": 122.30423489,
    },
    "sparsity-40": {"best": 31.90528498},
    "sparsity-50": {"best": 28.25044844},
}  # fmt: skip
"""Decode seconds by cell and policy; those of `actual-like` are from a trace that is not public."""
PUBLISHED_RATIOS: Final = {
    "sparsity-40": {("static", "best"): 5.95},
    "sparsity-50": {("static", "best"): 5.90},
}
"""Ratios for which the study does not state the times; from the same trace."""
_COMPARED: Final = (
    ("static", "best"), ("static", "sa-guided"),
    ("reactive", "best"), ("page", "best"), ("sa-guided", "best"),
)  # fmt: skip


SCALES: Final = {scale.name: scale for scale in (Scale("quick", 64, 8, 5.0), Scale("full", 1, 1, 300.0))}


@dataclass(frozen=True)
class Cell:
    """One setting; the defaults are those of the paper.

    Parameters
    ----------
    variation
        "low" and "high" are the study's generator with at most 10 and 90 % changes per step; "actual-like"
        imitates recorded attention.
    sparsity
        Share of the tokens that are not read, in %.
    hbm
        Capacity in GiB for 32 layers; proportionally less for fewer layers.
    link
        The external link's GB/s in each direction.
    layers, block
        Layers, and tokens per block.
    migration
        The rule for moves under `physical` accounting.
    """

    variation: str = "low"
    sparsity: int = 60
    hbm: int = 23
    link: int = 450
    layers: int = 32
    block: int = 1
    migration: str = "on-read"

    @property
    def name(self) -> str:
        """The factors that differ from the paper's setting, or "paper"."""
        parts = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                parts.append(value if isinstance(value, str) else f"{field.name}-{value}")
        return "-".join(parts) or "paper"

    @property
    def factors(self) -> dict[str, str | int]:
        """The values of all factors."""
        return dataclasses.asdict(self)

    @property
    def as_published(self) -> Cell:
        """The equivalent cell under the study's accounting, which has no migration rule."""
        return dataclasses.replace(self, migration="on-read")

    def instance(self, scale: Scale, seed: int = 0) -> Instance:
        """Return the cell's instance under the study's accounting."""
        llm = catalog.llm(LLM)
        layers = math.ceil(self.layers / scale.layers)
        share = layers / llm.layers / scale.tokens
        small = dataclasses.replace(
            llm,
            layers=layers,
            weight_bytes=llm.weight_bytes * share,
            weight_read_bytes_per_layer=float(llm.weight_reads[0]) / scale.tokens,
        )
        rules = Rules(
            granularity=self.block, migration=Migration(self.migration), accounting=Accounting.FANG2025
        )
        return Instance(self.name, self._memory(share), small, rules, self._workload(layers, scale, seed))

    def _memory(self, share: float) -> Memory:
        name = next(name for name, rate in LINKS.items() if rate == self.link)
        memory = catalog.memory(name)
        hbm = dataclasses.replace(memory.tiers[0], capacity=self.hbm * 2**30 * share)
        return dataclasses.replace(memory, tiers=(hbm, *memory.tiers[1:]))

    def _workload(self, layers: int, scale: Scale, seed: int) -> Synthetic:
        """Return the study's reads; its recorded trace and other sparsities have another count rule."""
        recorded = self.variation == "actual-like" or self.sparsity != 60
        prefill, steps = (31_346 if self.variation == "high" else 31_299), (10_240 if recorded else 10_239)
        common: dict[str, Any] = {
            "layers": layers,
            "prefill_tokens": round(prefill / scale.tokens),
            "decode_steps": round(steps / scale.tokens),
            "sparsity": self.sparsity / 100,
            "seed": seed,
            "count_rule": CountRule.CEIL_WITH_OWN if recorded else CountRule.ROUND_BEFORE,
        }
        if self.variation == "actual-like":
            return RecordedLike(sink_tokens=math.ceil(SINK_TOKENS / scale.tokens), **common)
        return Fang2025(variation={"low": 0.1, "high": 0.9}[self.variation], **common)


PAPER: Final = Cell()
_SLOW: Final = Cell(hbm=25, link=64)
_HIGH_SLOW: Final = Cell("high", hbm=25, link=64)
_SMALL: Final = Cell("high", hbm=18)
_LINKED: Final = (_SLOW, Cell(hbm=25, link=128), Cell(hbm=25, link=300), PAPER)


def _prefetch(cell: Cell) -> Cell:
    return dataclasses.replace(cell, migration="prefetch")


TABLES: Final[dict[str, tuple[Cell, ...]]] = {
    "variation": (PAPER, Cell("actual-like"), Cell("high")),
    "sparsity": tuple(Cell(sparsity=percent) for percent in (40, 50, 60, 80, 85, 90, 95)),
    "capacity": tuple(Cell(hbm=gib) for gib in (18, 20, 22, 23, 25)),
    "link": _LINKED,
    "layers": (Cell(layers=12), PAPER),
    "granularity": (PAPER, Cell(block=16)),
    "migration": tuple(
        each for cell in (*_LINKED, Cell("high"), _HIGH_SLOW) for each in (cell, _prefetch(cell))
    ),
    "hard": (Cell("high"), _HIGH_SLOW, _SMALL),
}
"""Cells of each table, in order; a cell may be in several tables."""


def published(cell: str) -> dict[str, float]:
    """Return the study's numbers for a cell: seconds by policy, and ratios as ``static / best``."""
    times = PUBLISHED.get(cell, {})
    ratios = {pair: times[pair[0]] / times[pair[1]] for pair in _COMPARED if set(pair) <= set(times)}
    ratios |= PUBLISHED_RATIOS.get(cell, {})
    return times | {f"{one} / {other}": value for (one, other), value in ratios.items()}


def headline(records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the largest improvements over `static`, found and possible, at the study's link and overall."""
    known = [each for each in records if each["static_over_bound"] is not None]

    def most(ratio: str, group: Iterable[Mapping[str, Any]]) -> dict[str, Any] | None:
        best = max(group, key=lambda each: each[ratio], default=None)
        return None if best is None else {"cell": best["cell"], "ratio": best[ratio]}

    link = [each for each in known if each["factors"]["link"] == PAPER.link]
    return {
        "published": HEADLINE,
        **{
            f"{what}{where}": most(f"static_over_{what}", group)
            for where, group in (("_at_450", link), ("", known))
            for what in ("best_found", "bound")
        },
    }


def notes(scale: Scale) -> list[str]:
    """Return notes that explain the numbers."""
    lines = [
        "One factor at a time is changed from the cell `paper`: 23 GiB of HBM, 450 GB/s, 60 % sparsity, low "
        "variation, 32 layers, single tokens, moves on reads. The first table of a section has the study's "
        "policies under its accounting (`fang2025`, which knows neither blocks nor a migration rule), the "
        "second schedules and time lower bounds under kvbound's (`physical`).",
        "The study's trace of recorded attention is not public: `actual-like` imitates recorded attention, "
        "with attention sinks. The published numbers at 40 and 50 % sparsity are of that trace too, while "
        "these cells' reads are of the low-variation generator.",
        "`sa-guided` stays at window 5 and top-k 0.5, where the study's search starts.",
        "Fewer layers have their share of the weights and of HBM, so that room per layer is the same.",
    ]
    if scale.tokens > 1:
        lines.append(
            f"All tokens, the weights and HBM are divided by {scale.tokens}, layers by {scale.layers}: bytes "
            "keep their ratios, so ratios of times are comparable with the study's, seconds are not. What "
            "does not shrink: pages and blocks of 16 tokens, and one new token per step, weigh "
            f"{scale.tokens} times more."
        )
    return lines


STUDY: Final = Study(
    name="fang2025",
    title="arXiv 2508.13231, the published study",
    accounting=str(Accounting.FANG2025),
    policies={name: OPTIONS.get(name, {}) for name in POLICIES},
    scales=SCALES,
    tables=TABLES,
    published=published,
    headline=headline,
    notes=notes,
)
