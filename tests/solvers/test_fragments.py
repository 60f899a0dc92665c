"""Blocks of different sizes that fit in one order, but not in another."""

from __future__ import annotations

import pytest

import kvbound as kv
from kvbound.instance import Instance
from kvbound.llm.model import Llm
from kvbound.memory import Memory, Tier
from kvbound.rules import Copies, Rules
from kvbound.trace import Trace

MEMORY = Memory("two", {"a": 2.0, "b": 1.0}, (Tier("f", 3, ("a",), ("a",)), Tier("s", 2, ("b",), ("b",))))
PROMPT = Trace.from_lists(1, [[[0], [0]]], births=0)
BIRTHS = Trace.from_lists(0, [[[], []]], births=1)


def instance(trace: Trace) -> Instance:
    """Items of 2 and 3 bytes; tiers of 3 and 2."""
    return Instance("fragments", MEMORY, Llm("l", 2, (2, 3), 0, 0.0), Rules(copies=Copies.EXCLUSIVE), trace)


@pytest.mark.parametrize("trace", [PROMPT, BIRTHS], ids=["prompt", "births"])
@pytest.mark.parametrize("method", ["brute", "exact", "anneal"])
def test_solvers_find_the_only_placement(trace: Trace, method: str) -> None:
    """3 bytes in the fast tier take 1.5 s, 2 in the slow one 2 s."""
    found = kv.solve(instance(trace), method)
    assert found.time_s == pytest.approx(3.5)
    assert kv.check(instance(trace), found).ok


@pytest.mark.parametrize("trace", [PROMPT, BIRTHS], ids=["prompt", "births"])
def test_a_policy_that_fills_in_another_order_finds_no_schedule(trace: Trace) -> None:
    found = kv.simulate(instance(trace), "belady")
    assert (found.status, found.time_s) == ("unknown", None)
    assert "no tier has room" in found.termination.message
    assert "belady" in set(kv.compare(instance(trace), ["belady", "exact"])["method"])


@pytest.mark.parametrize("trace", [PROMPT, BIRTHS], ids=["prompt", "births"])
def test_pricing_has_a_bound_at_least(trace: Trace) -> None:
    found = kv.solve(instance(trace), "pricing", work=50)
    assert 0 < (found.bound.time_s or 0) <= 3.5 * (1 + 1e-9)
