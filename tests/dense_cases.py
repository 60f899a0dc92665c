"""Small instances whose reads are dense, and the same with bits."""

from dataclasses import replace
from typing import Any

import numpy as np

from kvbound.initial import require_room
from kvbound.instance import Instance
from kvbound.llm.model import Llm
from kvbound.memory import Memory, Tier
from kvbound.rules import Rules
from kvbound.trace import Trace
from kvbound.workloads import Dense
from tests.strategies import tiny_instance, with_formats, with_placeable_weights


def dense_instance(
    rng: np.random.Generator, *, tiers: int | None = None, weights: bool = False, **rules: Any
) -> Instance:
    """Return a tiny instance, often a batch, in which every step reads all past tokens.

    Parameters
    ----------
    rng
        Decides what is not given.
    tiers
        Number of tiers.
    weights
        Whether weights may be placeable.
    **rules
        Fields of `Rules`.
    """
    made = tiny_instance(rng, tiers=tiers, batch=bool(rng.integers(2)), **rules)
    if weights and rng.random() < 0.4:
        made = with_placeable_weights(rng, made)
    elif rng.random() < 0.2:
        made = with_formats(rng, made)
    return replace(made, workload=Trace.from_timeline(made.workload.timeline, made.layers))


def with_bits(instance: Instance) -> Instance:
    """Return the same instance with a trace of bits, which does not say that it is dense."""
    trace = instance.token_trace
    assert trace.dense
    return replace(instance, workload=Trace(trace.prefill_tokens, tuple(trace.rows), timeline=trace.timeline))


def feasible(instance: Instance) -> bool:
    """Whether the memory holds the prompt where the rules put it."""
    try:
        require_room(instance)
    except Exception:
        return False
    return True


def long_run(
    steps: int = 300, layers: int = 4, *, tiers: int = 2, room: float = 0.4, **rules: Any
) -> Instance:
    """Return a run whose KV exceeds the fast tiers from some step on."""
    size, prompt = 4096, 100
    total = layers * (prompt + steps) * size
    resources = {"bus": 3000e9, "peer": 900e9, "link": 64e9, "up": 64e9, "host": 400e9}
    fast = Tier("fast", room * total, ("bus",), ("bus",))
    middle = Tier("middle", room * total / 2, ("peer",), ("peer",))
    slow = Tier("slow", None, ("link", "host"), ("up", "host"))
    held = (fast, slow) if tiers == 2 else (fast, middle, slow)
    llm = Llm("some", layers, size, 0, 40.0 * size)
    return Instance("long", Memory("m", resources, held), llm, Rules(**rules), Dense(layers, prompt, steps))
