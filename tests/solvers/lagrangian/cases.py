"""Instances and bounds that the tests of the Lagrangian bound share."""

from typing import Any

import numpy as np

from kvbound.checker import check
from kvbound.instance import Instance
from kvbound.llm.model import Llm
from kvbound.memory import Memory, Tier
from kvbound.rules import Rules
from kvbound.solvers.lagrangian.bound import solve_dual
from kvbound.workloads import RandomSwap
from tests.strategies import tiny_batch, tiny_instance


def swaps(tokens: int, steps: int, link: float = 64e9, room: float = 0.5, **rules: Any) -> Instance:
    """Random swaps on a slow link; tier 0 holds `room` times the tokens of the prompt."""
    resources = {"fast": 4900e9, "down": link, "up": link, "bus": 500e9}
    reads = RandomSwap(layers=2, prefill_tokens=tokens, decode_steps=steps, variation=0.2, seed=3)
    fast = Tier("fast", room * 2 * tokens * 16384, ("fast",), ("fast",))
    memory = Memory("slow link", resources, (fast, Tier("slow", None, ("down", "bus"), ("up", "bus"))))
    llm = Llm("some", 2, 16384, 0, 0.27 * tokens * 16384)
    return Instance("swaps", memory, llm, Rules(**rules), reads)


def waits(*, on_read: bool, **rules: Any) -> Instance:
    """Three tiers, of which the second waits a little, and the third longer than slots take without it."""
    resources = {"hbm": 4000e9, "link": 54e9, "up": 54e9, "ssd": 7e9, "ssd_up": 54e9}
    tiers = (
        Tier("hbm", 30 * 65536, ("hbm",), ("hbm",)),
        Tier("dram", 45 * 65536, ("link",), ("up",), latency=2e-6),
        Tier("ssd", None, ("link", "ssd"), ("up", "ssd_up"), latency=80e-6),
    )
    reads = RandomSwap(layers=1, prefill_tokens=120, decode_steps=40, sparsity=0.7, variation=0.1, seed=0)
    rules = {"migration": "on-read" if on_read else "prefetch"} | rules
    llm = Llm("some", 1, 65536, 0, 16e6)
    return Instance("waits", Memory("ssd", resources, tiers), llm, Rules(**rules), reads)


def bound(instance: Instance, **options: Any) -> float:
    """Return the bound of an instance, after the checker has confirmed it."""
    found, certificate = solve_dual(instance, **options)
    report = check(instance.expanded(), instance.trace.rows, certificate.arrays())
    assert report.problems == ()
    assert report.bound_s is not None
    assert found.time_s == certificate.bound_s
    assert certificate.bound_s <= report.bound_s <= certificate.bound_s * (1 + 1e-9)
    return certificate.bound_s


def come_and_go(rng: np.random.Generator, tokens: int, steps: int, **rules: Any) -> Instance:
    """Random births and ends, in tiers with room for all tokens."""
    tiny = tiny_instance(rng, **rules)
    fast = [Tier(t.name, 1e9, t.reads, t.writes) for t in tiny.memory.tiers[:-1]]
    slow = tiny.memory.tiers[-1]
    memory = Memory("roomy", tiny.memory.resources, (*fast, Tier(slow.name, None, slow.reads, slow.writes)))
    return Instance("batch", memory, Llm("some", 2, 1, 0, 1.0), tiny.rules, tiny_batch(rng, 2, tokens, steps))
