"""The paper set: the full-size settings of arXiv 2508.13231 as synthetic traces under its own accounting."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.instances.layout import document

LOW = {"prefill_tokens": 31_299, "decode_steps": 10_239, "variation": 0.1, "count_rule": "round(n-1)"}
HIGH = {"prefill_tokens": 31_346, "decode_steps": 10_239, "variation": 0.9, "count_rule": "round(n-1)"}
RECORDED_LENGTHS = {
    "prefill_tokens": 31_299, "decode_steps": 10_240, "variation": 0.1, "count_rule": "ceil(n+1)",
}  # fmt: skip
"""As many steps and reads as the study's recorded trace, which is not public; the reads are synthetic."""


def documents() -> Iterator[dict[str, Any]]:
    """Every instance of the set."""
    yield _instance("paper-low", LOW)
    yield _instance("paper-actual-lengths", RECORDED_LENGTHS)
    yield _instance("paper-high", HIGH)
    for percent in (40, 50, 80, 85, 90, 95):
        yield _instance(f"paper-sparsity-{percent}", RECORDED_LENGTHS, sparsity=percent / 100)
    for gib in (18, 20, 22, 25):
        yield _instance(f"paper-hbm-{gib}", LOW, hbm=f"{gib}GiB")
    yield _instance("paper-nvlink3", LOW, memory="nvlink3-paper")
    yield _instance("paper-pcie6", LOW, memory="pcie6-paper")


def _instance(
    name: str,
    shape: dict[str, Any],
    *,
    memory: str = "gh200-paper",
    sparsity: float = 0.6,
    **capacity: str,
) -> dict[str, Any]:
    synthetic = {"kind": "fang2025", "layers": 32, **shape, "sparsity": sparsity, "seed": 0}
    rules = {"accounting": "fang2025"}
    return document(name, memory, "llama-3.1-8b-mha", {"synthetic": synthetic}, rules, **capacity)
