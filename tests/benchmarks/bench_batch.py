"""A batch at full size: a schedule, a certified bound, and what they cost.

    python -m tests.benchmarks.bench_batch [SECONDS] > batch.csv

Sixteen sequences of 3,072 + 1,024 tokens through 32 layers, eight from the start and one more every 128
steps: an 8B model on an H100 whose HBM has room for 5 % of the largest live KV. The bound is tuned for
SECONDS, by default 120. The trace, made once and cached, is not timed.
"""

from __future__ import annotations

import csv
import sys
import time

import kvbound as kv
from kvbound.cli.console import Bar
from kvbound.instance import Instance
from kvbound.instance_io import make_instance
from kvbound.result import peak_rss_bytes

ARRIVALS = [*[0] * 8, *range(128, 1025 + 127, 128)]
COLUMNS = "tokens", "cells", "ideal_s", "bound_s", "schedule_s", "gap", "seconds", "peak_gb", "tuned_for_s"


def case() -> Instance:
    """Return the instance."""
    workload = {
        "kind": "recorded-like", "layers": 32, "prefill_tokens": 3072, "decode_steps": 1024,
        "sparsity": "85%", "batch": len(ARRIVALS), "arrivals": ARRIVALS,
    }  # fmt: skip
    return make_instance(
        "batch", memory="h100-pcie5", llm="llama-3.1-8b", trace={"synthetic": workload}, capacity="5%"
    )


def main(limit: float) -> None:
    """Solve it, and print its line."""
    instance = case()
    cells = instance.slots * instance.tokens
    _ = instance.trace
    begin = time.perf_counter()
    with Bar() as bar:
        result = kv.solve(instance, "pricing", time_limit=limit, progress=bar)
    seconds = time.perf_counter() - begin
    assert result.bound.status == "certified"
    times = kv.ideal(instance), result.bound.time_s, result.time_s
    rounded = f"{result.gap:.5f}", f"{seconds:.0f}", f"{peak_rss_bytes() / 1e9:.1f}", f"{limit:g}"
    out = csv.writer(sys.stdout)
    out.writerows([COLUMNS, [instance.tokens, cells, *times, *rounded]])


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 120.0)
