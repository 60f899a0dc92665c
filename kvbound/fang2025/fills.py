"""Initial fills of the pool, which cost nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kvbound.fang2025 import bits
from kvbound.fang2025.pool import Pool
from kvbound.fang2025.slots import slots

if TYPE_CHECKING:
    from kvbound.trace import Trace

PAGE = 16
"""Tokens of a page."""

_ALL_BUT_LAST = np.uint16(0x7FFF)


def prefill_first(pool: Pool, trace: Trace) -> None:
    """Fill with prompt tokens in order, all layers of a token before the next, until one does not fit."""
    layers, width = pool.words.shape
    for layer in range(layers):
        tokens = min(prefix(layer, layers, pool.free), trace.prefill_tokens)
        pool.words[layer] = bits.below(tokens, width)
    pool.used = bits.count(pool.words)


def prefix(layer: int, layers: int, usable: int) -> int:
    """Return how many tokens of `layer` are among the first `usable` items in token-major order."""
    return max(-(-(usable - layer) // layers), 0)


def by_first_read(pool: Pool, trace: Trace) -> None:
    """Fill with the items that the trace reads, in this order, with ids up to that of the first new token."""
    known = bits.below(trace.prefill_tokens + 1, pool.words.shape[1])
    for slot in slots(trace):
        if pool.free == 0:
            return
        held = pool.words[slot.layer]
        fresh = slot.now & known & ~held
        fresh = bits.first(fresh, pool.free, slot.listed())
        held |= fresh
        pool.used += bits.count(fresh)


def by_page(pool: Pool, trace: Trace) -> None:
    """Fill with whole pages of the prompt, each without its last token, while a whole page would fit."""
    layers = len(pool.words)
    whole, held = PAGE * layers, (PAGE - 1) * layers
    fitting = (pool.room - whole) // held + 1 if pool.room >= whole else 0
    pages = min(fitting, trace.prefill_tokens // PAGE)
    pool.words.view(np.uint16)[:, :pages] = _ALL_BUT_LAST
    pool.used = held * pages
