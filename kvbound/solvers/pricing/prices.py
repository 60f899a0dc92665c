"""Augmented-Lagrangian prices: the dual's multipliers, moved by the loads of the paths taken so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvbound.arithmetic import power
from kvbound.instance import Instance
from kvbound.kernels import Kernel
from kvbound.solvers.lagrangian.ascent import Multipliers, first_logits
from kvbound.solvers.lagrangian.parameters import softmax
from kvbound.solvers.lagrangian.slots.minorants import SlotMinorants
from kvbound.solvers.lagrangian.subproblem import limited_tiers
from kvbound.solvers.pricing.responses.interface import Loads

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_CHUNK = 256
"""Steps priced at a time: their data stays in a cache."""
_PENALTY = 0.3, 0.02
"""How far loads move a slot's row weights, per slow read too many, and the price of capacity, in slow reads
per step and block too many; at one read and one block, and falling with the square root of their number, as
random fluctuations do."""
_SPARE = 1 / 3
"""Blocks of room left free where it is settled which slots wait, per square root of the blocks that fit: as
many as paths hold too many at some time. A block that finds no room would make a slot wait that need not."""
_FINAL_PENALTY = 0.1
"""Share of the penalties that is left at the end: they fade over the second half of the sweeps. With all of
them, prices would never settle where capacity is cheap."""
_UPDATE = 0.5, 1.0
"""Shares of these moves that an update leaves in the row weights and in the prices of capacity."""


class Prices:
    """The dual's multipliers, and the prices at given loads.

    Parameters
    ----------
    each
        Maps a function over chunks of steps, as `map` does.
    serving
        See `SlotMinorants.of`; the weights of the multipliers then do not count.
    """

    def __init__(
        self,
        instance: Instance,
        multipliers: Multipliers,
        kernel: Kernel,
        each: Callable[..., Iterable[Any]],
        serving: Bools | None = None,
    ) -> None:
        self.instance, self.kernel, self.each = instance, kernel, each
        self.minorants = SlotMinorants.of(instance, serving=serving)
        self.reads = instance.timed(instance.read_counts() * instance.timed_units)
        self.limited = limited_tiers(instance)
        self.capacity_units = np.array(
            [instance.capacity_units[k] for k in self.limited], np.float64
        )[:, None]  # fmt: skip
        settled = serving is not None
        self.weights = softmax(first_logits(self.minorants)) if settled else multipliers.weights.copy()
        self.capacity_prices = multipliers.capacity[self.limited]
        self.unit_s = float(self.minorants.beta.max())
        self.prices = np.empty((3 * instance.tiers, instance.decode_steps, instance.layers))
        units = int(instance.units.max())  # of the largest blocks
        if settled:
            self.capacity_units -= _SPARE * np.sqrt(self.capacity_units * units)
        block_s = self.unit_s * instance.granularity / instance.layers
        self.penalty = self.first_penalty = (
            _PENALTY[0] / math.sqrt(max(float(self.reads.mean()), 1.0)),
            _PENALTY[1] / np.sqrt(np.maximum(self.capacity_units / units, 1)) * block_s / units**2,
        )
        chunks = [slice(n, n + _CHUNK) for n in range(0, instance.decode_steps, _CHUNK)]
        self.chunks = [(chunk, self.minorants.part(chunk)) for chunk in chunks]

    def at(self, loads: Loads) -> tuple[Floats, Floats]:
        """Return the prices of counts (3K, steps, layers) and of capacity (K, 1 + slots) at given loads.

        The next call overwrites the arrays of this one.
        """
        compiled = self.kernel != "numpy" and not self.instance.by_step
        price = self._price_compiled if compiled else self._price
        list(self.each(price, repeat(loads), *zip(*self.chunks, strict=True)))
        return self.prices, self._by_tier(self._moved_capacity_prices(loads, 1.0))

    def _price(self, loads: Loads, chunk: slice, minorants: SlotMinorants) -> None:
        self.prices[:, chunk] = minorants.prices(self._moved_weights(loads, chunk, minorants, 1.0))

    def _price_compiled(self, loads: Loads, chunk: slice, _: SlotMinorants) -> None:
        from kvbound.solvers.pricing.prices_numba import price_at_loads

        rows, penalty = self.minorants, self.penalty[0] / self.unit_s
        used = loads.used(chunk), self._missing(loads, chunk)
        price_at_loads(
            rows.alpha, rows.beta, rows.sizes, rows.counted, rows.chord, rows.others, *used, penalty,
            self.weights, self.prices, chunk.start,
        )  # fmt: skip
        if rows.closed is not None:
            self.prices[:, chunk] += rows.closed[:, chunk]

    def multipliers(self) -> Multipliers:
        """Return the multipliers as updated so far."""
        return Multipliers(self.weights, self._by_tier(self.capacity_prices))

    def update(self, loads: Loads, done: float) -> None:
        """Move the multipliers themselves by the loads.

        Parameters
        ----------
        done
            Share of the sweeps that is done.
        """
        fade = power(_FINAL_PENALTY, max(2 * done - 1, 0.0))
        self.penalty = self.first_penalty[0] * fade, self.first_penalty[1] * fade
        for chunk, minorants in self.chunks:
            self.weights[:, chunk] = self._moved_weights(loads, chunk, minorants, _UPDATE[0])
        self.capacity_prices = self._moved_capacity_prices(loads, _UPDATE[1])

    def _moved_weights(self, loads: Loads, chunk: slice, minorants: SlotMinorants, share: float) -> Floats:
        """Return row weights of some steps, moved towards the rows that are highest at the loads."""
        values = minorants.at(loads.used(chunk), self._missing(loads, chunk))
        penalty = share * self.penalty[0] / self.unit_s
        return project_onto_simplex(self.weights[:, chunk] + penalty * (values - values.max(axis=0)))

    def _missing(self, loads: Loads, chunk: slice) -> Floats:
        """Return the share of some steps' reads whose items have no path yet, (steps, layers or 1)."""
        found = self.instance.timed(loads.reads[chunk] * self.instance.timed_units)
        share: Floats = 1 - found / np.maximum(self.reads[chunk], 1)
        return share

    def _moved_capacity_prices(self, loads: Loads, share: float) -> Floats:
        """Return prices of limited tiers, moved by the units they hold too many, (tiers, 1 + slots)."""
        excess = loads.held() - loads.share * self.capacity_units
        return np.maximum(self.capacity_prices + share * self.penalty[1] * excess, 0)

    def _by_tier(self, capacity_prices: Floats) -> Floats:
        """Return prices of capacity for all tiers, (K, 1 + slots)."""
        capacity = np.zeros((self.instance.tiers, capacity_prices.shape[1]))
        capacity[self.limited] = capacity_prices
        return capacity


def project_onto_simplex(points: Floats) -> Floats:
    """Project columns of (rows, ...) onto weights >= 0 of sum 1 (Michelot, 1986)."""
    level = np.full(points.shape[1:], -np.inf)
    for _ in points:
        over, total = points > level, np.full(level.shape, -1.0)
        for row, counts in zip(points, over, strict=True):
            total += np.where(counts, row, 0.0)
        level = total / over.sum(axis=0)
    return np.maximum(points - level, 0)
