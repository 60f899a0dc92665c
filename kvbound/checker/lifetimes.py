"""The steps in which each token and each block exists, from the fields of a trace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvbound.checker.report import Ints

FIELDS = ("births", "ends", "sequence", "outputs")
"""The optional fields of a trace."""

STEPS = 256
"""Steps whose rows are compared with the ends of tokens at once."""


@dataclass(frozen=True)
class Lifetimes:
    """Births and ends of the tokens and blocks of a layer; with windows, ends differ by layer.

    Token ids ascend in the order of the births. Blocks are numbered in the order of their first tokens.

    Chunks of weights, if there are any, come before the tokens. Each is a token of the prompt, in a block of
    its own with the same number, and counts as the items, KV entries of a token, that take the same bytes.

    Attributes
    ----------
    size
        Tokens per block.
    past
        Tokens born before each step, and in the end, ``(steps + 1,)``.
    born
        Step in which each token is born, -1 for the prompt, ``(tokens,)``.
    end
        Last step in which each token exists, the number of steps if it stays, ``(tokens,)``. Of the prompt's
        tokens, -1 for those that do not exist at all.
    sequence
        Label of each token's sequence, ``(tokens,)``.
    outputs
        Decoded tokens of each step, ``(steps,)``.
    block
        Block of each token, ``(tokens,)``.
    head
        First token of each block, ``(blocks,)``.
    chunks
        Sizes of the chunks of weights, which have the first ids, in blocks of tokens, ``(ids,)``. A size of 0
        is no chunk.
    """

    size: int
    past: Ints
    born: Ints
    end: Ints
    sequence: Ints
    outputs: Ints
    block: Ints
    head: Ints
    chunks: Ints = field(default_factory=lambda: np.zeros(0, np.int64))

    @classmethod
    def read(cls, trace: Mapping[str, Any], size: int) -> Lifetimes:
        """Validate the optional fields of a trace whose sizes are known to be right.

        Raises
        ------
        ValueError
            A field is not as expected.
        """
        steps, prefill = trace["decode_steps"], trace["prefill_tokens"]
        births = np.ones(steps, np.int64)
        if "births" in trace:
            births = np.array(_integers(trace, "births", steps), np.int64)
        past = prefill + np.concatenate([[0], np.cumsum(births)])
        tokens = int(past[-1])
        born = np.concatenate([np.full(prefill, -1), np.repeat(np.arange(steps), births)])
        end, sequence, outputs = np.full(tokens, steps), np.zeros(tokens, np.int64), births
        if "ends" in trace:
            given = _integers(trace, "ends", tokens, default=steps)
            listed = np.array([each is not None for each in trace["ends"]], np.bool_)
            end = np.array(given, np.int64)
            if np.any(listed & ((end < np.maximum(born, 0)) | (end >= steps))):
                raise ValueError("expected ends from the token's birth to the last step, or null")
        if "sequence" in trace:
            sequence = np.array(_integers(trace, "sequence", tokens), np.int64)
        if "outputs" in trace:
            outputs = np.array(_integers(trace, "outputs", steps), np.int64)
            if np.any((outputs < 0) | (outputs > births)):
                raise ValueError("expected outputs from 0 to the births of their step")
        return cls(size, past, born, end, sequence, outputs, *_divide(sequence, size))

    def within(self, window: int | None) -> Lifetimes:
        """Return the lifetimes in a layer that reads no further back than a window of tokens.

        A token ends, at the latest, in the step in which its sequence's token ``window - 1`` positions on is
        born.
        """
        if window is None:
            return self
        order = np.argsort(self.sequence, kind="stable")
        latest = order[window - 1 :]
        token = order[: latest.size]
        same = self.sequence[token] == self.sequence[latest]
        end = self.end.copy()
        end[token[same]] = np.minimum(end[token[same]], self.born[latest[same]])
        return replace(self, end=end)

    def after_chunks(self, chunks: Ints) -> Lifetimes:
        """Return the lifetimes of these tokens after chunks of weights, which stay; see `chunks`."""
        ids, steps = np.arange(chunks.size), len(self.outputs)
        return replace(
            self,
            past=ids.size + self.past,
            born=np.concatenate([np.full(ids.size, -1), self.born]),
            end=np.concatenate([np.where(chunks > 0, steps, -1), self.end]),
            sequence=np.concatenate([ids, ids.size + self.sequence]),
            block=np.concatenate([ids, ids.size + self.block]),
            head=np.concatenate([ids, ids.size + self.head]),
            chunks=chunks,
        )

    @cached_property
    def _sizes(self) -> Ints:
        """Size of each block in blocks of tokens: 1 but for chunks, ``(blocks,)``."""
        return np.concatenate([self.chunks, np.ones(len(self.head) - self.chunks.size, np.int64)])

    def blocks_in(self, block: Ints) -> Ints | int:
        """Return the sizes of blocks, chunks of weights among them, in blocks of tokens."""
        return self._sizes[block] if self.chunks.size else 1

    def items_in(self, block: Ints) -> Ints | int:
        """Return how many items each token of the blocks counts as: the size of chunks, in tokens."""
        if not self.chunks.size:
            return 1
        return self._sizes[block] * np.where(block < self.chunks.size, self.size, 1)

    @property
    def more(self) -> Ints:
        """Items of each chunk beyond the first, ``(ids,)``."""
        return np.maximum(self.size * self.chunks - 1, 0)

    @cached_property
    def births(self) -> Ints:
        """Tokens born in each step, ``(steps,)``."""
        return np.diff(self.past)

    @cached_property
    def live(self) -> Ints:
        """Past items that exist when each step begins, ``(steps,)``."""
        return self.past[:-1] - self._by_end[1][:-1] + self.more.sum()

    @cached_property
    def begin(self) -> Ints:
        """Step in which each block begins, -1 for those of the prompt, ascending, ``(blocks,)``."""
        return self.born[self.head]

    @cached_property
    def last(self) -> Ints:
        """Last step in which each block exists, the number of steps if it stays, ``(blocks,)``."""
        last = np.full(len(self.head), -1)
        np.maximum.at(last, self.block, self.end)
        return last

    @cached_property
    def held(self) -> NDArray[np.bool_]:
        """Whether a block occupies a tier at all: it does not end in the step in which it begins."""
        return self.last > self.begin

    @cached_property
    def held_blocks(self) -> Ints:
        """Blocks that occupy a tier at the start and after each step, chunks by size, ``(steps + 1,)``."""
        steps = len(self.outputs)
        begin = np.bincount(self.begin[self.held] + 1, minlength=steps + 2)
        leave = np.bincount(self.last[self.held] + 1, minlength=steps + 2)
        return np.cumsum(begin - leave)[:-1] + np.maximum(self.chunks - 1, 0).sum()

    @cached_property
    def prompt(self) -> int:
        """Number of blocks that begin in the prompt: they come first."""
        return int(np.count_nonzero(self.begin < 0))

    @cached_property
    def never(self) -> Ints:
        """Tokens of the prompt that do not exist in the layer."""
        return np.flatnonzero(self.end[: self.past[0]] < 0)

    @cached_property
    def witness(self) -> Ints:
        """First token of each block of the prompt that exists from the start, if any does, ``(prompt,)``."""
        first, token = self.head[: self.prompt].copy(), np.flatnonzero(self.end[: self.past[0]] >= 0)[::-1]
        first[self.block[token]] = token  # of several values the last one stays
        return first

    @cached_property
    def runs(self) -> tuple[Ints, Ints, Ints]:
        """Runs of consecutive tokens of one block, in the order of the tokens.

        Returns
        -------
        First token, end and block of each run, ``(runs,)``.
        """
        opens = np.diff(self.block, prepend=-1) != 0
        first = np.flatnonzero(opens)
        return first, np.append(first, len(self.block))[1:], self.block[first]

    @cached_property
    def _by_end(self) -> tuple[Ints, Ints]:
        """Tokens in the order of their ends, and how many of them end before each step, ``(steps + 1,)``."""
        order = np.argsort(self.end, kind="stable")
        return order, np.searchsorted(self.end[order], np.arange(len(self.past)))

    def ending(self, step: int) -> Ints:
        """Return the tokens that end in a step."""
        order, before = self._by_end
        return order[before[step] : before[step + 1]]

    def read_blocks(self, row: NDArray[np.uint8], step: int) -> tuple[Ints, Ints]:
        """Count for each block the past items that a slot reads, and those of them that end later."""
        bits = np.unpackbits(row, count=self.past[step], bitorder="little")
        first, _, block = self.runs
        runs, read = np.searchsorted(first, bits.size), np.zeros(len(self.head), np.int64)
        np.add.at(read, block[:runs], np.add.reduceat(bits, first[:runs], dtype=np.int64))
        read[: self.chunks.size] *= self.size * self.chunks
        lasting, ending = read.copy(), self.ending(step)
        ending = ending[ending < bits.size]
        np.subtract.at(lasting, self.block[ending], bits[ending])
        return read, lasting

    def carried(self, block: Ints, step: Ints, ending: int = 0) -> Ints:
        """Count the items that each move carries: those of its block born before it that end after it.

        With `ending` of 1 those that end in its step are counted, too.
        """
        stride = len(self.outputs) + 2
        first, beyond = self.born + 1, np.maximum(self.end + ending, self.born + 1)
        join, leave = (np.sort(self.block * stride + edge) for edge in (first, beyond))
        place = block * stride + step
        count = np.searchsorted(join, place, side="right") - np.searchsorted(leave, place, side="right")
        return count * self.items_in(block)

    def ended_bits(self, steps: slice, words: int) -> NDArray[np.uint64]:
        """Return bits of the tokens that ended before each step of a range and before the step after it."""
        bits = np.zeros((steps.stop - steps.start + 1, words), np.uint64)
        before = np.packbits(self.end < steps.start, bitorder="little")
        bits[0].view(np.uint8)[: before.size] = before
        order, count = self._by_end
        token = order[count[steps.start] : count[steps.stop]]
        row = self.end[token] + 1 - steps.start
        np.bitwise_or.at(bits, (row, token >> 6), np.uint64(1) << (token & 63).astype(np.uint64))
        return np.bitwise_or.accumulate(bits, axis=0)

    def reads_ended(self, rows: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Whether each step reads a token that has ended, ``(steps,)``."""
        words, found = rows.shape[1] // 8, np.zeros(len(rows), np.bool_)
        for first in range(0, len(rows), STEPS):
            part = slice(first, min(first + STEPS, len(rows)))
            reads = np.ascontiguousarray(rows[part]).view(np.uint64)
            found[part] = np.any(reads & self.ended_bits(part, words)[:-1], axis=1)
        return found

    def past_reads(self, rows: NDArray[np.uint8]) -> Ints:
        """Count the reads of items that are not born in the same step, ``(steps,)``."""
        counts = np.array([np.bitwise_count(row).sum(dtype=np.int64) for row in rows])
        return counts - self.own_reads(rows) + self.chunk_reads(rows) @ self.more

    def chunk_reads(self, rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return which chunks of weights each step reads, zeros and ones, ``(steps, ids)``."""
        return np.unpackbits(rows[:, : self.chunks.size // 8], axis=1, bitorder="little")

    def own_reads(self, rows: NDArray[np.uint8]) -> Ints:
        """Count the reads of tokens born in the same step, which are still on the chip, ``(steps,)``."""
        token = np.arange(self.past[0], self.past[-1])
        step, count = self.born[token], np.zeros(len(self.outputs), np.int64)
        np.add.at(count, step, rows[step, token >> 3] >> (token & 7) & 1)
        return count


def count_tokens(trace: Mapping[str, Any]) -> int:
    """Return the number of tokens of a trace, after validating its births.

    Raises
    ------
    ValueError
        The births are not as expected.
    """
    steps = trace["decode_steps"]
    if "births" not in trace:
        return int(trace["prefill_tokens"] + steps)
    births = _integers(trace, "births", steps)
    if min(births) < 0:
        raise ValueError("expected births >= 0")
    return int(trace["prefill_tokens"] + sum(births))


def _integers(trace: Mapping[str, Any], name: str, count: int, default: int | None = None) -> list[int]:
    """Return a list of integers, with a default for null if there is one."""
    values = trace[name]
    if isinstance(values, list) and len(values) == count:
        if default is not None:
            values = [default if value is None else value for value in values]
        if all(type(value) is int for value in values):
            return values
    raise ValueError(f"expected {name}: a list of {count} integers")


def _divide(sequence: Ints, size: int) -> tuple[Ints, Ints]:
    """Return the block of each token and the first token of each block, given the sequence of each token."""
    order = np.argsort(sequence, kind="stable")
    at = np.arange(len(order))
    position = at - np.searchsorted(sequence[order], sequence[order])
    first = np.empty_like(order)
    first[order] = order[at - position % size]
    head = np.unique(first)
    return np.searchsorted(head, first), head
