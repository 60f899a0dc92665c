"""Instances on which policies differ, small enough for the slow twins."""

from typing import Any

import numpy as np

from kvbound.instance import Copies, Initial, Instance, Migration, Rules, Timing
from kvbound.llm.model import Llm
from kvbound.trace import Trace
from tests.strategies import tiny_memory


def medium_instance(rng: np.random.Generator, *, tiers: int | None = None, **rules: Any) -> Instance:
    """Return a feasible instance of up to 3 layers, 40 tokens, 4 tiers; rules not given are drawn."""
    drawn: dict[str, Any] = {
        "copies": rng.choice(list(Copies)),
        "migration": rng.choice(list(Migration)),
        "timing": rng.choice(list(Timing)),
        "initial": rng.choice(list(Initial)),
        "granularity": int(rng.integers(1, 4)),
    }
    made = Rules(**(drawn | rules))
    layers, prefill, steps = int(rng.integers(1, 4)), int(rng.integers(0, 25)), int(rng.integers(1, 17))
    item, weights = int(rng.integers(1, 6)), int(rng.integers(0, 4))
    llm = Llm("medium", layers, item, weights, tuple(float(w) for w in rng.integers(0, 9 * item, layers)))
    blocks = layers * -(-(prefill + steps) // made.granularity)
    memory = tiny_memory(rng, tiers or int(rng.integers(2, 5)), blocks, made.granularity * item, weights)
    return Instance("medium", memory, llm, made, medium_trace(rng, layers, prefill, steps))


def medium_trace(rng: np.random.Generator, layers: int, prefill: int, steps: int) -> Trace:
    """Reads that repeat, in recorded order, own tokens among them; half of the time with mass."""
    favour = rng.random((layers, prefill + steps))
    churn, density = rng.uniform(0, 1), rng.uniform(0.1, 0.8)
    reads, mass = [], []
    for step in range(steps):
        noise = rng.random((layers, prefill + step + 1))
        worth = (1 - churn) * favour[:, : prefill + step + 1] + churn * noise
        ids = [rng.permutation(np.flatnonzero(row > 1 - density)) for row in worth]
        reads.append(ids)
        mass.append([rng.integers(0, 8, len(row)) / 4 for row in ids])
    return Trace.from_lists(prefill, reads, mass=mass if rng.random() < 0.5 else None)
