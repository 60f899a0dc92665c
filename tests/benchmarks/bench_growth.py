"""How cost grows with items and with steps: seconds and memory of everything that is done at full size.

    python -m tests.benchmarks.bench_growth [PROMPT STEPS]

Two layers of the study's setting at high variation, four sizes a factor of 2 apart, first in prompt tokens
up to PROMPT (32768) at a quarter of STEPS, then in steps up to STEPS (4096) beside PROMPT. Each size runs in
a process of its own, on one thread. Seconds: one evaluation of the dual function on all items, the check of
its certificate, one sweep of answers to prices, balanced eviction, one evaluation of the study's annealing,
and the checker's replay of a schedule. Memory: most at any time, without the mapped trace, of the bound with
its check and of the schedule from prices. Exponents are fitted over four sizes; kernels are compiled before.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from threading import Event, Thread

import numpy as np

from kvbound.bitsets.two_tier import TwoTierSchedule
from kvbound.checker import check
from kvbound.instance import Instance
from kvbound.kernels import pick
from kvbound.progress import silent
from kvbound.simulation import simulate
from kvbound.solvers.eviction import balanced
from kvbound.solvers.lagrangian.bound import maximize_dual
from kvbound.solvers.lagrangian.evaluation import evaluate_certificate
from kvbound.solvers.pricing.best_response import SWEEPS, best_responses
from tests.benchmarks.bench_pricing import instance

COLUMNS = ("dual", "check", "sweep", "balance", "sa-guided", "replay", "bound MB", "prices MB")
PAGE = 4096 / 1e6


@contextmanager
def watched(peak: list[float]) -> Iterator[None]:
    """Append the most memory, in MB, that the block has beyond what it began with and what is mapped."""
    over, most = Event(), 0.0

    def own() -> float:
        _, resident, shared, *_ = map(int, Path("/proc/self/statm").read_text().split())
        return PAGE * (resident - shared)

    def watch() -> None:
        nonlocal most
        while not over.wait(0.01):
            most = max(most, own())

    begin, thread = own(), Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        peak.append(most - begin)


def seconds(run: Callable[[], object]) -> float:
    """Return the least wall time of three runs."""
    taken = []
    for _ in range(3):
        begin = time.perf_counter()
        run()
        taken.append(time.perf_counter() - begin)
    return min(taken)


def measure(prompt: int, steps: int) -> list[float]:
    """Return what the columns say of one size."""
    run(instance(64, 16))  # compiles
    return run(instance(prompt, steps))


def run(case: Instance) -> list[float]:
    """Do everything once or a few times."""
    kernel, peak, study = pick(), list[float](), case.with_rules(accounting="fang2025")
    expanded, rows = case.expanded(), case.trace.rows
    with watched(peak):
        tuned = maximize_dual(case, iterations=20, threads=1)
        check(expanded, rows, tuned.certificate.arrays())
    assert tuned.multipliers is not None
    begin = time.perf_counter()
    with watched(peak):
        answer = best_responses(case, tuned.multipliers, kernel=kernel).schedule()
    sweep = (time.perf_counter() - begin) / (1 + SWEEPS)
    assert isinstance(answer, TwoTierSchedule)
    schedule = answer.residency.arrays(instance_sha256=case.sha256, tokens=case.tokens)
    return [
        seconds(lambda: evaluate_certificate(case, tuned.certificate, kernel)),
        seconds(lambda: check(expanded, rows, tuned.certificate.arrays())),
        sweep,
        seconds(lambda: next(balanced.schedules(case, silent))),
        seconds(lambda: simulate(study, "sa-guided", kernel=kernel)),
        seconds(lambda: check(expanded, rows, schedule)),
        *peak,
    ]


def main(prompt: int = 32_768, steps: int = 4096) -> None:
    """Print both series."""
    print(f"{'tokens + steps':>16}" + "".join(f"{name:>11}" for name in COLUMNS))
    items = [(prompt >> n, steps >> 2) for n in (3, 2, 1, 0)]
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        for sizes in (items, [(prompt, steps >> n) for n in (3, 2, 1, 0)]):
            found = []
            for size in sizes:
                found.append(pool.submit(measure, *size).result())
                line = "".join(f"{value:11.3f}" for value in found[-1][:-2])
                print(
                    f"{size[0]:7,} + {size[1]:6,}{line}{found[-1][-2]:11.0f}{found[-1][-1]:11.0f}", flush=True
                )
            slopes = np.polyfit(np.arange(len(found)), np.log2(np.maximum(found, 1e-9)), 1)[0]
            print(f"{'exponents':>16}" + "".join(f"{slope:11.2f}" for slope in slopes), flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
