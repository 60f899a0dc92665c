"""Dense reads: every slot reads all items that exist and were born in an earlier step.

The expanded instance claims this by ``"dense": true``. The rows of bits then follow from births and ends:
they are made here, one at a time, and their hash is compared with the instance's, which proves the claim.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import overload

import numpy as np
from numpy.typing import NDArray

from kvbound.checker.lifetimes import Lifetimes
from kvbound.checker.report import Ints, Refused

Row = NDArray[np.uint8]

MOST_SLOTS, MOST_TOKENS = 1 << 24, 1 << 27
"""Sizes up to which arrays over slots, and over the tokens of all layers, are made from a claim alone."""
_MOST_BYTES = 1 << 30


class DenseRows(Sequence[Row]):
    """The packed rows of every layer, one array for all of them, made only where bits are needed."""

    def __init__(self, life: Lifetimes, layers: int) -> None:
        self.life, self.layers = life, layers

    def __len__(self) -> int:
        return self.layers

    @overload
    def __getitem__(self, layer: int) -> Row: ...
    @overload
    def __getitem__(self, layer: slice) -> Sequence[Row]: ...
    def __getitem__(self, layer: int | slice) -> Row | Sequence[Row]:
        which = range(self.layers)[layer]
        return [self._rows] * len(which) if isinstance(which, range) else self._rows

    @property
    def width(self) -> int:
        """Bytes of a row."""
        return 8 * -(-len(self.life.born) // 64)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of a layer's rows, made one after the other."""
        digest = hashlib.sha256()
        for row in self._each():
            digest.update(row.data)
        return digest.hexdigest()

    def _each(self) -> Iterator[Row]:
        """Yield the row of each step, always in the same array."""
        life, row = self.life, np.zeros(self.width, np.uint8)
        first = np.packbits(life.end[: life.past[0]] >= 0, bitorder="little")
        row[: first.size] = first
        for step in range(len(life.outputs)):
            yield row
            born = np.arange(life.past[step], life.past[step + 1])
            np.bitwise_or.at(row, born >> 3, _bit(born))
            ended = life.ending(step)
            np.bitwise_and.at(row, ended >> 3, ~_bit(ended))

    @cached_property
    def _rows(self) -> Row:
        steps = len(self.life.outputs)
        if steps * self.width > _MOST_BYTES:
            size = f"{steps * self.width / 1e9:.1f} GB"
            raise Refused(f"this file is checked by bits of all reads, and those of dense reads take {size}")
        rows = np.empty((steps, self.width), np.uint8)
        for step, row in enumerate(self._each()):
            rows[step] = row
        return rows


def _bit(tokens: Ints) -> Row:
    return (1 << (tokens & 7)).astype(np.uint8)


def reads_ended(life: Lifetimes, read: Lifetimes) -> NDArray[np.bool_]:
    """Whether each step reads a token that has ended in a layer, ``(steps,)``.

    Parameters
    ----------
    life, read
        The layer's lifetimes, and those that the reads follow from: the same tokens with the same or later
        ends.
    """
    steps = len(life.outputs)
    token = np.flatnonzero((life.end < read.end) & (read.end > read.born))
    change = np.zeros(steps + 2, np.int64)
    np.add.at(change, np.maximum(life.end[token], read.born[token]) + 1, 1)
    np.subtract.at(change, np.minimum(read.end[token] + 1, steps + 1), 1)
    return np.cumsum(change)[:steps] > 0


def served(life: Lifetimes, tiers: int, initial: Row, changes: tuple[Ints, Ints, Ints, Ints]) -> Ints:
    """Count the items that exist in each tier when each slot begins, ``(steps, tiers)``: all are read.

    Parameters
    ----------
    initial
        Tier of each token of the prompt.
    changes
        Step, token, tier before (`tiers` for a birth) and tier after of each event, in the order of steps.
    """
    step, token, before, after = changes
    table, nowhere = np.zeros((len(life.outputs) + 2, tiers + 1), np.int64), tiers
    number = np.ones(len(life.born), np.int64)
    number[: life.chunks.size] = life.chunks * life.size
    final = np.full(len(life.born), nowhere)
    final[: life.past[0]] = np.where(life.end[: life.past[0]] < 0, nowhere, initial)
    np.add.at(table[0], final[: life.past[0]], number[: life.past[0]])
    lasting = life.end[token] > step
    step, token, before, after = (each[lasting] for each in (step, token, before, after))
    np.add.at(table, (step + 1, after), number[token])
    np.subtract.at(table, (step + 1, before), number[token])
    final[token] = after  # of several changes the last one stays
    leaving = np.flatnonzero((life.end < len(life.outputs)) & (final != nowhere))
    np.subtract.at(table, (life.end[leaving] + 1, final[leaving]), number[leaving])
    return np.cumsum(table, axis=0)[: len(life.outputs), :tiers]
