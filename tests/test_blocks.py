"""Blocks of tokens: their members, and when they exist."""

import numpy as np
import pytest

from kvbound.blocks import Blocks
from kvbound.trace.timeline import Timeline
from tests.strategies import tiny_timeline


def test_blocks_of_two_sequences_by_hand() -> None:
    # the sequences take turns; blocks are numbered by their first tokens
    timeline = Timeline.of(
        3, 3, births=[2, 1, 1], sequence=[0, 1, 0, 0, 1, 1, 0], ends=[1, None, 2, 2, 0, None, 2]
    )
    blocks = Blocks.make(timeline, 2)
    assert blocks.of.tolist() == [0, 1, 0, 2, 1, 3, 2]
    assert blocks.head.tolist() == [0, 1, 3, 5]
    assert blocks.members.tolist() == [[0, 2], [1, 4], [3, 6], [5, -1]]
    assert not blocks.contiguous
    assert blocks.prompt == 2
    assert blocks.born.tolist() == [-1, -1, 0, 1]
    assert blocks.last.tolist() == [[2, 3, 2, 3]]
    assert blocks.initial.tolist() == [[True, True]]
    assert blocks.held_counts.tolist() == [[2], [3], [4], [2]]
    assert blocks.carried.tolist() == [[[2, 1, 0, 0], [1, 1, 1, 0], [0, 1, 0, 1]]]
    assert blocks.grown.tolist() == [[0, 1, 1, 0], [0, 0, 0, 1], [0, 0, 1, 0]]


def test_blocks_end_by_layer_by_hand() -> None:
    """Tokens 0 to 3 of the prompt, 4 and 5 born: with a window of three tokens, block 0 never exists."""
    timeline = Timeline.of(4, 2)
    blocks = Blocks.make(timeline, 2, timeline.by_layer((None, 3, 5)))
    assert blocks.born.tolist() == [-1, -1, 0]
    assert blocks.last.tolist() == [[2, 2, 2], [-1, 1, 2], [1, 2, 2]]
    assert blocks.initial.tolist() == [[True, True], [False, True], [True, True]]
    assert blocks.held_counts.tolist() == [[2, 1, 2], [3, 2, 3], [3, 1, 2]]
    assert blocks.carried.tolist() == [
        [[2, 2, 0], [2, 2, 1]], [[0, 1, 0], [0, 0, 1]], [[1, 2, 0], [0, 2, 1]],
    ]  # fmt: skip
    assert blocks.movable.tolist() == [
        [[True, True, False], [True, True, True]],
        [[False, True, False], [False, False, True]],
        [[True, True, False], [False, True, True]],
    ]


@pytest.mark.parametrize("seed", range(120))
def test_blocks_are_what_their_tokens_say(seed: int) -> None:
    rng = np.random.default_rng(seed)
    steps, size = int(rng.integers(1, 6)), int(rng.integers(1, 5))
    timeline = tiny_timeline(rng, int(rng.integers(1, 14)), steps)
    windows = [None, *rng.integers(1, timeline.tokens + 1, 3).tolist()]
    timelines = timeline.by_layer(windows) if seed % 2 else (timeline,)
    blocks = Blocks.make(timeline, size, timelines)
    assert blocks.timelines == timelines
    tokens = [np.flatnonzero(blocks.of == block) for block in range(blocks.count)]
    assert blocks.head.tolist() == [own[0] for own in tokens]
    mask = rng.random((2, timeline.tokens)) < 0.5
    assert blocks.sums(mask).tolist() == [[int(row[own].sum()) for own in tokens] for row in mask]
    assert all(np.array_equal(row[row >= 0], own) for row, own in zip(blocks.members, tokens, strict=True))
    for own in tokens:
        assert len(set(timeline.sequence[own])) == 1
        assert timeline.position[own].tolist() == list(
            range(timeline.position[own[0]], timeline.position[own[-1]] + 1)
        )
        assert timeline.position[own[0]] % size == 0
        assert (
            len(own) == size or own[-1] == np.flatnonzero(timeline.sequence == timeline.sequence[own[0]])[-1]
        )
    born = timeline.born
    for layer, ends in enumerate(each.ends for each in timelines):
        assert blocks.last[layer].tolist() == [ends[own].max() for own in tokens]
        starts = [ends[own].max() >= 0 for own in tokens if born[own[0]] < 0]
        assert blocks.initial[layer].tolist() == starts
        exists = [sum(born[own[0]] <= step < ends[own].max() for own in tokens) for step in range(-1, steps)]
        assert blocks.held_counts[:, layer].tolist() == exists
        for step in range(steps):
            carried = [((born[own] < step) & (step < ends[own])).sum() for own in tokens]
            assert blocks.carried[layer, step].tolist() == carried
            movable = [born[own[0]] < step < ends[own].max() for own in tokens]
            assert blocks.movable[layer, step].tolist() == movable
    for step in range(steps):
        assert blocks.grown[step].tolist() == [(born[own] == step).sum() for own in tokens]
        assert blocks.begun(step) == sum(born[own[0]] < step for own in tokens)
