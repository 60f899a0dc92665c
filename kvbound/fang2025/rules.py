"""The study's rules for a slot: the placement of its new token, and the migration after it.

A placement returns whether the new token is in HBM (beta). A migration returns the number of items that it
wrote to HBM, and of those that it read from external memory for that (hMW and eMR in items).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from kvbound.errors import InfeasibleError
from kvbound.fang2025 import bits
from kvbound.fang2025.fills import PAGE
from kvbound.fang2025.pool import Pool
from kvbound.fang2025.setting import Setting
from kvbound.fang2025.slots import Slot

Place: TypeAlias = Callable[[Pool, Slot], bool]
Migrate: TypeAlias = Callable[[Pool, Slot], tuple[int, int]]


def place_if_it_fits(pool: Pool, slot: Slot) -> bool:
    """Add the new token if it fits."""
    return pool.add(slot.layer, slot.token)


def place_with_page(pool: Pool, slot: Slot) -> bool:
    """Add a page's first token if a whole page fits in all layers; others follow their page's first."""
    within = slot.token % PAGE
    if within == 0:
        opened = pool.room - pool.used >= PAGE * len(pool.words)
    else:
        opened = bits.has(pool.words[slot.layer], slot.token - within)
    return opened and pool.add(slot.layer, slot.token)


def place_if_read_next(pool: Pool, slot: Slot) -> bool:
    """Add the new token if the next step reads it; if needed, evict the lowest older id that it does not."""
    coming = slot.coming
    if not bits.has(coming, slot.token):
        return False
    if not pool.add(slot.layer, slot.token):
        victim = bits.lowest(pool.words[slot.layer] & ~coming)
        if victim is None or victim >= slot.token:
            return False
        pool.remove(slot.layer, victim)
        pool.add(slot.layer, slot.token)
    return True


def stay(pool: Pool, slot: Slot) -> tuple[int, int]:
    """Move nothing."""
    return 0, 0


def bring_misses(pool: Pool, slot: Slot) -> tuple[int, int]:
    """Add every miss in list order; whenever one does not fit, evict all older tokens of the layer.

    In the end only the misses after the last eviction remain, and the new token, which is never evicted. The
    evictions are therefore only counted, not carried out.

    Raises
    ------
    InfeasibleError
        A miss does not fit and there is no older token to evict; the study's code does not terminate then.
    """
    held, listed = pool.words[slot.layer], slot.listed()
    misses = slot.now & ~held
    total = bits.count(misses)
    if total <= pool.free:
        held |= misses
        pool.used += total
        return total, 0
    older = held & bits.below(slot.token, held.size)
    rest = pool.used - bits.count(older)  # items left by the layer's evictions
    own = bits.rank(misses, slot.token, listed) if bits.has(misses, slot.token) else total
    kept, end = 0, pool.free
    while end < total:
        room = pool.room - 1 - rest - (own < end)
        if room <= 0:
            raise InfeasibleError(
                f"reactive never ends: at token {slot.token}, layer {slot.layer}, HBM is full "
                "and the layer holds no older token to evict"
            )
        kept, end = end, end + room
    last = misses & ~bits.first(misses, kept, listed)
    held &= ~older
    held |= last
    pool.used = rest + bits.count(last)
    if own < kept:
        pool.add(slot.layer, slot.token)
    return total, 0


def balance_next(setting: Setting) -> Migrate:
    """Return the migration that brings the next step up to alpha*, by reads that both steps share."""
    cap, size = setting.alpha_cap, setting.item_bytes

    def migrate(pool: Pool, slot: Slot) -> tuple[int, int]:
        held, now, coming = pool.words[slot.layer], slot.now, slot.coming
        hits, weights = bits.count(held & coming), setting.weight_reads[slot.layer]
        wanted = int((cap * (weights + bits.count(coming) * size) - weights) / size) - hits
        wanted = min(wanted, hits)
        if wanted <= 0:
            return 0, 0
        candidates = now & coming & ~held
        taken = min(wanted, bits.count(candidates))
        if not taken:
            return 0, 0
        victims = held & now & ~coming
        _exchange(pool, slot, candidates, victims, taken)
        return taken, 0

    return migrate


def _exchange(pool: Pool, slot: Slot, candidates: bits.Words, victims: bits.Words, taken: int) -> None:
    """Add the first `taken` candidates, as far as there is room or there are victims to evict."""
    added = min(taken, pool.free + bits.count(victims))
    evicted = max(added - pool.free, 0)
    held, listed = pool.words[slot.layer], slot.listed()
    held &= ~bits.first(victims, evicted, listed)
    held |= bits.first(candidates, added, listed)
    pool.used += added - evicted


def bring_soon(window: int, topk: float) -> Migrate:
    """Return the migration that adds a share `topk` of the misses that the next `window` steps read again.

    Tokens count more the sooner and the more often they are read.
    """

    def migrate(pool: Pool, slot: Slot) -> tuple[int, int]:
        held = pool.words[slot.layer]
        ahead = slot.rows[slot.step + 1 : slot.step + 1 + window]
        soon = np.bitwise_or.reduce(ahead, axis=0) & bits.below(slot.token + 1, held.size)
        ids = bits.members(slot.now & soon & ~held)
        if not ids.size:
            return 0, 0
        score = np.zeros(ids.size)
        for offset, row in enumerate(ahead, 1):
            score += bits.among(row, ids) / offset
        victims = held & ~soon
        added = min(math.ceil(topk * ids.size), pool.free + bits.count(victims))
        evicted = max(added - pool.free, 0)
        chosen = ids[np.argsort(-score, kind="stable")[:added]]  # equal scores: the lower id
        held &= ~bits.first(victims, evicted, None)
        held |= bits.packed(chosen, held.size)
        pool.used += added - evicted
        return added, 0

    return migrate
