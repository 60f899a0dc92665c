"""Does any measured time per output token beat the limit of `kvbound limit`?

    python -m tests.silicon

Every row of ``tests/data/silicon`` that can be described is compared: its model and GPU are in the catalog,
and its weights fit the GPUs that it names. The limit is taken low wherever a row leaves a choice:

- weights count with the fewest bits of the row's precision, or 4 if none is recorded, and without scales;
- a mixture of experts reads the experts of one token, and the KV cache counts 8 bits;
- all GPUs, and the memory of their host, read at the same time;
- a batch counts as far as it fits into HBM and as so many requests were sent: the batch that an engine is set
  to is only its largest;
- the context is the mean over the output.
"""

from __future__ import annotations

import csv
import dataclasses
import gzip
import math
import re
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from typing import NamedTuple

from kvbound import catalog
from kvbound.limit import Decoding, decode_limit, sequences_that_fit
from kvbound.llm.model import Llm
from kvbound.memory import Memory
from tests.paths import DATA

FILE = DATA / "silicon" / "silicon_sample.csv.gz"
MODELS = {
    "meta-llama/Llama-3.1-70B": "llama-3.1-70b",
    "meta-llama/Llama-3.1-8B-Instruct": "llama-3.1-8b",
    "nvidia/Llama-3.1-8B-Instruct-FP8": "llama-3.1-8b",
    "Qwen/Qwen3-32B": "qwen3-32b",
    "nvidia/Qwen3-32B-NVFP4": "qwen3-32b",
    "deepseek-ai/DeepSeek-R1": "deepseek-v3",
    "deepseek-ai/DeepSeek-V3": "deepseek-v3",
    "nvidia/DeepSeek-R1-NVFP4": "deepseek-v3",
    "nvidia/DeepSeek-V3.1-NVFP4": "deepseek-v3",
}
"""Names in the catalog; DeepSeek-R1 and V3.1 have the architecture of V3."""
SYSTEMS = {"h100_sxm": "h100-pcie5", "h200_sxm": "h200-pcie5", "b200_sxm": "b200-pcie5", "gb200": "gb200"}
BITS = {"fp8": 8, "fp8_block": 8, "nvfp4": 4, "fp4": 4, "int4_wo": 4, "int4": 4, "bf16": 16}
KV_BITS, CATALOG_BITS = 8, 16
QUEUED_MS = 5000
Row = Mapping[str, str]


class Compared(NamedTuple):
    """A measurement in seconds, and the limit; or why there is none."""

    row: Row
    measured_s: float = math.nan
    limit_s: float = math.nan
    reason: str = ""

    @property
    def ratio(self) -> float:
        """Measured time over the limit."""
        return self.measured_s / self.limit_s

    @property
    def queues(self) -> bool:
        """Whether requests wait for their first token, so that fewer run than were sent."""
        return float(self.row["silicon_ttft_ms"]) > QUEUED_MS


def rows() -> list[Row]:
    """Return all measurements."""
    with gzip.open(FILE, "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def compare(row: Row) -> Compared:
    """Compare one measurement with the limit."""
    model, system = MODELS.get(row["model_path"]), SYSTEMS.get(row["system"])
    bits = BITS[row["gemm_quant_mode"] or row["precision"] or "fp4"]
    if model is None:
        return Compared(row, reason=f"the catalog does not have {row['model_path']}")
    if system is None:
        return Compared(row, reason=f"the catalog does not have {row['system']}")
    context = int(row["isl"]) + (int(row["osl"]) - 1) // 2
    limit = limit_s(model, system, bits, _gpus(row), context, _batch(row))
    if limit is None:
        return Compared(row, reason="the GPUs named do not hold the weights")
    return Compared(row, float(row["silicon_tpot_ms"]) / 1e3, limit)


def _gpus(row: Row) -> int:
    """Return the number of GPUs that decode one batch: the larger of two ways to count them."""
    prefix = "decode_" if row["mode"] == "disagg" else ""

    def size(name: str) -> float:
        return max(float(row[f"{prefix}{name}"] or 1), 1)

    attention = size("tp_size") * size("pp_size") * size("attention_dp_size")
    return int(max(attention, size("moe_tp_size") * size("moe_ep_size")))


def _batch(row: Row) -> int:
    """Return the sequences that each worker is known to decode together: one if requests are not recorded."""
    sent = re.search(r"silicon_concurrency=(\d+)", row["silicon_data_source"])
    workers = row["decode_num_workers"] if row["mode"] == "disagg" else "1"
    if sent is None or not workers:
        return 1
    each = int(sent[1]) // int(float(workers))
    largest = row["decode_batch_size" if row["mode"] == "disagg" else "batch_size"]
    return max(1, min(each, int(float(largest or each))))


@cache
def scaled(model: str, system: str, bits: int, gpus: int) -> tuple[Memory, Llm]:
    """Return so many GPUs as one memory, and the model with fewer bits."""
    memory, llm = catalog.memory(system), catalog.llm(model)
    tiers = tuple(
        dataclasses.replace(tier, capacity=None if tier.capacity is None else gpus * tier.capacity)
        for tier in memory.tiers
    )
    rates = {name: gpus * rate for name, rate in memory.resources.items()}
    small = dataclasses.replace(
        llm,
        kv_bytes_per_token_layer=tuple(size * KV_BITS // CATALOG_BITS for size in llm.kv_sizes),
        weight_bytes=llm.weight_bytes * bits / CATALOG_BITS,
        weight_read_bytes_per_layer=tuple((llm.weight_reads * (bits / CATALOG_BITS)).tolist()),
    )
    return dataclasses.replace(memory, tiers=tiers, resources=rates), small


@cache
def limit_s(model: str, system: str, bits: int, gpus: int, context: int, batch: int) -> float | None:
    """Return the limit of a step in seconds, with the sequences that fit; None if no weights do."""
    one = Decoding(*scaled(model, system, bits, gpus), context)
    fit = sequences_that_fit(one)
    return decode_limit(dataclasses.replace(one, batch=min(batch, fit))).time_s if fit else None


def report(compared: list[Compared]) -> Iterator[str]:
    """Yield lines: ratios by model and GPU, the closest row, and why rows are left out."""
    groups = defaultdict[tuple[str, str], list[float]](list)
    found = [each for each in compared if not each.reason]
    for each in found:
        groups[MODELS[each.row["model_path"]], each.row["system"]].append(each.ratio)
    yield f"{'model':15}{'GPU':10}{'rows':>6}{'least':>9}{'median':>9}  measured time over the limit"
    for (model, system), ratios in sorted(groups.items()):
        yield f"{model:15}{system:10}{len(ratios):6,}{min(ratios):9.3f}{statistics.median(ratios):9.2f}"
    closest = min(found, key=lambda each: each.ratio)
    prompt = min((each for each in found if not each.queues), key=lambda each: each.ratio)
    beaten = sum(each.ratio < 1 for each in found)
    yield (
        f"{len(found):,} rows of {len(compared):,}: {beaten} below the limit. The closest is "
        f"{closest.row['id']}, {closest.ratio:.3f} times the limit; without rows whose requests queue "
        f"{prompt.row['id']}, {prompt.ratio:.3f}."
    )
    for reason, count in Counter(each.reason for each in compared if each.reason).most_common():
        yield f"{count:6,} left out: {reason}"


def main() -> int:
    """Print the comparison; the exit code is 1 if a measurement beats the limit."""
    compared = [compare(row) for row in rows()]
    print(*report(compared), sep="\n")
    return int(any(each.ratio < 1 for each in compared if not each.reason))


if __name__ == "__main__":
    sys.exit(main())
