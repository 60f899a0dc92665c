"""Annealing where slots wait for a late tier: with the ramp of latencies, and with the model's waits alone.

    python -m tests.benchmarks.bench_latency [--work 40]

Both make the same number of moves from the same start. The instances are small ones whose last tier makes a
slot wait as long as hundreds of reads take, and one of the library, where it waits less than a slot takes.
"""

from __future__ import annotations

import argparse
import time

import kvbound as kv
from kvbound.solvers.annealing import ramp
from tests.latency_cases import waiting


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--work", type=int, default=40, help="moves per interval")
    work = parser.parse_args().work
    cases = {
        "waiting, exclusive, prefetch": waiting("exclusive", "prefetch"),
        "waiting, inclusive, on-read": waiting("inclusive", "on-read"),
        "b8-8b-h100-cxl-p64-exclusive-prefetch": kv.read_instance("b8-8b-h100-cxl-p64-exclusive-prefetch"),
    }
    widest = ramp.WIDEST
    for name, instance in cases.items():
        found = []
        for width in (1.0, widest):
            ramp.WIDEST = width
            begin = time.perf_counter()
            result = kv.solve(instance, "anneal", work=work)
            assert result.time_s is not None
            found.append(result.time_s)
            taken = time.perf_counter() - begin
            print(f"{name}: {result.time_s * 1e3:.4g} ms, ramp of {width:g}, {taken:.1f} s")
        print(f"  {found[1] / found[0]:.3f} x the time without the ramp")


if __name__ == "__main__":
    main()
