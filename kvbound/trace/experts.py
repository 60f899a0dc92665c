"""The experts that slots name: packed bits like those of the reads, one array per layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvbound.errors import InputError
from kvbound.fields import MAX_EXPERTS, show
from kvbound.trace import bits
from kvbound.trace.build import as_ids

Rows = NDArray[np.uint8]

WIDTHS = f"8 to {bits.row_bytes(MAX_EXPERTS)} bytes, a multiple of 8"
"""The widths of rows, in words."""


def is_width(width: int) -> bool:
    """Whether rows may have so many bytes."""
    return 0 < width <= bits.row_bytes(MAX_EXPERTS) and width % 8 == 0


def trimmed(rows: Rows) -> Rows:
    """Return packed rows, (steps, bytes), without words that no step has a bit in, but the first.

    The bytes, and with them the hash, then depend on nothing but the experts that are named.
    """
    width = bits.row_bytes(max(named_below(rows), 1))
    return rows if width == rows.shape[1] else np.ascontiguousarray(rows[:, :width])


def named_below(rows: Rows) -> int:
    """Return the least number above all experts that are named, 0 if there are none."""
    named = bits.ids(np.bitwise_or.reduce(rows, axis=0))
    return int(named[-1]) + 1 if len(named) else 0


def pack(named: NDArray[np.bool_]) -> Rows:
    """Pack a mask, (steps, experts), into rows, (steps, bytes)."""
    mask = np.zeros((len(named), 8 * bits.row_bytes(max(named.shape[1], 1))), np.bool_)
    mask[:, : named.shape[1]] = named
    return trimmed(bits.pack(mask))


def unpack(rows: Rows, experts: int) -> NDArray[np.bool_]:
    """Return which of so many experts each step names, (steps, experts)."""
    return bits.unpack(rows, experts).view(np.bool_)


def from_lists(named: object, steps: int, layers: int, file: object) -> tuple[Rows, ...]:
    """Pack lists of experts, ``named[step][layer]``.

    Raises
    ------
    InputError
        A list is missing, or an expert is negative, too large, repeated or not an integer.
    """

    def fail(field: str, expected: str, found: object) -> InputError:
        return InputError(file, field, f"{expected}, not {show(found)}")

    def listed(value: Any, count: int) -> bool:
        return isinstance(value, Sequence | np.ndarray) and not isinstance(value, str) and len(value) == count

    if not listed(named, steps):
        raise fail("experts", f"a list of {steps:,} steps, as many as reads", named)
    assert isinstance(named, Sequence | np.ndarray)
    lists: list[list[NDArray[np.int64]]] = [[] for _ in range(layers)]
    for step, row in enumerate(named):
        if not listed(row, layers):
            raise fail(f"experts[{step}]", f"a list of {layers:,} layers, as many as reads", row)
        for layer, ids in enumerate(row):
            field = f"experts[{step}][{layer}]"
            numbers = as_ids(ids, file, field, "experts", MAX_EXPERTS)
            if len(numbers) and not 0 <= numbers.min() <= numbers.max() < MAX_EXPERTS:
                wrong = numbers[(numbers < 0) | (numbers >= MAX_EXPERTS)][0]
                raise fail(field, f"experts from 0 to {MAX_EXPERTS - 1:,}", int(wrong))
            if len(np.unique(numbers)) != len(numbers):
                raise InputError(file, field, "every expert once, but one occurs twice")
            lists[layer].append(numbers)
    made = []
    for own in lists:
        mask = np.zeros((steps, max(int(numbers.max(initial=0)) for numbers in own) + 1), np.bool_)
        for step, numbers in enumerate(own):
            mask[step, numbers] = True
        made.append(pack(mask))
    return tuple(made)


def union(sequences: Sequence[tuple[Rows, ...]], starts: Sequence[int], steps: int) -> tuple[Rows, ...]:
    """Return the experts that a batch names: in each step those of all its sequences.

    Parameters
    ----------
    sequences
        Rows of each sequence, by layer.
    starts
        First step of each sequence.
    """
    made = []
    for of_layer in zip(*sequences, strict=True):
        named = np.zeros((steps, max(rows.shape[1] for rows in of_layer)), np.uint8)
        for start, own in zip(starts, of_layer, strict=True):
            named[start : start + len(own), : own.shape[1]] |= own
        made.append(trimmed(named))
    return tuple(made)
