"""First-order ascent of the dual function, on all items or on ever new samples of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvbound.arithmetic import exp, log
from kvbound.bitsets.lanes import limited_tiers
from kvbound.certificate import Certificate
from kvbound.instance import Instance
from kvbound.progress import Progress
from kvbound.solvers.lagrangian.minorants import SlotMinorants
from kvbound.solvers.lagrangian.rounding import seal
from kvbound.solvers.lagrangian.subproblem import Items

Floats = NDArray[np.float64]

_RATES = (0.2, 0.15)
"""Adam's step for the logits of row weights, and for room prices in units of a slow read per step."""
_BETAS = (0.9, 0.95)
_LATE = 0.1
"""Share of the time that a climb may lag behind before the clock, and not the count, shortens its steps:
a climb that is in time is the same on any machine."""
_DEEPEST = 12.0
"""Logits this far below the highest weigh next to nothing and can still come back."""
_LEVEL = 0.05
"""What one sample's value counts in the running mean of all."""
_PART = 256
"""Steps stepped at a time: what that takes stays in a cache."""


@dataclass(eq=False)
class _Adam:
    """Parameters with Adam's memory of their slopes (Kingma and Ba, 2015)."""

    value: Floats
    rate: float
    left: tuple[float, float] = (1.0, 1.0)
    """Share of the initial zeros in the two moving averages: the powers of both betas."""
    mean: Floats = field(init=False)
    square: Floats = field(init=False)

    def __post_init__(self) -> None:
        self.mean, self.square = np.zeros_like(self.value), np.zeros_like(self.value)

    def ascend(self, slope: Floats, share: float) -> None:
        """Step along the slope, at a share of the full rate."""
        first, second = _BETAS
        self.left = self.left[0] * first, self.left[1] * second
        self.mean += (1 - first) * (slope - self.mean)
        self.square += (1 - second) * (slope**2 - self.square)
        spread = np.sqrt(self.square / (1 - self.left[1])) + 1e-12
        self.value += (share * self.rate / (1 - self.left[0])) * self.mean / spread


class _Part(NamedTuple):
    """Some steps of a climb."""

    steps: slice
    rows: SlotMinorants
    logits: _Adam

    def price(self, weights: Floats, prices: Floats) -> float:
        """Fill in row weights and what counts are charged; return what the rows say of no counts."""
        mix = weights[:, self.steps] = _softmax(self.logits.value)
        prices[:, self.steps] = self.rows.prices(mix)
        return float((mix * self.rows.alpha).sum())

    def ascend(self, weights: Floats, used: Floats, unit: float, share: float) -> None:
        """Step towards the rows that say most of what is used."""
        mix, slope = weights[:, self.steps], self.rows.at(used[:, self.steps]) / unit
        self.logits.ascend(mix * (slope - (mix * slope).sum(axis=0)), share)
        logits = self.logits.value
        np.clip(logits - logits.max(axis=0), -_DEEPEST, 0, out=logits)


class Multipliers(NamedTuple):
    """Where a climb stands."""

    weights: Floats
    """Of the rows, (rows, steps, layers), sum 1."""
    capacity: Floats
    """Price of a block's room in seconds, at the start and after every slot, (K, 1 + steps * layers)."""


class DualAscent:
    """Climbs in row weights, as a softmax of logits, and room prices.

    Either all items are asked in every step, and the best point is kept; or another sample of them every
    time, and the last point is: as its steps shrink to nothing, the samples' luck averages out.

    Attributes
    ----------
    count
        Steps made.
    level_s
        What the point stands at: its bound, or about that.
    each
        What maps a function over parts of the steps: `map`, or that of a pool of threads.
    """

    def __init__(
        self,
        instance: Instance,
        rows: SlotMinorants,
        draw: Callable[[], Items],
        *,
        sampled: bool,
        each: Callable[..., Iterable[Any]],
        start: Multipliers | None = None,
    ) -> None:
        self.instance, self.rows, self.draw, self.sampled, self.each = instance, rows, draw, sampled, each
        self.unit = float(rows.beta.max())  # seconds of the dearest count
        self.limited = limited_tiers(instance)
        self.room = np.array([instance.capacity_blocks[k] for k in self.limited], np.float64)[:, None]
        shape = len(self.limited), 1 + instance.decode_steps * instance.layers
        self.logits, self.stay = _first_logits(rows), _Adam(np.full(shape, 0.1), _RATES[1])
        if start is not None:
            self.logits[:] = np.maximum(log(start.weights), -_DEEPEST)
            self.stay.value[:] = start.capacity[self.limited] * (instance.layers / self.unit)
        steps = [slice(n, n + _PART) for n in range(0, instance.decode_steps, _PART)]
        self.parts = [_Part(part, rows.part(part), _Adam(self.logits[:, part], _RATES[0])) for part in steps]
        self.count, self.level_s = 0, -np.inf
        self.best = self.logits.copy(), self.stay.value.copy()

    def run(self, iterations: int, start: float, limit_s: float, target: float, progress: Progress) -> float:
        """Climb, with steps that shrink to nothing towards the end.

        Parameters
        ----------
        iterations
            Steps in all, with those made before.
        start, limit_s
            `time.perf_counter` when the time began, and how long it is, in seconds.
        target
            Seconds; stop at such a level.

        Returns
        -------
        What share of the way is done; 1 or more at its end.
        """
        while self.count < iterations and self.level_s < target:
            passed = (time.perf_counter() - start) / max(limit_s, 1e-9)
            done = max(self.count / iterations, (passed - _LATE) / (1 - _LATE))
            if done >= 1:
                return done
            self._step(
                (1 - done) * (1 - done) if self.sampled else 1 - done
            )  # smaller steps average the noise of the samples
            progress(done, 1, f"tuned to {self.level_s:.6g} s")
        return 1.0 if self.count >= iterations else self.count / iterations

    def _step(self, share: float) -> None:
        rows, steps, layers = self.logits.shape
        weights, prices = np.empty((rows, steps, layers)), np.empty((3 * self.instance.tiers, steps, layers))

        sure = sum(self.each(lambda part: part.price(weights, prices), self.parts))
        capacity = self._capacity(self.stay.value)
        items, demand = self.draw().evaluate(prices, capacity)
        assert demand is not None
        value = sure + items - float((self.room * capacity[self.limited]).sum())
        if not self.sampled and value > self.level_s:
            self.level_s, self.best = value, (self.logits.copy(), self.stay.value.copy())
        used = demand.used
        list(self.each(lambda part: part.ascend(weights, used, self.unit, share), self.parts))
        self.stay.ascend(demand.held[self.limited] - self.room, share)
        np.maximum(self.stay.value, 0, out=self.stay.value)
        self.count += 1
        if self.sampled:
            self.best = self.logits, self.stay.value
            before = self.level_s if self.count > 1 else value
            self.level_s = before + max(_LEVEL, 1 / self.count) * (value - before)

    def multipliers(self) -> Multipliers:
        """Return those of the point kept."""
        logits, stay = self.best
        return Multipliers(_softmax(logits), self._capacity(stay))

    def _capacity(self, stay: Floats) -> Floats:
        """Prices of room in seconds, (K, 1 + steps * layers)."""
        capacity = np.zeros((self.instance.tiers, stay.shape[1]))
        capacity[self.limited] = stay * (self.unit / self.instance.layers)
        return capacity

    def sealed(self) -> Certificate:
        """Return the multipliers of the point kept, rounded, with no claim yet."""
        return seal(self.instance, self.rows, *self.multipliers())


def _softmax(logits: Floats) -> Floats:
    weights = exp(logits - logits.max(axis=0))
    weights /= weights.sum(axis=0)
    return weights


def _first_logits(rows: SlotMinorants) -> Floats:
    """Start from what binds without misses and with most misses, in equal parts, and some chord."""
    count = len(rows.beta)
    weights = np.full(rows.alpha.shape, 1e-3)
    np.put_along_axis(weights, rows.alpha[:count].argmax(axis=0)[None], 0.45, 0)
    weights[rows.beta[:, rows.tier].argmax()] += 0.45
    weights[count:] = 0.1
    return log(weights)
