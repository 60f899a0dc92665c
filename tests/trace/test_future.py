"""Next uses, tabulated in blocks of steps, against a direct search."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvbound.trace import Trace
from kvbound.trace.future import Future


def random_trace(rng: np.random.Generator, prefill: int, steps: int) -> Trace:
    density = rng.uniform(0.005, 0.3)
    reads = [
        [np.flatnonzero(rng.random(prefill + step + 1) < density) for _ in range(2)] for step in range(steps)
    ]
    return Trace.from_lists(prefill, reads)


def next_uses(trace: Trace, layer: int, step: int) -> list[int]:
    """The first step after the given one that reads each token as a past one."""
    found = [trace.decode_steps] * trace.tokens
    for later in range(trace.decode_steps - 1, step, -1):
        for token in trace.reads(later, layer):
            if token < trace.prefill_tokens + later:
                found[token] = later
    return found


@pytest.mark.parametrize("steps", [1, 2, 63, 64, 65, 127, 128, 129, 200])
@pytest.mark.parametrize("prefill", [0, 5, 64])
def test_next_use_at_every_step(steps: int, prefill: int) -> None:
    trace = random_trace(np.random.default_rng([steps, prefill]), prefill, steps)
    futures = [Future(trace, layer) for layer in range(2)]
    for step in range(-1, steps):
        for layer in range(2):
            futures[layer].now = step
            found = futures[layer].next_use()
            assert found.shape == (prefill + steps,)
            assert found.tolist() == next_uses(trace, layer, step)


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(-1, 149), min_size=1, max_size=8))
@settings(max_examples=25, deadline=None)
def test_next_use_in_any_order(seed: int, steps: list[int]) -> None:
    trace = random_trace(np.random.default_rng(seed), 7, 150)
    future = Future(trace, 1)
    for step in steps:
        assert future.next_use(step).tolist() == next_uses(trace, 1, step)


def test_future_reads() -> None:
    trace = Trace.from_lists(2, [[[0, 2]], [[3, 1, 0]], [[1]]])
    future = Future(trace, 0)
    assert future.reads().tolist() == [0, 2]
    future.now = 0
    assert future.reads().tolist() == [0, 1, 3]
    assert future.reads(2).tolist() == [1]
    assert future.reads(3).tolist() == []
    assert future.next_use().tolist() == [1, 1, 3, 3, 3]  # a read of the step's own token is none
