"""The joint states before and after slots that are timed together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvbound.solvers.reference.changes import Slot

Ints = NDArray[np.int64]


class Passage:
    """The joint states before a period, of slots that are timed together, and those after it.

    Each layer of the period has three axes: its state before, that of blocks that end in the step of their
    birth, and its state after; any other layer has one.
    """

    def __init__(self, value: NDArray[Any], period: list[Slot], tiers: int) -> None:
        self.period = period
        self._layers = {slot.layer: n for n, slot in enumerate(period)}
        self._sizes = [
            (count, tiers ** len(period[n].passing), tiers ** len(period[n].after))
            if (n := self._layers.get(layer)) is not None
            else (count,)
            for layer, count in enumerate(value.shape)
        ]
        self._value = np.broadcast_to(
            self._spread(value, lambda n: 0), [size for sizes in self._sizes for size in sizes]
        ).copy()

    def _spread(self, array: NDArray[Any], axis: Callable[[int], int]) -> NDArray[Any]:
        """Give an array of joint states the axes of the period: 0 or 2 is that of each slot's layer."""
        shape: list[int] = []
        for layer, count in enumerate(array.shape):
            n = self._layers.get(layer)
            shape += [count] if n is None else [count if at == axis(n) else 1 for at in range(3)]
        return array.reshape(shape)

    def add(self, seconds: NDArray[Any]) -> None:
        """Add what the changes of state take, one axis for those of each slot of the period."""
        shape: list[int] = []
        for layer, sizes in enumerate(self._sizes):
            shape += sizes if layer in self._layers else [1]
        self._value = self._value + seconds.reshape(shape)  # of any type of numbers

    def allow(self, fits: NDArray[np.bool_], done: int) -> None:
        """Forbid the states that do not fit once some slots of the period are over."""
        mask = self._spread(fits, lambda n: 2 if n < done else 0)
        np.putmask(self._value, ~np.broadcast_to(mask, self._value.shape), np.inf)

    def least(self) -> NDArray[Any]:
        """Return the least time by state after the period."""
        kept, left = list[int](), list[int]()
        for layer, sizes in enumerate(self._sizes):
            first = len(kept) + len(left)
            left += [first, first + 1] if layer in self._layers else []
            kept.append(first + len(sizes) - 1)
        through = self._value.transpose(kept + left)
        self._left = through.shape[len(kept) :]
        through = through.reshape(*through.shape[: len(kept)], -1)
        self._best = through.argmin(axis=-1)
        del self._value
        return through.min(axis=-1)

    def source(self, state: list[int]) -> tuple[list[int], list[int]]:
        """Return the state before, and by slot that of passing blocks, of the best way to a state."""
        found = [int(index) for index in np.unravel_index(self._best[tuple(state)], self._left)]
        before = list(state)
        for n, layer in enumerate(sorted(self._layers)):
            before[layer] = found[2 * n]
        return before, found[1::2]
