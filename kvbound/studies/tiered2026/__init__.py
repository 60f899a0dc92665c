"""The four-tier study of 2026 on adaptive KV placement: its runs, its figures, its claims.

The study places the whole KV cache in one tier and spreads its move over the steps before a crossing. Its
accounting is `kvbound.tiered2026`; the same runs as instances show what a better placement takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from kvbound.report import numbers
from kvbound.studies.study import Scale, Study
from kvbound.studies.tiered2026 import claims, figures, sweeps
from kvbound.studies.tiered2026.cells import POLICIES, RUN, SCALES, SMALL, TABLES, Cell, entries
from kvbound.studies.tiered2026.published import RUNS

__all__ = ["STUDY", "Cell"]

_ACCOUNTING: Final = "tiered2026"
SECTIONS: Final = {
    "claims": claims.claims,
    "policies": figures.runs,
    "last-step": sweeps.last_step,
    "longer": sweeps.longer,
    "bytes": figures.bytes_per_token,
    "contexts": figures.contexts,
    "predictions": figures.predictions,
    "measured": figures.measured,
    "energy": figures.energy,
}
"""Sections by the name of their table, in order; they follow from formulas and need no cells."""
_PUBLISHED: Final = {
    cell.name: {name: RUNS[cell.model].total_ms / 1e3 for name in ("spill-all", "adaptive-spread")}
    for cell in (RUN, SMALL)
}


def published(cell: str) -> dict[str, float]:
    """Return the study's numbers for a cell: seconds by policy."""
    return dict(_PUBLISHED.get(cell, {}))


def headline(records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return how much longer `spill-all` takes than the best schedule found and the bound, by cell."""

    def over(record: Mapping[str, Any]) -> dict[str, Any]:
        spilled = record[_ACCOUNTING]["spill-all"]["time_s"]
        best = record["physical"].get(record["best_found"], {}).get("time_s")
        bound = record["bound_s"]
        ratios = [spilled / least if least else None for least in (best, bound)]
        return {"cell": record["cell"], "over_found": ratios[0], "over_bound": ratios[1]}

    return {"spill_all": [over(record) for record in records]}


def headlines(found: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each cell."""
    return [
        f"{each['cell']}: the study's spill-all takes {numbers.ratio(each['over_found'])} the best schedule "
        f"found and {numbers.ratio(each['over_bound'])} the certified time lower bound."
        for each in found["spill_all"]
        if each["over_found"] and each["over_bound"]
    ]


def notes(scale: Scale) -> list[str]:
    """Return notes that explain the numbers."""
    lines = [
        "The first table of a section has the study's policies by its rules (`tiered2026`): the whole KV in "
        "the fastest tier that holds it, weights, reads and writes one after the other. `fill-first` is a "
        "better placement on the same assumptions: HBM is filled first, and all tiers are read side by side. "
        "The second table has schedules and time lower bounds under kvbound's rules (`physical`): single "
        "tokens of a layer move, transfers of a step overlap, and every transfer is charged.",
        "In the study the weights are read from HBM but take up no room there; in cells `weights-inside` "
        "they do. Cells `article` have the tiers that the article names: HBM, DRAM, SSD, remote.",
    ]
    if scale.tokens > 1:
        lines.append(
            f"In cells all tokens, weights and capacities are divided by {scale.tokens}, layers by "
            f"{scale.layers}: bytes keep their ratios, so ratios of times are comparable with the study's, "
            "seconds are not. The other tables are at full size."
        )
    return lines


STUDY: Final = Study(
    name="tiered2026",
    title="Adaptive KV placement on four tiers (2026), the published study",
    accounting=_ACCOUNTING,
    policies={name: {} for name in POLICIES},
    scales=SCALES,
    tables={**dict.fromkeys(SECTIONS, ()), **TABLES},
    published=published,
    headline=headline,
    notes=notes,
    entries=entries,
    reference="fill-first",
    schedules=("static",),
    solvers={"pricing": 1.0},
    headlines=headlines,
    sections=SECTIONS,
)
