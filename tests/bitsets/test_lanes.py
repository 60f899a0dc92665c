"""Lanes hold the reads of the trace, block by block, without the reads of each step's own token."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvbound.bitsets.lanes import PADDING, PROMPT, Lanes, count_spans
from kvbound.instance import Instance
from kvbound.llm.model import Llm
from kvbound.workloads import RandomSwap
from tests.solvers.lagrangian.cases import come_and_go
from tests.strategies import layered_instances, tiny_instance, tiny_instances


def unpacked(lanes: Lanes) -> np.ndarray[tuple[int, int, int], np.dtype[np.bool_]]:
    """Whether each step reads each token of the lanes, (steps, layers, tokens)."""
    return np.unpackbits(lanes.rows.view(np.uint8), axis=2, bitorder="little").astype(np.bool_)


@given(tiny_instances())
def test_all_lanes_have_all_reads_of_past_tokens(instance: Instance) -> None:
    lanes = Lanes.all_of(instance, slice(None))
    assert np.array_equal(lanes.reads, instance.trace.past_counts())
    for layer in range(instance.layers):
        assert np.array_equal(unpacked(lanes)[:, layer, : instance.tokens], instance.trace.past_reads(layer))
        real = lanes.blocks[layer] < instance.blocks
        assert np.array_equal(lanes.blocks[layer, real], np.arange(instance.blocks))
        begins = lanes.blocks[layer, real] * instance.granularity - instance.prefill_tokens
        assert np.array_equal(lanes.born[layer, real], np.maximum(begins, PROMPT))
        assert np.all(lanes.born[layer, ~real] == PADDING)


@given(tiny_instances(batch=True))
def test_lanes_know_births_and_ends(instance: Instance) -> None:
    births_and_ends(instance)


@given(layered_instances())
def test_lanes_know_windows(instance: Instance) -> None:
    births_and_ends(instance)


@pytest.mark.parametrize("tokens", [64, 100, 128])
def test_blocks_of_several_sequences_fill_more_words_than_a_row_has(tokens: int) -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        births_and_ends(come_and_go(rng, tokens, 6, granularity=3))


def births_and_ends(instance: Instance) -> None:
    """Compare the lanes with the timeline, the blocks and the trace."""
    lanes, blocks = Lanes.all_of(instance, slice(None)), instance.grouping
    assert np.array_equal(lanes.reads, instance.trace.past_counts())
    for layer, timeline in enumerate(instance.timelines):
        read, past = unpacked(lanes)[:, layer], instance.trace.past_reads(layer)
        for block, (born, last) in enumerate(zip(blocks.born, blocks.last[layer], strict=True)):
            assert (lanes.blocks[layer, block], lanes.last[layer, block]) == (block, last)
            assert lanes.born[layer, block] == (born if last >= 0 else PADDING)
            for n, token in enumerate(blocks.members[block]):
                bit = block * blocks.size + n
                if token < 0:
                    if bit < read.shape[1]:
                        assert lanes.begin[layer, bit] == lanes.end[layer, bit] == timeline.steps
                    continue
                assert np.array_equal(read[:, bit], past[:, token])
                assert lanes.begin[layer, bit] == timeline.born[token]
                assert lanes.end[layer, bit] == timeline.ends[token]
        assert np.all(lanes.last[layer, blocks.count :] == PADDING)


@given(st.integers(1, 20), st.sampled_from([1, 3, 16]), st.integers(0, 99))
def test_units_with_a_stride_are_every_strideth_of_all(stride: int, granularity: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    some = tiny_instance(rng, tiers=2, granularity=granularity)
    reads = RandomSwap(layers=2, prefill_tokens=700, decode_steps=12, variation=0.3)
    instance = Instance("units", some.memory, Llm("two layers", 2, 1, 0, 1.0), some.rules, reads)
    units = count_spans(instance)
    stride = min(stride, units)
    offsets = rng.integers(stride, size=instance.layers)
    lanes, everything = Lanes.of(instance, slice(None), offsets, stride), Lanes.all_of(instance, slice(None))
    width = everything.rows.shape[2] // units
    for layer, offset in enumerate(offsets):
        taken = np.arange(offset, units, stride)
        words = (taken[:, None] * width + np.arange(width)).ravel()
        assert np.array_equal(lanes.rows[:, layer, : len(words)], everything.rows[:, layer, words])
        assert not lanes.rows[:, layer, len(words) :].any()
