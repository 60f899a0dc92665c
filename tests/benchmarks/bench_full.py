"""The study's cells at full size: a schedule, a certified bound, and what they cost.

    python -m tests.benchmarks.bench_full SECONDS CELL... > full.csv

Cells as `kvbound reproduce fang2025` names them (high, hbm-18, hbm-25-link-64-prefetch); the bound is tuned
for SECONDS. A line of CSV for each as soon as it is done. The trace, made once and cached, is not timed.
Ten minutes and 8 GB a cell; without cells nothing is run.
"""

from __future__ import annotations

import csv
import resource
import sys
import time

import kvbound as kv
from kvbound.progress import Progress
from kvbound.studies import fang2025


def main(limit: float, names: list[str]) -> None:
    """Print a line for every cell."""
    cells = {cell.name: cell for cell in fang2025.cells()}
    out = csv.writer(sys.stdout)
    out.writerow(
        ["cell", "reads", "ideal_s", "bound_s", "schedule_s", "gap", "hit_rate", "seconds", "peak_gb"]
    )
    for name in names:
        case = cells[name].instance(fang2025.SCALES["full"]).with_rules(accounting="physical")
        reads = int(case.read_counts().sum())
        begin = time.perf_counter()
        result = kv.solve(case, "pricing", time_limit=limit, progress=told())
        seconds = time.perf_counter() - begin
        ideal = kv.solve(case, "best").bound.time_s
        assert result.measures is not None
        assert result.bound.status == "certified"
        hits = next(iter(result.measures.hit_rate.values()))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
        rounded = f"{result.gap:.5f}", f"{hits:.4f}", f"{seconds:.0f}", f"{peak:.1f}"
        out.writerow([name, reads, ideal, result.bound.time_s, result.time_s, *rounded])
        sys.stdout.flush()


def told() -> Progress:
    """Say on standard error when a stage of the work is reached, and every minute how far it is."""
    last = 0.0, ""

    def report(done: float, total: float, note: str = "") -> None:
        nonlocal last
        stage = " ".join(note.split()[:2])
        if stage != last[1] or time.perf_counter() > last[0] + 60:
            last = time.perf_counter(), stage
            print(f"{time.strftime('%H:%M:%S')} {done / total:4.0%} {note}", file=sys.stderr)

    return report


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 0.0, sys.argv[2:])
