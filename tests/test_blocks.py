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
    assert blocks.last.tolist() == [2, 3, 2, 3]
    assert blocks.held_counts.tolist() == [2, 3, 4, 2]
    assert blocks.carried.tolist() == [[2, 1, 0, 0], [1, 1, 1, 0], [0, 1, 0, 1]]
    assert blocks.grown.tolist() == [[0, 1, 1, 0], [0, 0, 0, 1], [0, 0, 1, 0]]


@pytest.mark.parametrize("seed", range(60))
def test_blocks_are_what_their_tokens_say(seed: int) -> None:
    rng = np.random.default_rng(seed)
    steps, size = int(rng.integers(1, 6)), int(rng.integers(1, 5))
    timeline = tiny_timeline(rng, int(rng.integers(1, 14)), steps)
    blocks = Blocks.make(timeline, size)
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
    exists = [
        sum(timeline.born[own[0]] <= step < timeline.ends[own].max() for own in tokens)
        for step in range(-1, steps)
    ]
    assert blocks.held_counts.tolist() == exists
    for step in range(steps):
        carried = [((timeline.born[own] < step) & (step < timeline.ends[own])).sum() for own in tokens]
        assert blocks.carried[step].tolist() == carried
        assert blocks.grown[step].tolist() == [(timeline.born[own] == step).sum() for own in tokens]
        movable = [timeline.born[own[0]] < step < timeline.ends[own].max() for own in tokens]
        assert blocks.movable[step].tolist() == movable
        assert blocks.begun(step) == sum(timeline.born[own[0]] < step for own in tokens)
