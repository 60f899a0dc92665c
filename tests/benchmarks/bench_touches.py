"""Bounds and schedules where slots wait for late tiers, with what is made for that and without it.

    python -m tests.benchmarks.bench_touches [--seconds 60]

Bounds of prices of counts alone, with shares of waits, and with pairs of facets as well; schedules of
`pricing` with best responses that gather reads in few slots, and without. Each has as many seconds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

from kvbound.instance import Instance
from kvbound.solvers.lagrangian import bound
from kvbound.solvers.lagrangian.bound import maximize_dual
from kvbound.solvers.lagrangian.slots.facet_pairs import FacetPairs
from kvbound.solvers.pricing import gathered
from kvbound.solvers.pricing.solve import solve_pricing
from tests.latency_cases import four_tiers, seldom_waiting, waiting

CASES: dict[str, Callable[[], Instance]] = {
    "four tiers, exclusive, prefetch": lambda: four_tiers("exclusive", "prefetch"),
    "four tiers, inclusive, on-read": lambda: four_tiers("inclusive", "on-read"),
    "small items, exclusive, prefetch": lambda: waiting("exclusive", "prefetch"),
    "small items, inclusive, on-read": lambda: waiting("inclusive", "on-read"),
    "small items, four tiers": lambda: seldom_waiting(400, 100, 0.1, layers=4),
}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    seconds = parser.parse_args().seconds
    for name, make in CASES.items():
        instance = make()
        print(f"{name}:", flush=True)
        found = solve_pricing(instance, time_limit=seconds, gap=0.0).value
        assert found is not None
        print(f"  schedule: {found * 1e3:.5g} ms", flush=True)
        if gathered.gathers(instance):
            with mock.patch.object(gathered, "gathers", return_value=False):
                spread = solve_pricing(instance, time_limit=seconds, gap=0.0).value
            assert spread is not None
            print(f"  schedule, reads not gathered: {spread * 1e3:.5g} ms", flush=True)
        for what, only in (("counts", _counts_alone()), ("shares", _no_pairs()), ("pairs", nullcontext())):
            with only:
                proved = maximize_dual(instance, time_limit=seconds).certificate.bound_s
            print(f"  bound, {what}: {proved * 1e3:.5g} ms, gap {1 - proved / found:.1%}", flush=True)


@contextmanager
def _no_pairs() -> Iterator[None]:
    def none(alpha: Any, beta: Any, waits: Any, late: Any, *_: Any) -> FacetPairs:
        return FacetPairs.none(len(late), alpha, beta)

    with mock.patch.object(FacetPairs, "of", none):
        yield


@contextmanager
def _counts_alone() -> Iterator[None]:
    with _no_pairs(), mock.patch.object(bound, "_stages", return_value=[False]):
        yield


if __name__ == "__main__":
    main()
