"""Blocks: consecutive tokens of one sequence that move together, and the steps in which each block exists."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from kvbound.trace.timeline import Timeline

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Blocks:
    """The blocks of the layers, numbered in the order of their first tokens.

    Every layer has the same blocks, which begin in the same steps. In layers with a sliding window they end
    earlier than in others.

    Attributes
    ----------
    timeline
        Births of the tokens, and their ends in layers without a window.
    timelines
        Births and ends of the tokens by layer, shape (layers,); one object for all layers that are alike.
    size
        Tokens per block, g.
    of
        Block of each token, shape (tokens,).
    head
        First token of each block, shape (blocks,).
    """

    timeline: Timeline
    timelines: Sequence[Timeline]
    size: int
    of: Ints
    head: Ints

    @classmethod
    def make(cls, timeline: Timeline, size: int, timelines: Sequence[Timeline] = ()) -> Blocks:
        """Divide the tokens of every sequence into blocks; by default of one layer."""
        timelines, tokens = timelines or (timeline,), np.arange(timeline.tokens)
        if size == 1:
            return cls(timeline, timelines, 1, tokens, tokens)
        if not timeline.sequence.any():
            return cls(timeline, timelines, size, tokens // size, tokens[::size])
        head = np.flatnonzero(timeline.position % size == 0)
        at = np.lexsort((timeline.position[head], timeline.sequence[head]))
        begin = np.searchsorted(timeline.sequence[head][at], timeline.sequence)
        return cls(timeline, timelines, size, at[begin + timeline.position // size], head)

    def _by_layer(self, compute: Callable[[Timeline], Ints]) -> Ints:
        """Return what a function of the timeline gives for each layer, shape (layers, ...), read-only."""
        known = {timeline: compute(timeline) for timeline in set(self.timelines)}
        if len(known) == 1:
            (same,) = known.values()
            return np.broadcast_to(same, (len(self.timelines), *same.shape))
        return np.stack([known[timeline] for timeline in self.timelines])

    @property
    def count(self) -> int:
        """Number of blocks in a layer, counting all that exist at some time in some layer."""
        return len(self.head)

    @property
    def contiguous(self) -> bool:
        """Whether the tokens of block b are those from b * size on."""
        return self.size == 1 or not self.timeline.sequence.any()

    @cached_property
    def members(self) -> Ints:
        """Tokens of each block in ascending order, shape (blocks, size); -1 where there are fewer."""
        table = np.full((self.count, self.size), -1, np.int64)
        table[self.of, self.timeline.position % self.size if self.size > 1 else 0] = np.arange(len(self.of))
        return table

    @cached_property
    def born(self) -> Ints:
        """Step in which each block begins, -1 for those of the prompt, shape (blocks,)."""
        return self.timeline.born[self.head]

    @cached_property
    def last(self) -> Ints:
        """Last step in which each block exists, the number of steps for those that stay, (layers, blocks).

        It is the latest end of its tokens. In the slots of this step the block may be read, but it does not
        move, and it leaves its tier before the capacities are checked. It is -1 for blocks of the prompt that
        have left the layer's window before the first step: they never exist.
        """

        return self._by_layer(self._last)

    @property
    def initial(self) -> NDArray[np.bool_]:
        """Whether each block that begins in the prompt exists at the start, shape (layers, prompt)."""
        return self.last[:, : self.prompt] >= 0

    @property
    def prompt(self) -> int:
        """Number of blocks that begin in the prompt, which have the lowest numbers."""
        return int(np.count_nonzero(self.born < 0))

    def begun(self, step: int) -> int:
        """Return the number of blocks that begin before a step, which have the lowest numbers."""
        return int(np.searchsorted(self.born, step))

    @cached_property
    def carried(self) -> Ints:
        """Tokens that a move of each block in each step carries, shape (layers, steps, blocks).

        They are those that were born in an earlier step and end in a later one or stay.
        """
        return self._by_layer(lambda timeline: self._counts(timeline.born + 1, timeline.ends))

    @cached_property
    def grown(self) -> Ints:
        """Tokens born into each block in each step, shape (steps, blocks)."""
        grown = np.zeros((self.timeline.steps, self.count), np.int64)
        later = self.timeline.born >= 0
        np.add.at(grown, (self.timeline.born[later], self.of[later]), 1)
        return grown

    @cached_property
    def movable(self) -> NDArray[np.bool_]:
        """Whether each block may move in each step, (layers, steps, blocks): it exists before and after."""
        step = np.arange(self.timeline.steps)[:, None]
        return (self.born < step) & (step < self.last[:, None])

    @cached_property
    def held_counts(self) -> Ints:
        """Number of each layer's blocks that exist at the start and after each step, (steps + 1, layers)."""
        steps = self.timeline.steps

        def count(timeline: Timeline) -> Ints:
            last = self._last(timeline)
            lasting = last > self.born
            begin = np.bincount(self.born[lasting] + 1, minlength=steps + 1)
            end = np.bincount(last[lasting] + 1, minlength=steps + 2)[: steps + 1]
            return np.cumsum(begin - end)

        return self._by_layer(count).T

    def sums(self, bits: NDArray[np.bool_]) -> Ints:
        """Count the tokens of each block in masks of tokens, (..., blocks) from (..., tokens)."""
        if self.size == 1:
            return bits.astype(np.int64)
        if self.contiguous:
            return np.add.reduceat(bits, self.head, axis=-1, dtype=np.int64)
        order = np.argsort(self.of, kind="stable")
        begin = np.searchsorted(self.of[order], np.arange(self.count))
        return np.add.reduceat(bits[..., order], begin, axis=-1, dtype=np.int64)

    def _last(self, timeline: Timeline) -> Ints:
        """Return the last step of each block in layers with a timeline; see `last`."""
        last = np.full(self.count, -1, np.int64)
        np.maximum.at(last, self.of, timeline.ends)
        return last

    def _counts(self, begin: Ints, end: Ints) -> Ints:
        """Count in each step the tokens of each block for which begin <= step < end, (steps, blocks)."""
        steps = self.timeline.steps
        change = np.zeros((steps + 1, self.count), np.int64)
        np.add.at(change, (np.minimum(begin, steps), self.of), 1)
        np.add.at(change, (np.maximum(end, begin), self.of), -1)
        return np.cumsum(change, axis=0)[:-1]


def most_bytes(timelines: Sequence[Timeline], sizes: Sequence[int]) -> int:
    """Return the bytes of the KV that exists at the start or after a slot, at most, counted in single tokens.

    Parameters
    ----------
    timelines, sizes
        Births and ends in each layer, and bytes of one token's KV there, shape (layers,).
    """
    if len(set(timelines)) == 1:
        return timelines[0].most_live * sum(sizes)
    live = np.stack([timeline.live for timeline in timelines], axis=1)
    return int(largest_sum(live.astype(object) * np.array(sizes, object)))  # of any size


def largest_sum(held: Ints) -> np.int64:
    """Return the largest sum over layers at the start or after a slot.

    Parameters
    ----------
    held
        What each layer holds at the start and after each step, shape (steps + 1, layers).
    """
    change = np.cumsum(np.diff(held, axis=0).ravel())
    return held[0].sum() + max(change.max(), 0)
