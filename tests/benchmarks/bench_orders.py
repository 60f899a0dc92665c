"""What the study's rules make of the order in which a step's reads are listed, and of another trace.

    python -m tests.benchmarks.bench_orders [DIVISOR]

Each rule's decode time over `best` for the cells `paper` and `high` of `kvbound reproduce fang2025`, two
layers, tokens divided by DIVISOR (16), two seeds, and the same sets of reads listed upwards, as kvbound's
generator has them, downwards, and at random. The study does not say in which order its own lists are.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from kvbound.fang2025 import Setting, simulate
from kvbound.studies import Scale, fang2025
from kvbound.trace import Trace

RULES: dict[str, dict[str, Any]] = {
    "static": {}, "reactive": {}, "page": {}, "lookahead-one": {}, "sa-guided": {"window": 5, "topk": 0.5},
}  # fmt: skip
Ids = np.ndarray[tuple[int], np.dtype[np.int64]]


def relisted(trace: Trace, order: Callable[[Ids], Ids]) -> Trace:
    """Return the same sets in another order."""
    slots = range(trace.decode_steps)
    lists = [[order(trace.reads(step, layer)) for layer in range(trace.layers)] for step in slots]
    return Trace.from_lists(trace.prefill_tokens, lists)


def main(divisor: int = 16) -> None:
    """Print a line for every cell, seed and order."""
    rng = np.random.default_rng(0)
    orders: dict[str, Callable[[Ids], Ids]] = {
        "upwards": lambda ids: ids,
        "downwards": lambda ids: ids[::-1],
        "at random": rng.permutation,
    }
    print(f"{'cell, seed, order':<22}" + "".join(f"{rule:>15}" for rule in RULES))
    for name in ("paper", "high"):
        cell = next(each for each in fang2025.STUDY.cells() if each.name == name)
        for seed in (0, 1):
            case = cell.instance(Scale("small", divisor, 16, 0.0), seed)
            setting, trace = Setting.from_instance(case), case.trace
            for what, order in orders.items():
                listed = relisted(trace, order)
                best = simulate(setting, listed, "best").total_s
                times = [simulate(setting, listed, rule, **given).total_s for rule, given in RULES.items()]
                ratios = "".join(f"{time / best:15.4f}" for time in times)
                print(f"{name:<6}{seed:>3} {what:<12}{ratios}", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
