"""Validate one layer's arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kvbound.errors import InputError
from kvbound.trace import bits
from kvbound.trace.build import Order
from kvbound.trace.timeline import Timeline

_BLOCK_IDS = 1 << 22


def check_layer(
    path: Path,
    layer: int,
    timeline: Timeline,
    rows: NDArray[np.uint8],
    order: Order | None,
    mass: NDArray[np.float16] | None,
) -> None:
    """Check one layer of a trace folder.

    Raises
    ------
    InputError
        A row reads tokens of the future or tokens that have ended, or the lists or masses do not agree with
        the rows.
    """
    file = path / f"layer-{layer:03}.npy"
    if wrong := wrong_read(timeline, rows):
        step, expected = wrong
        raise InputError(file, f"step {step}", expected)
    if order is None and mass is None:
        return
    counts = bits.count(rows)
    if order is not None:
        _check_order(path / f"order-{layer:03}.npy", rows, order, counts)
    if mass is not None:
        name = path / f"mass-{layer:03}.npy"
        if len(mass) != counts.sum():
            raise InputError(name, "", f"one value for each of {counts.sum():,} reads, not {len(mass):,}")
        for block in bits.blocks(len(mass), _BLOCK_IDS):
            if not bool(np.all((mass[block] >= 0) & np.isfinite(mass[block]))):
                raise InputError(name, "", "finite values >= 0 and no NaN")


def wrong_read(timeline: Timeline, rows: NDArray[np.uint8]) -> tuple[int, str] | None:
    """Return the first step that reads a token which does not exist, and what was expected, or None."""
    step = bits.first_beyond(rows, timeline.past[1:])
    if step is not None:
        return step, f"no read beyond token {timeline.past[step + 1] - 1}, the last that exists"
    if timeline.all_stay:
        return None
    ended = np.zeros(8 * rows.shape[1], np.bool_)
    ended[: timeline.tokens] = timeline.ends < 0
    packed = bits.pack(ended)
    for step, row in enumerate(rows):
        if len(wrong := bits.ids(row & packed)):
            return step, no_read_of(timeline, int(wrong[0]))
        if len(now := timeline.ending(step)):
            ended[now] = True
            packed = bits.pack(ended)
    return None


def no_read_of(timeline: Timeline, token: int) -> str:
    """Return what is expected where a token that has ended is read."""
    last = int(timeline.ends[token])
    since = f"after step {last}, its last" if last >= 0 else "which leaves before the first step"
    return f"no read of token {token} {since}"


def _check_order(file: Path, rows: NDArray[np.uint8], order: Order, counts: NDArray[np.int64]) -> None:
    offsets = np.concatenate([[0], np.cumsum(counts)])
    if not np.array_equal(order.offsets, offsets) or len(order.ids) != offsets[-1]:
        raise InputError(file, "", "as many ids in every list as the rows have reads")
    width = 8 * rows.shape[1]
    for step in range(len(rows)):
        ids = order.ids[offsets[step] : offsets[step + 1]]
        mask = np.zeros(width, np.uint8)
        if len(ids) and ids.min() >= 0 and ids.max() < width:
            mask[ids] = 1
        if not np.array_equal(bits.pack(mask), rows[step]):
            raise InputError(file, f"step {step}", "the ids of the rows, each once")
