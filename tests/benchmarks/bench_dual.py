"""The certified bound: nanoseconds per cell and kernel, growth over sizes, time of the check.

    python -m tests.benchmarks.bench_dual [--full] [--kernels numpy,numba] [--threads 1]

A cell is one item in one step. Beside each evaluation of the dual function stands the time of merely
counting the same bits. `--full` takes the published size, 32 layers x 31,346 + 10,239 tokens: 1.7 GB,
made once and cached, and about 1.2e10 cells.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from collections.abc import Callable

import numpy as np

from kvbound.certificate import Certificate
from kvbound.checker import check
from kvbound.checker.inputs import read_case
from kvbound.checker.multipliers import read_multipliers
from kvbound.checker.paths import sum_of_paths
from kvbound.cost.ideal import ideal
from kvbound.instance import Instance
from kvbound.instance_io import make_instance
from kvbound.kernels import Kernel, pick
from kvbound.rules import Rules
from kvbound.solvers.lagrangian.bound import solve_dual
from kvbound.solvers.lagrangian.evaluation import evaluate_certificate
from kvbound.trace import bits
from kvbound.workloads import Fang2025


def seconds(run: Callable[[], object]) -> float:
    """Wall time of one run."""
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def instance(layers: int, prefill: int, steps: int, copies: str = "inclusive") -> Instance:
    """The study's setting at high variation, HBM for 60 % of the prompt."""
    reads = Fang2025(layers=layers, prefill_tokens=prefill, decode_steps=steps, variation=0.9)
    room = int(0.6 * layers * prefill) * 16384
    llm = {
        "name": "bench", "layers": layers, "kv_bytes_per_token_layer": 16384, "weight_bytes": 0,
        "weight_read_bytes_per_layer": 4096 * prefill,
    }  # fmt: skip
    return make_instance(
        "bench",
        memory="gh200-paper",
        llm=llm,
        trace=reads,
        capacity=room,
        rules=Rules().to_mapping() | {"copies": copies},
    )


def count_words(case: Instance) -> None:
    """Count the trace's bits and keep nothing: the least that any evaluation does."""
    for layer in range(case.layers):
        for block in bits.blocks(case.decode_steps):
            np.bitwise_count(case.trace.words(layer)[block])


def evaluations(case: Instance, certificate: Certificate, kernels: list[Kernel], threads: int) -> None:
    """Print what one evaluation of the dual function on all items takes."""
    cells = case.layers * case.decode_steps * (case.prefill_tokens + case.decode_steps / 2)
    plain = seconds(lambda: count_words(case))
    print(f"  counting {plain:.3f} s", end="")
    for kernel in kernels:
        small = instance(1, 64, 4, case.rules.copies)
        evaluate_certificate(small, solve_dual(small)[1], kernel)  # compiles
        taken = seconds(lambda k=kernel: evaluate_certificate(case, certificate, k, threads))  # type: ignore[misc]
        print(f"; {kernel} {taken:.3f} s, {1e9 * taken / cells:.2f} ns per cell", end="")
    print()


def one(case: Instance, iterations: int | None, kernels: list[Kernel], threads: int, verify: bool) -> None:
    """Bound one instance and print what it took."""
    size = f"{case.layers} x ({case.prefill_tokens} + {case.decode_steps}) tokens, {case.rules.copies}"
    begin = time.perf_counter()
    bound, certificate = solve_dual(case, iterations=iterations, threads=threads)
    taken = time.perf_counter() - begin
    assert bound.time_s is not None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{size}: {bound.time_s / ideal(case):.5f} x ideal in {taken:.1f} s, peak {peak:.2f} GiB")
    evaluations(case, certificate, kernels, threads)
    if verify:
        taken = seconds(lambda: check(case.expanded(), case.trace.rows, certificate.arrays()))
        print(f"  checked in {taken:.2f} s; {paths_ratio(case, certificate):.2f} x the time of general paths")


def paths_ratio(case: Instance, certificate: Certificate) -> float:
    """Return the time of the checker's paths between two tiers over that of its paths in general."""
    read = read_case(case.expanded(), case.trace.rows)
    given, rows = read_multipliers(read, certificate.arrays()), case.trace.rows[0]
    fast = seconds(lambda: sum_of_paths(read, given, 0, rows, None))
    return fast / seconds(lambda: sum_of_paths(read, given, 0, rows, None, {}))


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the published size as well")
    parser.add_argument("--kernels", default=f"numpy,{pick()}" if pick() != "numpy" else "numpy")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    kernels: list[Kernel] = [pick(name) for name in options.kernels.split(",")]
    print(f"{os.cpu_count()} processors, {options.threads} threads")
    for tokens in (1024, 2048, 4096, 8192):
        one(instance(4, tokens, 256), 50, kernels, options.threads, True)
    for steps in (512, 1024, 2048):
        one(instance(4, 1024, steps), 50, kernels, options.threads, True)
    one(instance(4, 2048, 256, "exclusive"), 50, kernels, options.threads, True)  # the general paths
    if options.full:
        one(instance(32, 31_346, 10_239), None, kernels, options.threads, True)


if __name__ == "__main__":
    main()
