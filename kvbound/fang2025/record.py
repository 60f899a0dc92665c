"""Record every change of the pool, for replay by the checker."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvbound.fang2025 import bits
from kvbound.fang2025.accounting import Ints, Log
from kvbound.fang2025.pool import Pool
from kvbound.fang2025.slots import Slot


class Recorder:
    """Records the differences of the pool before and after each slot."""

    def __init__(self, pool: Pool) -> None:
        self._before = pool.words.copy()
        self._initial = _items(self._before)
        self._added: list[Ints] = []
        self._removed: list[Ints] = []

    def note(self, pool: Pool, slot: Slot, placed: bool) -> None:
        """Record the changes of a slot; `placed` is whether its new token went to HBM."""
        added = _items(pool.words & ~self._before)
        removed = _items(self._before & ~pool.words)
        absent = not bits.has(pool.words[slot.layer] | self._before[slot.layer], slot.token)
        if placed and absent:  # placed and evicted at once: no net change, but it explains beta
            own = np.array([slot.token * len(pool.words) + slot.layer])
            added, removed = (np.union1d(items, own) for items in (added, removed))
        self._added.append(added)
        self._removed.append(removed)
        self._before[:] = pool.words

    def log(self) -> Log:
        """Return the recorded changes."""
        return Log(self._initial, *_flat(self._added), *_flat(self._removed))


def _items(words: bits.Words) -> Ints:
    """Return the items of a pool's sets, token-major."""
    flags: NDArray[np.uint8] = np.unpackbits(words.view(np.uint8), axis=1, bitorder="little")
    return np.flatnonzero(flags.T)


def _flat(slots: list[Ints]) -> tuple[Ints, Ints]:
    """Return the slot of each item, and the items, from one list per slot."""
    sizes = [items.size for items in slots]
    return np.repeat(np.arange(len(slots)), sizes), np.concatenate(slots) if slots else np.empty(0, np.int64)
