"""What further sweeps of best responses are worth: seconds, also of the repair, and the gap to the bound.

    python -m tests.benchmarks.bench_sweeps [CELL [DIVISOR [SWEEPS ...]]]

A cell of the published study as `kvbound reproduce fang2025` names it (block-16), at full size but with its
layers divided by DIVISOR (8); the bound is tuned for 15 s. The trace, made once and cached, is not timed.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace

from kvbound.solvers.incumbent import evaluate_placement
from kvbound.solvers.lagrangian.bound import maximize_dual
from kvbound.solvers.pricing.best_response import SWEEPS, SWEEPS_OF_BLOCKS, best_responses
from kvbound.studies import fang2025


def main(name: str = "block-16", divisor: str = "8", *sweeps: str) -> None:
    """Print a line for every number of sweeps."""
    cell = next(cell for cell in fang2025.STUDY.cells() if cell.name == name)
    scale = replace(fang2025.SCALES["full"], name=f"layers / {divisor}", layers=int(divisor))
    case = cell.instance(scale).with_rules(accounting="physical")
    case.read_counts()
    ascent = maximize_dual(case, time_limit=15.0)
    assert ascent.multipliers is not None
    for number in map(int, sweeps or (1, SWEEPS_OF_BLOCKS, SWEEPS)):
        begin = time.perf_counter()
        found = best_responses(case, ascent.multipliers, sweeps=number, threads=2)
        seconds, begin = time.perf_counter() - begin, time.perf_counter()
        schedule = found.schedule()
        repair = time.perf_counter() - begin
        assert schedule is not None
        gap = 1 - ascent.certificate.bound_s / evaluate_placement(case, schedule)[0].time_s
        took = f"{seconds:.0f} s, repair {repair:.0f} s"
        print(f"{name}, {case.layers} layers, {number} sweeps: {took}, gap {gap:.3%}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
