"""Initial fills of the pool, free of charge."""

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
    """Prompt tokens in order, all layers of a token before the next, until the first failure."""
    layers, width = pool.words.shape
    for layer in range(layers):
        tokens = min(prefix(layer, layers, pool.free), trace.prefill_tokens)
        pool.words[layer] = bits.below(tokens, width)
    pool.used = bits.count(pool.words)


def prefix(layer: int, layers: int, usable: int) -> int:
    """How many tokens of `layer` are among the first `usable` items in token-major order."""
    return max(-(-(usable - layer) // layers), 0)


def by_first_read(pool: Pool, trace: Trace) -> None:
    """Whatever the decode trace reads, in its order, until full; ids up to the first new token's."""
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
    """Full pages of the prompt without their last token, while a whole page would fit."""
    layers = len(pool.words)
    whole, held = PAGE * layers, (PAGE - 1) * layers
    fitting = (pool.room - whole) // held + 1 if pool.room >= whole else 0
    pages = min(fitting, trace.prefill_tokens // PAGE)
    pool.words.view(np.uint16)[:, :pages] = _ALL_BUT_LAST
    pool.used = held * pages
