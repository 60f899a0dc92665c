"""Migration of the page rule: whole pages of 16 tokens, in all layers at once."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from kvbound.fang2025 import bits
from kvbound.fang2025.fills import PAGE
from kvbound.fang2025.pool import Pool
from kvbound.fang2025.rules import Migrate
from kvbound.fang2025.slots import Slot
from kvbound.kernels import Kernel

Pages: TypeAlias = NDArray[np.uint16]

_WHOLE = np.uint16(0xFFFF)


def bring_pages(kernel: Kernel) -> Migrate:
    """Return the migration that brings in the page of every id that the next step reads and HBM lacks."""
    bring = swap_pages
    if kernel == "numba":
        from kvbound.fang2025.pages_numba import swap_pages as bring

    def migrate(pool: Pool, slot: Slot) -> tuple[int, int]:
        held = pool.words[slot.layer]
        wanted = slot.listed(ahead=1) if slot.step + 1 < len(slot.rows) else None
        if wanted is None:
            # only pages older than the new one are evicted, so that ascending ids cause no new misses
            wanted = bits.members(slot.coming & ~held)
        if not wanted.size:
            return 0, 0
        pages = pool.words.view(np.uint16)
        pool.used, brought, shared = bring(pages, slot.layer, wanted, slot.now, pool.used, pool.room)
        items = PAGE * len(pool.words)
        return int(brought) * items, int(shared) * items

    return migrate


def swap_pages(
    pages: Pages, layer: int, wanted: NDArray[np.signedinteger], now: bits.Words, used: int, room: int
) -> tuple[int, int, int]:
    """Bring in the page of each wanted id that is not resident; twin of the compiled kernel.

    Parameters
    ----------
    pages
        One 16-bit word per layer and page ``(layers, pages)``, changed in place.
    layer
        The layer whose reads are `wanted`.
    wanted
        Ids in list order.
    now
        Ids read in the current step, packed.
    used, room
        Items in the pool, and M.

    Returns
    -------
    tuple
        Items in the pool, pages brought in, and those of them brought in for an id that is also read now.
    """
    whole = PAGE * len(pages)
    most = room - whole  # a page is added only if at most this many items are used
    brought = shared = 0
    oldest = _next_head(pages, 0)
    for token in wanted.tolist():
        page = token // PAGE
        if (used > most and page <= oldest) or int(pages[layer, page]) >> token % PAGE & 1:
            continue
        while used > most and oldest < page:
            used -= bits.count(pages[:, oldest])
            pages[:, oldest] = 0
            oldest = _next_head(pages, oldest)
        fresh = whole - bits.count(pages[:, page])
        if used > most or used + fresh == room:  # the last of `fresh` adds would fail, and all are undone
            continue
        pages[:, page] = _WHOLE
        used += fresh
        brought += 1
        oldest = min(oldest, page)
        shared += bits.has(now, token)
    return used, brought, shared


def _next_head(pages: Pages, start: int) -> int:
    """Return the first page from `start` on whose first token is resident in layer 0: the next victim."""
    heads = pages[0, start:] & 1
    where = int(heads.argmax())
    return start + where if heads[where] else pages.shape[1]
