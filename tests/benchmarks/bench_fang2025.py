"""Time of every fang2025 policy with both kernels, and of static beside counting the same bits.

    python -m tests.benchmarks.bench_fang2025 [--full] [--variation 0.1] [--kernels numpy,numba]

On a generated trace of 4 layers x 512 + 384 tokens; the study's own simulator takes 2 s (static) to
23 s (page) on such a trace. `--full` takes the published size, 32 layers x 31,299 + 10,239 tokens:
1.7 GB, made once and cached; the study's own simulator needs hours (static) to days there.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from collections.abc import Callable

import numpy as np

from kvbound import workloads
from kvbound.fang2025 import POLICIES, Setting, simulate
from kvbound.trace import Trace, bits
from kvbound.workloads import Fang2025

ITEM = 16_384
RATES = (4900e9, 450e9, 450e9, 500e9)


def seconds(run: Callable[[], object], times: int = 1) -> float:
    """Least wall time of `times` runs."""
    taken = []
    for _ in range(times):
        begin = time.perf_counter()
        run()
        taken.append(time.perf_counter() - begin)
    return min(taken)


def count_words(trace: Trace) -> None:
    """Count the trace's bits and keep nothing: the least that any evaluation does."""
    for layer in range(trace.layers):
        for block in bits.blocks(trace.decode_steps):
            np.bitwise_count(trace.words(layer)[block])


def compare_policies(setting: Setting, trace: Trace, kernels: list[str]) -> None:
    """Print one line per policy: seconds with each kernel, and the decode time found."""
    head = trace.head(min(trace.decode_steps, 3))
    print(f"{'policy':<14}" + "".join(f"{kernel:>12}" for kernel in kernels) + f"{'decode time':>16}")
    for policy in POLICIES:
        print(f"{policy:<14}", end="", flush=True)
        for kernel in kernels:
            simulate(setting, head, policy, kernel=kernel)  # compiles
            begin = time.perf_counter()
            run = simulate(setting, trace, policy, kernel=kernel)
            print(f"{time.perf_counter() - begin:10.3f} s", end="", flush=True)
        print(f"{run.total_s:14.6f} s")


def compare_counting(setting: Setting, trace: Trace) -> None:
    """Print how long static takes beside counting the same bits."""
    counting, static = (
        seconds(job, 5) for job in (lambda: count_words(trace), lambda: simulate(setting, trace, "static"))
    )
    size = sum(rows.nbytes for rows in trace.rows) / 1e9
    print(f"{size:.2f} GB of bits counted in {counting:.4f} s, static {static / counting:.2f} times that")


def full_size(variation: float) -> tuple[Setting, Trace]:
    """Make or open a trace of the published size."""
    setting = Setting(ITEM, (162_889_728.0,) * 32, 16e9, 23 * 2**30, *RATES)
    return setting, workloads.make(Fang2025(32, 31_299, 10_239, variation=variation))


def small(variation: float) -> tuple[Setting, Trace]:
    """Make a trace of 4 x 512 + 384 tokens; 40 % of all KV fits, weights read are 0.68 x KV read."""
    trace = workloads.make(Fang2025(4, 512, 384, variation=variation))
    weights = 0.68 * float(trace.counts().mean()) * ITEM
    return Setting(ITEM, (weights,) * 4, 0, int(0.4 * 4 * trace.tokens) * ITEM, *RATES), trace


def noise() -> tuple[Setting, Trace]:
    """One layer of the published size, random bits: static counts whatever they say."""
    rng = np.random.default_rng(0)
    rows = rng.integers(256, size=(10_239, bits.row_bytes(31_299 + 10_239)), dtype=np.uint8)
    return Setting(ITEM, (0.0,), 0, 16_000 * ITEM, *RATES), Trace(31_299, (rows,))


def main() -> None:
    """Parse the options and run."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--full", action="store_true")
    options.add_argument("--variation", type=float, default=0.1)
    options.add_argument("--kernels", default="numpy,numba")
    chosen = options.parse_args()
    setting, trace = (full_size if chosen.full else small)(chosen.variation)
    sizes = f"{trace.layers} layers x {trace.prefill_tokens:,} + {trace.decode_steps:,} tokens"
    print(f"{sizes}, variation {chosen.variation:g}, {os.cpu_count()} cores of which one is used")
    compare_policies(setting, trace, chosen.kernels.split(","))
    compare_counting(*((setting, trace) if chosen.full else noise()))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"peak memory {peak / 1e9:.2f} GB, mapped traces included")


if __name__ == "__main__":
    main()
