"""The small set: random reads and short cuts of recorded ones, small enough to be proved optimal."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any, Final

from kvbound import workloads
from kvbound.trace import Trace
from tests.instances.layout import LINKS, document, scaled_llm
from tests.instances.real import Cut, instance

CUTS: Final = (Cut("native512", 1, 15, 16), Cut("native512", 1, 10, 24))

THREE_TIERS: Final = {
    "name": "hbm-dram-cxl",
    "resources": {
        "hbm": "4900GB/s", "pcie_down": "64GB/s", "pcie_up": "64GB/s", "dram": "460.8GB/s", "cxl": "25GB/s",
    },
    "tiers": [
        {"name": "hbm", "capacity": "20%", "reads": ["hbm"], "writes": ["hbm"]},
        {"name": "dram", "capacity": "40%", "reads": ["pcie_down", "dram"], "writes": ["pcie_up", "dram"]},
        {"name": "cxl", "capacity": None, "reads": ["pcie_down", "cxl"], "writes": ["pcie_up", "cxl"]},
    ],
}  # fmt: skip
"""A GPU, its host and memory on CXL, behind one link."""


def traces() -> dict[str, Trace]:
    """The recorded traces of the set by name."""
    return {cut.name: cut.trace() for cut in CUTS}


def documents(traces: dict[str, Trace]) -> Iterator[dict[str, Any]]:
    """Every instance of the set."""
    for room, link in product((10, 30, 53), LINKS):
        yield _swap(2, 48, 24, room, link)
    for room, link in product((30, 53), LINKS):
        yield _swap(1, 200, 30, room, link)
        yield _swap(4, 64, 32, room, link)
    for rules in ({"migration": "prefetch"}, {"migration": "none"}, {"timing": "serial"}):
        yield _swap(2, 48, 24, 30, 64, **rules)
    yield _swap(1, 24, 12, 30, 64, copies="exclusive")
    yield _swap(1, 24, 12, 30, 64, copies="exclusive", migration="prefetch")
    yield _three(1, 24, 12)
    yield _three(1, 24, 12, copies="exclusive")
    for cut, room in product(CUTS, (10, 25)):
        yield instance(cut.name, traces[cut.name], room, 64)


def _swap(layers: int, prompt: int, steps: int, room: int, link: int, **rules: str) -> dict[str, Any]:
    synthetic, llm = _random(layers, prompt, steps)
    name = "-".join([f"swap-{layers}x{prompt}-c{room}-b{link}", *rules.values()])
    return document(name, LINKS[link], llm, synthetic, rules, hbm=f"{room}%")


def _three(layers: int, prompt: int, steps: int, **rules: str) -> dict[str, Any]:
    synthetic, llm = _random(layers, prompt, steps)
    name = "-".join([f"three-{layers}x{prompt}", *rules.values()])
    return document(name, THREE_TIERS, llm, synthetic, rules)


def _random(layers: int, prompt: int, steps: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """40 % reads of which up to 20 % change per step, and the model beside them."""
    spec = {
        "kind": "random-swap", "layers": layers, "prefill_tokens": prompt, "decode_steps": steps,
        "sparsity": 0.6, "variation": 0.2, "count_rule": "ceil(n)", "seed": 0,
    }  # fmt: skip
    counts = workloads.shape(workloads.from_mapping(spec))[3]
    llm = scaled_llm(f"random-{layers}", counts, "sizes in proportion to an 8B model")
    return {"synthetic": spec}, llm
