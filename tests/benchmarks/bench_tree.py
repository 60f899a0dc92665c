"""What a tree's choices are worth: leaves, seconds and the gap, with them and without.

    python -m tests.benchmarks.bench_tree [SECONDS]

One layer of 40 + 16 tokens over four tiers of which the last two make slots wait for many slots' time. Each
tree takes SECONDS (60) at most and begins with the best schedule that pricing finds in 20 s.
"""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from unittest import mock

import kvbound as kv
from kvbound.solvers.tree import branching
from kvbound.solvers.tree.search import TreeSearch
from tests.latency_cases import seldom_waiting


def _last(search: TreeSearch) -> int:
    return search.instance.tiers - 1


CHANGES: dict[str, AbstractContextManager[Any]] = {
    "as it is": nullcontext(),
    "one round of questions": mock.patch.object(branching, "ROUNDS", 1),
    "slots split by the last tier": mock.patch.object(TreeSearch, "_split", _last),
}


def main(seconds: float = 60.0) -> None:
    """Print a line for every change."""
    instance = seldom_waiting(40, 16, 0.1)
    known = kv.solve(instance, "pricing", time_limit=20.0)
    assert known.schedule is not None
    assert known.measures is not None
    for name, change in CHANGES.items():
        with change:
            begin = time.perf_counter()
            proof = TreeSearch(instance, (known.schedule, known.measures), begin + seconds).run()
            taken = time.perf_counter() - begin
        gap = max(1 - proof.tree.bound_s / proof.known[1].value, 0.0)
        print(f"{name}: {proof.tree.leaves} leaves, {taken:.0f} s, gap {gap:.2g}", flush=True)


if __name__ == "__main__":
    main(*map(float, sys.argv[1:]))
