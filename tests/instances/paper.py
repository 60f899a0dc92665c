"""The paper set: the full-size settings of arXiv 2508.13231 as synthetic traces.

Those of the published study are under its own accounting; those of its later work on Mixtral-8x7B, batches of
4 and 16 sequences, under the physical one.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any, Final

from tests.instances.layout import document

LOW = {"prefill_tokens": 31_299, "decode_steps": 10_239, "variation": 0.1, "count_rule": "round(n-1)"}
HIGH = {"prefill_tokens": 31_346, "decode_steps": 10_239, "variation": 0.9, "count_rule": "round(n-1)"}
RECORDED_LENGTHS = {
    "prefill_tokens": 31_299, "decode_steps": 10_240, "variation": 0.1, "count_rule": "ceil(n+1)",
}  # fmt: skip
"""As many steps and reads as the study's recorded trace, which is not public; the reads are synthetic."""

SEQUENCE: Final = {
    "prefill_tokens": 4_096, "decode_steps": 8_192, "variation": 0.1, "count_rule": "ceil(n+1)",
}  # fmt: skip
"""One of a batch: as many tokens and reads as in the later work's recorded traces, which are not public."""
SIMULATOR: Final = "simulator of arXiv 2508.13231's authors (fangyunh/Data_Placement_Optimization)"


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
    yield _mixtral(4)
    yield _mixtral(16)


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


def _mixtral(batch: int) -> dict[str, Any]:
    """So many sequences on Mixtral-8x7B; kvbound's `fang2025` accounting has no batches."""
    synthetic = {"kind": "fang2025", "layers": 32, **SEQUENCE, "sparsity": 0.6, "seed": 0, "batch": batch}
    trace = {"synthetic": synthetic}
    return document(f"paper-mixtral-b{batch}", "gh200-144", mixtral(batch), trace, {}, hbm="90GiB")


def mixtral(batch: int) -> dict[str, Any]:
    """Mixtral-8x7B as the later work counts it, with the experts that `batch` sequences read together."""
    read = experts_read(batch)
    values = 2 * 4096 * 4096 + 2 * 4096 * 1024 + 8 * 4096 + read * 2 * 4096 * 14336
    return {
        "name": f"mixtral-8x7b-batch-{batch}",
        "layers": 32,
        "kv_bytes_per_token_layer": 2 * 8 * 128 * 2,
        "weight_bytes": 46_700_000_000 * 2,
        "weight_read_bytes_per_layer": round(values * 2),
        "source": f"Mixtral-8x7B as counted by the {SIMULATOR}: experts of two matrices, all of them "
        f"resident, and as many of them read as {batch} tokens choose on average",
        "sources": {
            "layers": SIMULATOR,
            "kv_bytes_per_token_layer": f"{SIMULATOR}: 2 (K and V) x 8 heads x 128 x 2 B",
            "weight_bytes": f"{SIMULATOR}: 46.7e9 parameters x 2 B",
            "weight_read_bytes_per_layer": f"{SIMULATOR}: (attention 2 x 4096 x 4096 + 2 x 4096 x 1024 + "
            "router 8 x 4096 + 2 x 4096 x 14336 for each expert read), in values of 2 B; assumed: each of "
            f"{batch} tokens chooses 2 of 8 uniformly and independently, which makes 8 (1 - 0.75^{batch}) = "
            f"{float(read):.4f} experts on average",
        },
    }


def experts_read(tokens: int) -> Fraction:
    """Expected number of distinct experts if every token chooses 2 of 8 uniformly and independently."""
    return 8 * (1 - Fraction(3, 4) ** tokens)
