"""Schedules by balanced eviction and from prices: nanoseconds per read, growth over sizes, gap to the bound.

    python -m tests.benchmarks.bench_pricing [SECONDS]

The study's high variation at 450 GB/s, scaled down, twice the tokens or twice the steps from line to line;
the exponents are fitted over each four lines. `belady`, balanced eviction and the bound, tuned for
SECONDS (10), stand over the schedule from prices.
"""

from __future__ import annotations

import sys
import time

import numpy as np

import kvbound as kv
from kvbound.bitsets.two_tier import TwoTierSchedule
from kvbound.cost.slot import SlotCost
from kvbound.instance import Instance
from kvbound.progress import silent
from kvbound.solvers.eviction import balanced
from kvbound.solvers.lagrangian.bound import maximize_dual
from kvbound.solvers.pricing.best_response import SWEEPS, best_responses

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


def measure(case: Instance, limit: float) -> tuple[float, float]:
    """Print one line; return the seconds of a pass of either kind."""
    _ = case.trace
    cost, reads = SlotCost.of(case), int(case.read_counts().sum())

    def total(schedule: TwoTierSchedule) -> float:
        return float(cost.times(schedule.traffic(case).traffic).sum())

    begin = time.perf_counter()
    found = list(balanced.schedules(case, silent))
    by_eviction = (time.perf_counter() - begin) / len(found)
    tuned = maximize_dual(case, time_limit=limit)
    assert tuned.multipliers is not None
    begin = time.perf_counter()
    schedule = best_responses(case, tuned.multipliers).schedule()
    by_prices = (time.perf_counter() - begin) / (1 + SWEEPS)
    assert isinstance(schedule, TwoTierSchedule)
    priced_s = total(schedule)
    belady = kv.simulate(case, "belady").time_s or np.nan
    passes = "".join(f"{seconds:8.3f}{1e9 * seconds / reads:9.1f}" for seconds in (by_eviction, by_prices))
    ratios = belady, min(map(total, found)), tuned.certificate.bound_s
    others = "".join(f"{other / priced_s:10.4f}" for other in ratios)
    print(f"{case.prefill_tokens:6,} + {case.decode_steps:5,}  {reads:12,}{passes}{others}", flush=True)
    return by_eviction, by_prices


def main(limit: float = 10.0) -> None:
    """Print both series."""
    warm = instance(64, 64)
    list(balanced.schedules(warm, silent))  # compiled by now
    first = maximize_dual(warm, iterations=1).multipliers
    assert first is not None
    best_responses(warm, first)
    print("                               balanced         prices")
    print("tokens + steps         reads  s/pass  ns/read  s/pass  ns/read  belady/x  balanced/x  bound/x")
    for sizes in ([(1024 << n, 512) for n in range(4)], [(2048, 256 << n) for n in range(4)]):
        seconds = np.log2([measure(instance(*size), limit) for size in sizes])
        slopes = np.polyfit(np.arange(len(seconds)), seconds, 1)[0]
        print(f"{'exponents':>28}  {slopes[0]:6.2f}{slopes[1]:17.2f}", flush=True)


if __name__ == "__main__":
    main(*map(float, sys.argv[1:2]))
