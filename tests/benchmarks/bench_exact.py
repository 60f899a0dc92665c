"""Seconds to a proof: ``python -m tests.benchmarks.bench_exact [SIZES] [SEEDS]``.

Random-swap traces, 40 % reads of which up to 20 % change per step, weights 0.68 x the mean KV bytes read
per slot; links of 450 and 64 GB/s; capacities of 30 % and 53 % of the KV; on-read, inclusive, free; relative
gap 1e-4, 2 threads. Sizes a to d, by default a to c and seed 0; a line says the columns, the relaxation with
count cuts and the best schedule over the ideal, the gap and the seconds.
"""

from __future__ import annotations

import sys
import time

import kvbound as kv
from kvbound.instance import Instance
from kvbound.models import formulation

SIZES = {"a": (2, 48, 24), "b": (4, 64, 32), "c": (1, 200, 30), "d": (4, 200, 60)}
LIMITS = {"a": 10, "b": 10, "c": 10, "d": 120}
ITEM = 16384


def make(size: str, seed: int, link: int, capacity: str) -> Instance:
    """Return one instance."""
    layers, prefill, steps = SIZES[size]
    spec = {
        "kind": "random-swap", "layers": layers, "prefill_tokens": prefill, "decode_steps": steps,
        "sparsity": 0.6, "variation": 0.2, "seed": seed,
    }  # fmt: skip

    def with_weights(weights: float) -> Instance:
        llm = {
            "name": "bench", "layers": layers, "kv_bytes_per_token_layer": ITEM,
            "weight_bytes": 0, "weight_read_bytes_per_layer": weights,
        }  # fmt: skip
        return kv.make_instance(
            f"{size}-{seed}-{link}-{capacity}",
            memory="gh200-144",
            llm=llm,
            trace={"synthetic": spec},
            overrides={"memory.resources.c2c_down": f"{link}GB/s"},
            capacity=capacity,
        )

    return with_weights(0.68 * ITEM * float(with_weights(0).read_counts().mean()))


def main(sizes: str = "abc", seeds: str = "0") -> None:
    """Print a line per instance."""
    print("instance         columns   relax / ideal  best / ideal      gap  seconds  of")
    for size in sizes:
        for seed in map(int, seeds.split(",")):
            for link in (450, 64):
                for capacity in ("30%", "53%"):
                    instance = make(size, seed, link, capacity)
                    ideal = kv.ideal(instance)
                    relaxed = kv.solve(instance, "relax").bound.time_s or ideal
                    columns = formulation(instance).matrix.columns
                    begin = time.perf_counter()
                    result = kv.solve(instance, "exact", time_limit=LIMITS[size], proof=False)
                    seconds = time.perf_counter() - begin
                    assert result.time_s is not None
                    ratios = f"{relaxed / ideal:14.5f} {result.time_s / ideal:13.5f} {result.gap:10.1e}"
                    limit = LIMITS[size]
                    print(f"{instance.name:15} {columns:8,} {ratios} {seconds:7.1f} {limit:4}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
