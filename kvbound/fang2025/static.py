"""The two policies without migration in closed form: static, and best, which differs from it in alpha only.

Both fill HBM in token-major order with prompt and new tokens, and evict nothing: item (layer, token) is in
HBM, from its birth on, if and only if token * layers + layer < M - 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kvbound.errors import InputError
from kvbound.fang2025.accounting import Ints, Run, alpha, ideal_alpha, slot_times
from kvbound.fang2025.fills import prefix
from kvbound.fang2025.setting import Setting
from kvbound.progress import Progress, silent
from kvbound.trace import bits

if TYPE_CHECKING:
    from kvbound.trace import Trace


def static(setting: Setting, trace: Trace, progress: Progress | None = None) -> Run:
    """Run the static policy layer by layer, in one pass over each layer's bits."""
    report = progress or silent
    shape = (trace.decode_steps, trace.layers)
    reads, hits = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for layer in range(trace.layers):
        held = prefix(layer, trace.layers, setting.usable)
        rows = np.asarray(trace.words(layer))
        reads[:, layer], hits[:, layer] = _count(rows, held, trace.prefill_tokens)
        report(layer + 1, trace.layers, "static")
    beta = _beta(setting, trace.prefill_tokens, shape)
    none = np.zeros(shape, np.int64)
    share = alpha(setting, reads, hits)
    times = slot_times(setting, reads, share, beta, none, none)
    peak = _peak(setting, trace.prefill_tokens, shape)
    return Run("static", reads, hits, beta, none, none, share, times, peak)


def best(setting: Setting, prefill_tokens: int, reads: Ints) -> Run:
    """Return the study's ideal, from the read counts alone.

    Parameters
    ----------
    setting
        Model and hardware.
    prefill_tokens
        Prompt tokens.
    reads
        Reads of each slot ``(steps, layers)``, own-token reads included.

    Raises
    ------
    InputError
        `reads` has another number of layers than the setting.
    """
    check_layers(setting, reads.shape[1])
    beta = _beta(setting, prefill_tokens, reads.shape)
    none = np.zeros(reads.shape, np.int64)
    share = ideal_alpha(setting, reads)
    times = slot_times(setting, reads, share, beta, none, none)
    peak = _peak(setting, prefill_tokens, reads.shape)
    return Run("best", reads, None, beta, none, none, share, times, peak)


def check_layers(setting: Setting, layers: int) -> None:
    """Raise an InputError if trace and model differ in their number of layers."""
    if layers != setting.layers:
        raise InputError(setting.name, "trace", f"{setting.layers} layers as in the model, not {layers}")


def _beta(setting: Setting, prefill_tokens: int, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    items = prefill_tokens * shape[1] + np.arange(shape[0] * shape[1]).reshape(shape)
    return items < setting.usable


def _peak(setting: Setting, prefill_tokens: int, shape: tuple[int, ...]) -> int:
    return min((prefill_tokens + shape[0]) * shape[1], setting.usable)


def _count(rows: NDArray[np.uint64], held: int, first: int) -> tuple[Ints, Ints]:
    """Return reads and hits of each row if the first `held` tokens are in HBM once they exist.

    Row j's own token `first` + j is not a hit, as it is placed after the reads.
    """
    steps, width = rows.shape
    whole, rest = divmod(min(held, 64 * width), 64)
    reads, hits = np.empty(steps, np.int64), np.empty(steps, np.int64)
    for block in bits.blocks(steps):
        near, far = (np.bitwise_count(part) for part in (rows[block, :whole], rows[block, whole:]))
        hits[block] = _sum(near)
        reads[block] = hits[block] + _sum(far)
    if rest:
        hits += np.bitwise_count(rows[:, whole] & np.uint64((1 << rest) - 1))
    own = first + np.arange(steps)
    hits -= bits.count_within(rows.view(np.uint8), own, own + 1) * (own < held)
    return reads, hits


def _sum(counts: NDArray[np.uint8]) -> Ints:
    """Return the row sums of numbers up to 64, three columns at a time, whose sums fit a byte."""
    third = counts.shape[1] // 3
    folded = counts[:, :third] + counts[:, third : 2 * third] + counts[:, 2 * third : 3 * third]
    return folded.sum(axis=1, dtype=np.int64) + counts[:, 3 * third :].sum(axis=1, dtype=np.int64)
