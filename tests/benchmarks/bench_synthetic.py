"""How fast the full-size trace of fang2025 is made, opened, counted and measured.

    python tests/benchmarks/bench_synthetic.py [--layers 32] [--variation 0.1] [--workers 2]

Uses a cache of its own, which is removed at the end (1.7 GB for 32 layers).
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from kvbound import workloads
from kvbound.trace import Trace, bits, read_trace, write_trace
from kvbound.trace.statistics import trace_info
from kvbound.workloads import Fang2025

Answer = TypeVar("Answer")


def timed(what: str, run: Callable[[], Answer]) -> Answer:
    """Run and print the seconds and the most memory so far."""
    begin = time.perf_counter()
    answer = run()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"{what:<34}{time.perf_counter() - begin:9.2f} s   peak {peak / 1e9:5.2f} GB", flush=True)
    return answer


def count_words(trace: Trace) -> int:
    """Count the bits, the measure for everything that streams a trace."""
    total = 0
    for layer in range(trace.layers):
        for block in bits.blocks(trace.decode_steps):
            total += int(np.bitwise_count(trace.words(layer)[block]).sum(dtype=np.int64))
    return total


def measure(spec: Fang2025, workers: int, copy: str) -> None:
    """Make the trace and use it in every way."""
    trace = timed("make", lambda: workloads.make(spec, workers=workers))
    timed("open again from the cache", lambda: workloads.make(spec))
    timed("count bits", lambda: count_words(trace))
    timed("counts per slot", trace.counts)
    timed("trace info", lambda: trace_info(trace))
    timed("write a trace folder", lambda: write_trace(trace, copy))


def main() -> None:
    """Parse the options and run."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--layers", type=int, default=32)
    options.add_argument("--variation", type=float, default=0.1)
    options.add_argument("--workers", type=int, default=2)
    chosen = options.parse_args()
    spec = Fang2025(chosen.layers, 31_299, 10_239, variation=chosen.variation)
    shape = f"{spec.layers} layers x {spec.decode_steps} steps x {spec.tokens} tokens"
    print(f"{shape}, {spec.packed_bytes / 1e9:.2f} GB")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["KVBOUND_CACHE"] = folder
        measure(spec, chosen.workers, f"{folder}/copy.trace")
        timed("open and verify the folder", lambda: read_trace(f"{folder}/copy.trace"))


if __name__ == "__main__":
    main()
