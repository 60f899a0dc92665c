"""Pack lists of token ids into rows of bits, and keep the order of lists that are not ascending."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kvbound.errors import InputError
from kvbound.trace import bits
from kvbound.trace.timeline import MAX_TOKENS, Timeline

MAX_LAYERS: Final = 4096
MAX_SLOTS: Final = 2**24
MAX_ITEMS: Final = 2**27
_FREE: Final = 2**28
_PER_READ, _PER_ITEM = 256, 32
"""Bytes that packed rows may take in any case, and further ones per read; bytes that an item takes."""


def too_large(layers: int, tokens: int, steps: int) -> str | None:
    """Return the violated limit, in words, of a shape too large for arrays over slots or items, else None."""
    for what, found, most in (
        ("tokens in all", tokens, MAX_TOKENS),
        ("steps times layers", steps * layers, MAX_SLOTS),
        ("tokens times layers", tokens * layers, MAX_ITEMS),
    ):
        if found > most:
            return f"at most {most:,} {what}, not {found:,}"
    return None


@dataclass(frozen=True, eq=False)
class Order:
    """The ids of one layer's lists in their recorded order.

    Parameters
    ----------
    ids
        All lists, concatenated, int32 (reads,).
    offsets
        Where each step's list begins, int64 (steps + 1,).
    """

    ids: NDArray[np.int32]
    offsets: NDArray[np.int64]


class RowBuilder:
    """Packed rows, filled list by list in any order of the slots.

    Parameters
    ----------
    timeline
        Births and ends; a step may read tokens that exist and tokens that are born in it.
    counts
        Length of every list, (steps, layers).
    file
        The lists' origin, for messages.
    folder
        Where to keep the arrays as .npy files, named as in a trace folder; without it they are in memory.
    """

    def __init__(
        self, timeline: Timeline, counts: NDArray[np.int64], file: object, folder: Path | None = None
    ) -> None:
        self.timeline, self.file, self._folder = timeline, file, folder
        steps, layers = counts.shape
        width = bits.row_bytes(timeline.tokens)
        self._refuse_large(layers, steps, width, int(counts.sum()))
        self._offsets = np.concatenate([np.zeros((1, layers), np.int64), np.cumsum(counts, axis=0)])
        self.rows = tuple(
            self._array(f"layer-{layer:03}", (steps, width), np.uint8) for layer in range(layers)
        )
        self.order: list[Order | None] = [None] * layers
        self._mask = np.zeros(8 * width, np.uint8)
        self._filled = np.zeros(counts.shape, np.bool_)

    def _refuse_large(self, layers: int, steps: int, width: int, reads: int) -> None:
        """Refuse a trace whose rows would fill memory or disk although its lists are almost empty."""
        tokens = self.timeline.tokens
        if excess := too_large(layers, tokens, steps):
            raise InputError(self.file, "", excess)
        needed, room = layers * steps * width, _FREE + _PER_READ * reads
        if self._folder is None:
            needed += _PER_ITEM * layers * tokens
        else:
            room = min(room, shutil.disk_usage(self._folder).free)  # a memory map on a full disk is fatal
        if needed > room:
            shape = f"{layers:,} layers, {steps:,} steps and {tokens:,} tokens with {reads:,} reads"
            raise InputError(self.file, "", f"a trace of at most {room:,} bytes; {shape} take {needed:,}")

    @property
    def layers(self) -> int:
        """Layers L."""
        return len(self.rows)

    def add(self, step: int, layer: int, ids: NDArray[np.int64], field: str) -> None:
        """Set one slot's list, (reads,).

        Raises
        ------
        InputError
            An id is repeated, negative, from the future or of a token that has ended; the message names
            `field`.
        """
        end = int(self.timeline.past[step + 1])
        if len(ids) and (ids.min() < 0 or ids.max() >= end):
            wrong = int(ids.min()) if ids.min() < 0 else int(ids.max())
            raise InputError(self.file, field, f"token ids from 0 to {end - 1}, not {wrong}")
        if len(ended := ids[self.timeline.ends[ids] < step]):
            last = int(self.timeline.ends[ended[0]])
            raise InputError(self.file, field, f"no read of token {ended[0]} after step {last}, its last")
        self._mask[ids] = 1
        row = bits.pack(self._mask)
        distinct = int(self._mask.sum(dtype=np.int64))
        self._mask[ids] = 0
        if distinct != len(ids):
            raise InputError(self.file, field, "every token id once, but one occurs twice")
        if not bool(np.all(ids[1:] > ids[:-1])) and self.order[layer] is None:
            self._keep_order(layer)
        self.rows[layer][step] = row
        self._filled[step, layer] = True
        order = self.order[layer]
        if order is not None:
            order.ids[order.offsets[step] : order.offsets[step + 1]] = ids

    def _keep_order(self, layer: int) -> None:
        offsets = self._array(f"offsets-{layer:03}", (len(self._offsets),), np.int64)
        offsets[:] = self._offsets[:, layer]
        ids = self._array(f"order-{layer:03}", (int(offsets[-1]),), np.int32)
        for step in np.flatnonzero(self._filled[:, layer]):  # earlier lists were ascending
            ids[offsets[step] : offsets[step + 1]] = bits.ids(self.rows[layer][step])
        self.order[layer] = Order(ids, offsets)

    def _array(self, name: str, shape: tuple[int, ...], dtype: type) -> NDArray[Any]:
        if self._folder is None or 0 in shape:
            array: NDArray[Any] = np.zeros(shape, dtype)
            if self._folder is not None:
                np.save(self._folder / f"{name}.npy", array, allow_pickle=False)
            return array
        mapped: NDArray[Any] = np.lib.format.open_memmap(self._folder / f"{name}.npy", "w+", dtype, shape)
        return mapped


def as_ids(
    values: object, file: object, field: str, what: str = "token ids", limit: int = MAX_TOKENS
) -> NDArray[np.int64]:
    """Return a sequence of integers as an array of token ids, or what else they are, (reads,).

    Raises
    ------
    InputError
        It is not a flat list of integers of at most 64 bits; booleans do not count as integers.
    """
    expected = f"a list of {what}"
    if isinstance(values, np.ndarray):
        array = values
    elif isinstance(values, Sequence) and not isinstance(values, (str, bytes)):
        if not all(
            issubclass(kind, (int, np.integer)) and kind is not bool for kind in set(map(type, values))
        ):
            raise InputError(file, field, f"{expected}, all of them integers")
        try:
            array = np.array(values, np.int64)
        except (OverflowError, ValueError):
            raise InputError(file, field, f"{expected} below {limit:,}") from None
    else:
        raise InputError(file, field, f"{expected}, not {type(values).__name__}")
    if array.ndim != 1 or (len(array) and array.dtype.kind not in "iu"):
        raise InputError(file, field, f"{expected}, all of them integers")
    return array.astype(np.int64)


def checked_prefill(tokens: object, file: object) -> int:
    """Return a number of prompt tokens; raise an InputError if it is none."""
    if isinstance(tokens, bool) or not isinstance(tokens, (int, np.integer)):
        raise InputError(file, "prefill_tokens", f"an integer, not {tokens!r}")
    if not 0 <= tokens <= MAX_TOKENS:
        raise InputError(file, "prefill_tokens", f"0 to {MAX_TOKENS:,}, not {tokens}")
    return int(tokens)


def read_lists(
    prefill_tokens: int, reads: Sequence[Sequence[Any]], file: object
) -> list[list[NDArray[np.int64]]]:
    """Return lists of token ids, ``reads[step][layer]``, as arrays; raise an InputError if one is missing."""
    checked_prefill(prefill_tokens, file)
    if not isinstance(reads, (Sequence, np.ndarray)) or len(reads) == 0:
        raise InputError(file, "reads", "a list of steps, at least one")
    lists = []
    for step, row in enumerate(reads):
        if not isinstance(row, (Sequence, np.ndarray)) or isinstance(row, str) or len(row) == 0:
            raise InputError(file, f"reads[{step}]", "a list of layers, at least one")
        if len(row) != len(reads[0]) or len(row) > MAX_LAYERS:
            raise InputError(
                file, f"reads[{step}]", f"{len(reads[0])} layers as in the first step, not {len(row)}"
            )
        lists.append([as_ids(ids, file, f"reads[{step}][{layer}]") for layer, ids in enumerate(row)])
    return lists


def layer_mass(
    lists: list[list[NDArray[np.int64]]], mass: Sequence[Sequence[Any]], layer: int, file: object
) -> NDArray[np.float16]:
    """Return the attention mass of a layer's lists, (reads,); raise an InputError if it does not fit them."""
    most = float(np.finfo(np.float16).max)
    parts = []
    for step, row in enumerate(lists):
        try:
            part = np.asarray(mass[step][layer], np.float64)
        except (LookupError, TypeError, ValueError):
            part = np.full(1, np.nan)
        if part.shape != row[layer].shape or not bool(np.all((part >= 0) & (part <= most))):
            raise InputError(file, f"mass[{step}][{layer}]", f"one number from 0 to {most:g} per read")
        parts.append(part.astype(np.float16))
    return np.concatenate(parts)
