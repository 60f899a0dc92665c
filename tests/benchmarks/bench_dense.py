"""Full attention over long contexts: seconds and peak memory of the bound, the schedule and their checks.

    python -m tests.benchmarks.bench_dense [--steps 65792] [--prefill 1024] [--seconds 30]

32 layers of llama-3.1-8b, every step reading all past tokens; half of the KV fits into the first tier. One
process for each pair of memory and copies, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from typing import Any

import kvbound as kv
from kvbound.instance_io import make_instance

CASES = (
    ("h100-pcie5", "inclusive", "on-read"),
    ("h100-pcie5", "exclusive", "none"),
    ("gh200-96", "inclusive", "prefetch"),
    ("gh200-96", "exclusive", "on-read"),
    ("four", "exclusive", "on-read"),
)
FOUR = {
    "name": "four",
    "resources": {
        "hbm": 3350e9, "nvlink": 450e9, "peer": 3350e9, "down": 64e9, "up": 64e9, "ddr": 300e9,
        "ssd_read": 14e9, "ssd_write": 10e9,
    },
    "tiers": [
        {"name": "hbm", "capacity": "18GB", "reads": ["hbm"], "writes": ["hbm"]},
        {"name": "peer", "capacity": "2GB", "reads": ["nvlink", "peer"], "writes": ["nvlink", "peer"]},
        {"name": "ddr", "capacity": "4GB", "reads": ["down", "ddr"], "writes": ["up", "ddr"]},
        {"name": "ssd", "capacity": None, "reads": ["ssd_read"], "writes": ["ssd_write"]},
    ],
}  # fmt: skip


def run(case: tuple[str, str, str], prefill: int, steps: int, seconds: float) -> None:
    """Solve one case and print a row."""
    memory, copies, migration = case
    trace: dict[str, Any] = {"kind": "dense", "layers": 32, "prefill_tokens": prefill, "decode_steps": steps}
    begin = time.perf_counter()
    instance = make_instance(
        "dense", memory=FOUR if memory == "four" else memory, llm="llama-3.1-8b", trace={"synthetic": trace},
        rules={"copies": copies, "migration": migration}, capacity=None if memory == "four" else "50%",
    )  # fmt: skip
    result = kv.solve(instance, "pricing", time_limit=seconds)
    wall = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    assert result.time_s is not None
    assert result.bound.time_s is not None
    gap = 100 * (result.time_s / result.bound.time_s - 1)
    name = f"{memory} {copies} {migration}"
    print(
        f"{name:32} {result.time_s:9.1f} s {gap:8.3f} % above {wall:6.0f} s wall {peak:6.2f} GB", flush=True
    )


def main() -> None:
    """Run every case in a process of its own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=65_792)
    parser.add_argument("--prefill", type=int, default=1024)
    parser.add_argument("--seconds", type=float, default=30)
    options = parser.parse_args()
    for case in CASES:
        arguments = case, options.prefill, options.steps, options.seconds
        process = multiprocessing.get_context("spawn").Process(target=run, args=arguments)
        process.start()
        process.join()


if __name__ == "__main__":
    main()
