"""Validate one layer's arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kvbound.errors import InputError
from kvbound.trace import bits
from kvbound.trace.build import Order

_BLOCK_IDS = 1 << 22


def check_layer(
    path: Path,
    layer: int,
    prefill_tokens: int,
    rows: NDArray[np.uint8],
    order: Order | None,
    mass: NDArray[np.float16] | None,
) -> None:
    """Check one layer of a trace folder.

    Raises
    ------
    InputError
        A row reads future tokens, or the lists or masses do not agree with the rows.
    """
    file = path / f"layer-{layer:03}.npy"
    step = bits.first_beyond(rows, prefill_tokens + 1)
    if step is not None:
        raise InputError(
            file, f"step {step}", f"no read beyond token {prefill_tokens + step}, the step's own"
        )
    if order is None and mass is None:
        return
    counts = bits.count(rows)
    if order is not None:
        _check_order(path / f"order-{layer:03}.npy", prefill_tokens, rows, order, counts)
    if mass is not None:
        name = path / f"mass-{layer:03}.npy"
        if len(mass) != counts.sum():
            raise InputError(name, "", f"one value for each of {counts.sum():,} reads, not {len(mass):,}")
        for block in bits.blocks(len(mass), _BLOCK_IDS):
            if not bool(np.all((mass[block] >= 0) & np.isfinite(mass[block]))):
                raise InputError(name, "", "finite values >= 0 and no NaN")


def _check_order(
    file: Path, prefill_tokens: int, rows: NDArray[np.uint8], order: Order, counts: NDArray[np.int64]
) -> None:
    offsets = np.concatenate([[0], np.cumsum(counts)])
    if not np.array_equal(order.offsets, offsets) or len(order.ids) != offsets[-1]:
        raise InputError(file, "", "as many ids in every list as the rows have reads")
    width = 8 * rows.shape[1]
    for step in range(len(rows)):
        ids = order.ids[offsets[step] : offsets[step + 1]]
        mask = np.zeros(width, np.uint8)
        if len(ids) and ids.min() >= 0 and ids.max() <= prefill_tokens + step:
            mask[ids] = 1
        if not np.array_equal(bits.pack(mask), rows[step]):
            raise InputError(file, f"step {step}", "the ids of the rows, each once")
