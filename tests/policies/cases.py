"""Instances on which policies differ, small enough for the slow twins."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from kvbound.blocks import Blocks
from kvbound.instance import Instance
from kvbound.llm.model import Llm
from kvbound.rules import Copies, Initial, Migration, Rules, Timing, Windows
from kvbound.trace import Trace
from kvbound.trace.timeline import FIELDS, Timeline
from tests.strategies import sizes_and_windows, tiny_memory, tiny_timeline

KINDS = [(False, False), (True, False), (False, True), (True, True)]
"""Values of `batch` and `differ`, which `medium_instance` takes."""


def medium_instance(
    rng: np.random.Generator,
    *,
    tiers: int | None = None,
    batch: bool = False,
    differ: bool = False,
    **rules: Any,
) -> Instance:
    """Return a feasible instance of up to 3 layers, 40 tokens, 4 tiers; rules not given are drawn.

    With `batch` other numbers of tokens than one may be born in a step, and tokens may end. With `differ`
    layers may differ in the size of their KV, and tokens may end in windows.
    """
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
    reads = tuple(float(w) for w in rng.integers(0, 9 * item, layers))
    timeline = tiny_timeline(rng, prefill + steps, steps) if batch else Timeline.of(prefill, steps)
    sizes: tuple[int, ...] = (item,) * layers
    windows: tuple[int | None, ...] = ()
    if differ:
        sizes, windows = sizes_and_windows(rng, layers, timeline.tokens)
        made = dataclasses.replace(made, windows=Windows.ENDS if any(windows) else Windows.IGNORE)
    llm = Llm("medium", layers, sizes, weights, reads, windows=windows)
    blocks, unit = Blocks.make(timeline, made.granularity).count, math.gcd(*sizes)
    units = blocks * sum(sizes) // unit
    memory = tiny_memory(rng, tiers or int(rng.integers(2, 5)), units, made.granularity * unit, weights)
    timelines = timeline.by_layer(windows or (None,) * layers)
    return Instance("medium", memory, llm, made, medium_trace(rng, timeline, timelines, sizes))


def medium_trace(
    rng: np.random.Generator, timeline: Timeline, timelines: Sequence[Timeline], sizes: Sequence[int]
) -> Trace:
    """Reads that repeat, in recorded order, own tokens among them; half of the time with mass."""
    layers = len(timelines)
    favour = rng.random((layers, timeline.tokens))
    churn, density = rng.uniform(0, 1), rng.uniform(0.1, 0.8)
    reads, mass = [], []
    for step, end in enumerate(timeline.past[1:]):
        noise = rng.random((layers, end))
        worth = (1 - churn) * favour[:, :end] + churn * noise
        for row, own, size in zip(worth, timelines, sizes, strict=True):
            row[(own.ends[:end] < step) | (size == 0)] = 0
        ids = [rng.permutation(np.flatnonzero(row > 1 - density)) for row in worth]
        reads.append(ids)
        mass.append([rng.integers(0, 8, len(row)) / 4 for row in ids])
    given = {name: getattr(timeline, name) for name in FIELDS}
    return Trace.from_lists(
        timeline.prefill_tokens, reads, mass=mass if rng.random() < 0.5 else None, **given
    )
