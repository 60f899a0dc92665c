"""The study's cells at full size: a schedule, a certified bound, and what they cost.

    python -m tests.benchmarks.bench_full SECONDS CELL... > full.csv

Cells as `kvbound reproduce fang2025` names them (high, hbm-18, hbm-25-link-64-prefetch); the bound is tuned
for SECONDS. A line of CSV for each as soon as it is done. The trace, made once and cached, is not timed.
Four to fourteen minutes beside SECONDS and 7 GB a cell; without cells nothing is run.
"""

from __future__ import annotations

import csv
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import kvbound as kv
from kvbound.cli.console import Bar
from kvbound.cost.ideal import ideal
from kvbound.result import peak_rss_bytes
from kvbound.studies import fang2025

COLUMNS = [
    "cell",
    "reads",
    "ideal_s",
    "bound_s",
    "schedule_s",
    "gap",
    "hit_rate",
    "seconds",
    "peak_gb",
    "tuned_for_s",
]


def row(name: str, limit: float) -> list[object]:
    """Solve a cell, and return its line."""
    cell = next(cell for cell in fang2025.STUDY.cells() if cell.name == name)
    case = cell.instance(fang2025.SCALES["full"]).with_rules(accounting="physical")
    reads = int(case.read_counts().sum())
    begin = time.perf_counter()
    with Bar() as bar:
        result = kv.solve(case, "pricing", time_limit=limit, progress=bar)
    seconds = time.perf_counter() - begin
    assert result.measures is not None
    assert result.bound.status == "certified"
    hits = next(iter(result.measures.hit_rate.values()))
    exact = ideal(case), result.bound.time_s, result.time_s
    rounded = f"{result.gap:.5f}", f"{hits:.4f}", f"{seconds:.0f}", f"{peak_rss_bytes() / 1e9:.1f}"
    return [name, reads, *exact, *rounded, f"{limit:g}"]


def main(limit: float, names: list[str]) -> None:
    """Print a line for every cell, each from a process of its own: memory is counted by process."""
    out = csv.writer(sys.stdout)
    out.writerow(COLUMNS)
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        for line in pool.map(row, names, [limit] * len(names)):
            out.writerow(line)
            sys.stdout.flush()


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 0.0, sys.argv[2:])
