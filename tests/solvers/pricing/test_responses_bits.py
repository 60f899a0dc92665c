"""Responses as bits: both kernels keep the same bits and counts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvbound.bitsets.lanes import Lanes, count_spans
from kvbound.bitsets.two_tier import TwoTierSchedule
from kvbound.instance import Instance
from kvbound.solvers.lagrangian.slots.minorants import SlotMinorants
from kvbound.solvers.pricing.responses.bits import BitResponses
from tests.solvers.pricing.cases import differing, simple, untuned


@given(simple() | differing(), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_both_kernels_make_the_same_changes(instance: Instance, seed: int) -> None:
    """The same paths adopted by the same lanes leave the same bits and counts, and these agree."""
    pytest.importorskip("numba")
    stride = min(3, count_spans(instance))
    both = [BitResponses.empty(instance, stride, kernel, 2) for kernel in ("numpy", "numba")]
    for number in range(3 * stride):
        multipliers = untuned(instance, seed + number)
        prices = SlotMinorants.of(instance).prices(multipliers.weights)
        offsets = np.full(instance.layers, number % stride)
        for responses in both:
            rng = np.random.default_rng(number)
            adopt = None if number < stride else lambda shape, rng=rng: rng.random(shape) < 0.5
            lanes = Lanes.of(instance, slice(None), offsets, stride)
            responses.update(lanes, prices, multipliers.capacity, adopt)
    plain, compiled = both
    for name in ("inside", "after", "counts", "start", "reads"):
        assert np.array_equal(getattr(plain, name), getattr(compiled, name)), name
    (inside, after), width = compiled.bits(), count_spans(instance)
    schedule = TwoTierSchedule.of(instance, inside[:, : 64 * width], lambda layer: after[layer, :, :width])
    assert np.array_equal(compiled.counts, schedule.counts)
    traffic = instance.item_bytes[:, None] * np.moveaxis(compiled.used(slice(None)), 0, -1)
    traffic[..., 2] += instance.llm.weight_reads
    assert np.array_equal(traffic, schedule.traffic(instance).traffic)
