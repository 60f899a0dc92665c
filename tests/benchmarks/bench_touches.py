"""Bounds where slots wait for late tiers: with shares of waits, and with prices of counts alone.

    python -m tests.benchmarks.bench_touches [--seconds 60]

Both bounds and the schedule that they are compared with have as many seconds.
"""

from __future__ import annotations

import argparse
import time

import kvbound as kv
from kvbound.certificate import Certificate
from kvbound.instance import Instance
from kvbound.solvers.lagrangian import bound
from kvbound.solvers.lagrangian.bound import maximize_dual
from tests.latency_cases import four_tiers, waiting


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    seconds = parser.parse_args().seconds
    cases = {
        "four tiers, exclusive, prefetch": four_tiers("exclusive", "prefetch"),
        "four tiers, inclusive, on-read": four_tiers("inclusive", "on-read"),
        "small items, exclusive, prefetch": waiting("exclusive", "prefetch"),
        "small items, inclusive, on-read": waiting("inclusive", "on-read"),
    }
    stages = bound._stages
    for name, instance in cases.items():
        schedule = kv.solve(instance, "anneal", time_limit=seconds).time_s
        assert schedule is not None
        print(f"{name}: schedule {schedule * 1e3:.5g} ms", flush=True)
        for sharing in (False, True):
            bound._stages = stages if sharing else lambda *_: [False]
            found = maximize_dual(instance, time_limit=seconds).certificate
            each = (_timed(instance, 60, found) - _timed(instance, 10, found)) / 50
            gap = 1 - found.bound_s / schedule
            what = "with shares" if sharing else "without"
            print(f"  {what}: {found.bound_s * 1e3:.5g} ms, gap {gap:.1%}, {each * 1e3:.3g} ms an iteration")


def _timed(instance: Instance, iterations: int, start: Certificate) -> float:
    begin = time.perf_counter()
    maximize_dual(instance, iterations=iterations, resume=start)
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
