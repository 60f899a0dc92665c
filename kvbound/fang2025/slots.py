"""The view of one slot that a rule sees."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvbound.fang2025.bits import Listed, Words

if TYPE_CHECKING:
    from kvbound.trace import Order, Trace


class Slot(NamedTuple):
    """One layer within one step."""

    step: int
    layer: int
    token: int
    """n, the id of the token this step produces."""
    rows: NDArray[np.uint64]
    """The layer's reads ``(steps, words)``."""
    order: Order | None

    @property
    def now(self) -> Words:
        """Ids read in this step."""
        return self.rows[self.step]

    @property
    def coming(self) -> Words:
        """Ids read in the next step; empty after the last one."""
        if self.step + 1 < len(self.rows):
            return self.rows[self.step + 1]
        return np.zeros(self.rows.shape[1], np.uint64)

    def listed(self, ahead: int = 0) -> Listed:
        """Return the reads `ahead` steps from now in list order, None if they ascend."""
        if self.order is None:
            return None
        start, stop = self.order.offsets[self.step + ahead : self.step + ahead + 2]
        return self.order.ids[start:stop]


def slots(trace: Trace) -> Iterator[Slot]:
    """Yield all slots: step by step, and the layers of a step in order."""
    rows = [np.asarray(trace.words(layer)) for layer in range(trace.layers)]
    for step in range(trace.decode_steps):
        for layer in range(trace.layers):
            yield Slot(step, layer, trace.prefill_tokens + step, rows[layer], trace.order[layer])
