"""Compiled twin of the page rule's migration, the only rule that processes single ids."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvbound.kernels import compiled


@compiled()
def _count(words: NDArray[np.uint16]) -> int:
    """Return the number of bits set in all words."""
    total = 0
    for word in words:
        rest = np.uint32(word)
        while rest:
            rest &= rest - np.uint32(1)
            total += 1
    return total


@compiled()
def _next_head(pages: NDArray[np.uint16], start: int) -> int:
    """As `kvbound.fang2025.pages._next_head`."""
    while start < pages.shape[1] and not pages[0, start] & 1:
        start += 1
    return start


@compiled()
def swap_pages(
    pages: NDArray[np.uint16],
    layer: int,
    wanted: NDArray[np.signedinteger],
    now: NDArray[np.uint64],
    used: int,
    room: int,
) -> tuple[int, int, int]:
    """As `kvbound.fang2025.pages.swap_pages`."""
    whole = 16 * pages.shape[0]
    most = room - whole
    brought = shared = 0
    oldest = _next_head(pages, 0)
    for token in wanted:
        page = token >> 4
        if (used > most and page <= oldest) or pages[layer, page] >> (token & 15) & 1:
            continue
        while used > most and oldest < page:
            used -= _count(pages[:, oldest])
            pages[:, oldest] = 0
            oldest = _next_head(pages, oldest)
        fresh = whole - _count(pages[:, page])
        if used > most or used + fresh == room:
            continue
        pages[:, page] = 0xFFFF
        used += fresh
        brought += 1
        oldest = min(oldest, page)
        shared += now[token >> 6] >> np.uint64(token & 63) & np.uint64(1)
    return used, brought, shared
