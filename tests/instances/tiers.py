"""The tiers set: recorded reads on hierarchies of three and four tiers, with latencies of real devices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from kvbound import catalog
from kvbound.trace import Trace
from tests.instances.batch import BATCHES, MODELS, Arrivals
from tests.instances.layout import document

STACKS: Final = {
    "h100-nvme": "h100+ddr5+nvme5",
    "h100-remote": "h100+ddr5+nvme5+400gbe",
    "h100-cxl": "h100+ddr5+cxl2+nvme5",
    "h200-nvme": "h200+ddr5+nvme5",
    "gh200-nvme": "gh200-144+nvme5",
    "gh200-remote": "gh200-144+nvme5+400gbe",
    "mi300x-remote": "mi300x+ddr5+nvme5+rdma-store",
    "l4-nvme": "l4+ddr4+nvme4",
    "rtx4090-nvme": "rtx-4090+ddr5-2ch+nvme4",
    "laptop-nvme": "rtx-4060-laptop+ddr5-2ch+nvme4",
}
SHARES: Final = {3: ("15%", "45%"), 4: ("15%", "30%", "30%")}
"""Room of each tier but the last in per cent of the largest live KV; the last has the device's own."""

PREFETCH: Final = {"migration": "prefetch"}
EXCLUSIVE: Final = {"copies": "exclusive"}


@dataclass(frozen=True)
class Cell:
    """An instance of the set: batch, model and memory, tokens per page, and rules."""

    batch: int
    model: str
    stack: str
    page: int = 64
    rules: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """``b8-8b-h100-nvme-p64-exclusive``."""
        return "-".join([f"b{self.batch}", self.model, self.stack, f"p{self.page}", *self.rules.values()])


CELLS: Final = (
    Cell(1, "8b", "h100-nvme"),
    Cell(1, "8b", "l4-nvme", 16),
    Cell(1, "8b", "rtx4090-nvme", 64, EXCLUSIVE),
    Cell(1, "8b", "laptop-nvme", 16, PREFETCH),
    Cell(1, "70b", "gh200-remote", 64, EXCLUSIVE),
    Cell(1, "70b", "h100-remote", 64),
    Cell(8, "8b", "h100-nvme"),
    Cell(8, "8b", "h100-nvme", 16, EXCLUSIVE),
    Cell(8, "8b", "h100-remote", 64, EXCLUSIVE),
    Cell(8, "8b", "h100-remote", 16, PREFETCH),
    Cell(8, "8b", "h100-cxl"),
    Cell(8, "8b", "h100-cxl", 64, EXCLUSIVE | PREFETCH),
    Cell(8, "8b", "l4-nvme", 64),
    Cell(8, "70b", "h200-nvme", 16, EXCLUSIVE),
    Cell(8, "70b", "h200-nvme", 64, PREFETCH),
    Cell(8, "70b", "gh200-nvme"),
    Cell(8, "70b", "gh200-remote", 16, EXCLUSIVE),
    Cell(8, "70b", "mi300x-remote", 64, EXCLUSIVE | PREFETCH),
)

SINGLE: Final = Arrivals(192, 128, (0,))


def traces() -> dict[str, Trace]:
    """The traces of the set by name; several instances share one."""
    return {each.name: each.trace() for each in (SINGLE, *(one for one in BATCHES if len(one.starts) == 8))}


def documents(traces: dict[str, Trace]) -> Iterator[dict[str, Any]]:
    """Every instance of the set."""
    for cell in CELLS:
        memory, trace = STACKS[cell.stack], f"batch-{cell.batch}"
        tiers = [tier.name for tier in catalog.memory(memory).tiers]
        rooms = dict(zip(tiers, SHARES[len(tiers)], strict=False))
        llm = paged_llm(MODELS[cell.model], traces[trace].layers, cell.page)
        yield document(cell.name, memory, llm, {"path": f"{trace}.trace"}, cell.rules, **rooms)


def paged_llm(name: str, layers: int, page: int) -> dict[str, Any]:
    """A few layers with the weights of a catalog model, and for every recorded token the KV of a page.

    Serving systems move KV in such pages. Contexts are then so long that times of slots, with which latencies
    are to be compared, are real ones.
    """
    entry = catalog.entry(catalog.Kind.LLM, name)
    return {
        "name": f"{name}-paged",
        "layers": layers,
        "kv_bytes_per_token_layer": entry["kv_bytes_per_token_layer"] * page,
        "weight_bytes": 0,
        "weight_read_bytes_per_layer": entry["weight_read_bytes_per_layer"],
        "source": f"{layers} layers of {name}; every recorded token stands for a page of {page} tokens",
    }
