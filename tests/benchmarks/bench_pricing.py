"""Balanced schedules: nanoseconds per read, growth over sizes, gap to the certified bound.

    python -m tests.benchmarks.bench_pricing [SECONDS]

The study's high variation at 450 GB/s, scaled down, twice the tokens or twice the steps from line to line;
the exponents are fitted over each four lines. Beside the schedule stand `belady`'s time and, tuned for
SECONDS (10), the certified bound, both over the schedule's.
"""

from __future__ import annotations

import sys
import time

import numpy as np

import kvbound as kv
from kvbound.instance import Instance
from kvbound.progress import silent
from kvbound.slotcost import SlotCost
from kvbound.solvers import _balance as balance

ITEM = 16384
WEIGHTS, ROOM, PROMPT = 162_889_728, 16_577, 31_346
"""Bytes read per slot, tokens per layer in tier 0, and prompt tokens of the full size."""


def instance(tokens: int, steps: int) -> Instance:
    """Return two layers of the study's setting with so many prompt tokens."""
    reads = {
        "kind": "fang2025", "layers": 2, "prefill_tokens": tokens, "decode_steps": steps, "variation": 0.9,
        "count_rule": "round(n-1)", "sparsity": 0.6, "seed": 0,
    }  # fmt: skip
    llm = {
        "name": "bench", "layers": 2, "kv_bytes_per_token_layer": ITEM, "weight_bytes": 0,
        "weight_read_bytes_per_layer": WEIGHTS * tokens // PROMPT,
    }  # fmt: skip
    room = 2 * (ROOM * tokens // PROMPT) * ITEM
    return kv.make_instance("bench", memory="gh200-paper", llm=llm, trace={"synthetic": reads}, capacity=room)


def measure(case: Instance, limit: float) -> float:
    """Print one line; return the seconds of one pass."""
    _ = case.trace
    begin = time.perf_counter()
    plays = list(balance.plays(case, silent))
    seconds = (time.perf_counter() - begin) / len(plays)
    cost, reads = SlotCost.of(case), int(case.read_counts().sum())
    found = min(float(cost.times(play.loads(case).q).sum()) for play in plays)
    belady = kv.simulate(case, "belady").time_s or np.nan
    bound = kv.solve(case, "dual", time_limit=limit).bound.time_s or np.nan
    print(
        f"{case.prefill_tokens:6,} + {case.decode_steps:5,}  {reads:12,}  {seconds:7.3f}  "
        f"{1e9 * seconds / reads:7.1f}  {belady / found:8.4f}  {bound / found:8.4f}"
    )
    return seconds


def main(limit: float = 10.0) -> None:
    """Print both series."""
    list(balance.plays(instance(64, 64), silent))  # compiled by now
    print("tokens + steps         reads   s/pass  ns/read  belady/x   bound/x")
    for sizes in ([(512 << n, 256) for n in range(4)], [(1024, 128 << n) for n in range(4)]):
        seconds = [measure(instance(*size), limit) for size in sizes]
        slope = np.polyfit(np.arange(len(seconds)), np.log2(seconds), 1)[0]
        print(f"{'exponent':>20}  {slope:.2f}")


if __name__ == "__main__":
    main(*map(float, sys.argv[1:2]))
