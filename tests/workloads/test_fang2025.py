"""The published generator against its description, on traces large enough for statistics."""

import itertools
import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from kvbound import workloads
from kvbound.trace import Trace
from kvbound.workloads import CountRule, Fang2025


@cache
def trace(variation: float, sparsity: float = 0.6) -> tuple[Fang2025, Trace, list[list[set[int]]]]:
    spec = Fang2025(3, 600, 400, sparsity=sparsity, variation=variation, seed=11)
    made = workloads.make(spec, workers=1)
    return spec, made, [[set(made.reads(j, layer).tolist()) for j in range(400)] for layer in range(3)]


VARIATIONS = pytest.mark.parametrize("variation", [0.0, 0.1, 0.9])


@VARIATIONS
@pytest.mark.parametrize("sparsity", [0.0, 0.4, 0.6, 0.95, 1.0])
def test_counts_are_exact_and_known_beforehand(variation: float, sparsity: float) -> None:
    spec, made, _ = trace(variation, sparsity)
    wanted = [max(round((1 - sparsity) * (n - 1)), 0) for n in range(600, 1000)]
    layers, prefill, steps, counts = workloads.shape(spec)
    assert (layers, prefill, steps) == (3, 600, 400)
    assert np.array_equal(counts, np.repeat(np.array(wanted)[:, None], 3, axis=1))
    assert np.array_equal(made.counts(), counts)
    assert not made.own_reads().any()


@VARIATIONS
def test_added_ids_are_from_the_window_and_removed_ids_are_the_oldest(variation: float) -> None:
    _, _, sets = trace(variation)
    reach = 0.4 + 0.6 * 0.95
    for layer in sets:
        assert min(layer[0]) >= math.floor((1 - reach) * 599)
        for step, (before, now) in enumerate(itertools.pairwise(layer), start=601):
            come, gone = now - before, before - now
            assert all(math.floor((1 - reach) * (step - 1)) <= token < step for token in come)
            assert not gone or not before & now or max(gone) < min(before & now)


def test_without_variation_sets_only_grow() -> None:
    _, _, sets = trace(0.0)
    assert all(before <= now for layer in sets for before, now in itertools.pairwise(layer))


@VARIATIONS
def test_swaps_are_uniform_up_to_their_share(variation: float) -> None:
    _, _, sets = trace(variation)
    # every removed token was swapped; the rare exception is one added by growth and removed at once
    shares = []
    for layer in sets:
        for before, now in itertools.pairwise(layer):
            most = int(variation * len(now))
            swaps = len(before - now)
            assert swaps <= most
            shares.append((swaps + 0.5) / (most + 1))
    if variation:
        assert stats.kstest(shares, "uniform").pvalue > 1e-3


@VARIATIONS
def test_the_first_set_and_added_ids_are_uniform(variation: float) -> None:
    _, _, sets = trace(variation)
    ranks = []
    for layer in sets:
        free = sorted(set(range(math.floor(0.03 * 599), 600)))
        ranks += [np.searchsorted(free, token) / (len(free) - 1) for token in layer[0]]
        for step, (before, now) in enumerate(itertools.pairwise(layer), start=601):
            free = sorted(set(range(math.floor(0.03 * (step - 1)), step)) - before)
            ranks += [np.searchsorted(free, token) / (len(free) - 1) for token in now - before]
    assert np.mean(ranks) == pytest.approx(0.5, abs=4 / math.sqrt(12 * len(ranks)))
    assert stats.kstest(ranks, "uniform").statistic < 2.5 / math.sqrt(len(ranks))


def test_layers_and_seeds_differ_and_repeat() -> None:
    spec, made, _ = trace(0.1)
    assert len(set(made.row_hashes())) == 3
    other = workloads.make(Fang2025(3, 600, 400, seed=12))
    assert not set(made.row_hashes()) & set(other.row_hashes())
    assert workloads.make(spec, workers=1).row_hashes() == made.row_hashes()
    fewer = workloads.make(Fang2025(2, 600, 400, seed=11), workers=1)
    assert fewer.row_hashes() == made.row_hashes()[:2]  # a layer's stream does not depend on the others


def test_published_shapes_and_counts() -> None:
    low = workloads.shape(Fang2025(32, 31_299, 10_239))[3]
    actual = workloads.shape(Fang2025(32, 31_299, 10_240, count_rule=CountRule.CEIL_WITH_OWN))[3]
    assert (low.shape, low[0, 0], low[-1, -1]) == ((10_239, 32), 12_519, 16_614)
    assert (actual.shape, actual[0, 0], actual[-1, -1]) == ((10_240, 32), 12_520, 16_616)


def test_reads_of_a_seed_never_change() -> None:
    # the library's instances are identified by these hashes; a changed generator needs a new version
    assert workloads.make(Fang2025(1, 100, 50)).row_hashes() == [
        "a7e870ba494f7b58f4e4f08723fa2a88c7879065cb3b0c580111b8396ce55c5d"
    ]


@given(
    st.builds(
        Fang2025,
        layers=st.just(1),
        prefill_tokens=st.integers(1, 40),
        decode_steps=st.integers(1, 40),
        sparsity=st.floats(0, 1),
        variation=st.floats(0, 1),
        threshold=st.floats(0, 1),
        count_rule=st.sampled_from(CountRule),
        seed=st.integers(0, 9),
    )
)
def test_any_parameters_give_a_trace_with_the_stated_counts(spec: Fang2025) -> None:
    made = workloads.make(spec)
    assert np.array_equal(made.counts(), workloads.shape(spec)[3])
    assert all(made.reads(j, 0).max(initial=-1) < spec.prefill_tokens + j for j in range(spec.decode_steps))
    assert workloads.from_mapping(spec.to_mapping()) == spec
