"""First-order ascent of the dual function on all items or a sample of them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kvbound.instance import Instance
from kvbound.progress import Progress
from kvbound.solvers._dual_items import Demand, Items
from kvbound.solvers._dual_rows import Rows
from kvbound.solvers._dual_seal import seal
from kvbound.solvers.certificate import Certificate

Floats = NDArray[np.float64]

_RATES = (0.2, 0.15)
"""Adam's step for the logits of row weights, and for room prices in units of a slow read per step."""
_BETAS = (0.9, 0.95)
_LATE = 0.1
"""Share of the time that a climb may lag behind before the clock, and not the count, shortens its steps:
a climb that is in time is the same on any machine."""
_DEEPEST = 12.0
"""Logits this far below the highest weigh next to nothing and can still come back."""
_RECENT = 4
"""Averages weigh iterations by about their number to this power less one (Shamir and Zhang, 2013)."""


@dataclass(eq=False)
class _Adam:
    """Parameters with Adam's memory of their slopes (Kingma and Ba, 2015)."""

    value: Floats
    rate: float
    count: int = 0
    mean: Floats = field(init=False)
    square: Floats = field(init=False)

    def __post_init__(self) -> None:
        self.mean, self.square = np.zeros_like(self.value), np.zeros_like(self.value)

    def ascend(self, slope: Floats, share: float) -> None:
        """Step along the slope, at a share of the full rate."""
        self.count += 1
        first, second = _BETAS
        self.mean += (1 - first) * (slope - self.mean)
        self.square += (1 - second) * (slope**2 - self.square)
        spread = np.sqrt(self.square / (1 - second**self.count)) + 1e-12
        self.value += (share * self.rate / (1 - first**self.count)) * self.mean / spread


class Tuner:
    """Climbs in row weights, as a softmax of logits, and room prices.

    On a sample the slopes are those of the sample; after `correct` they agree with those of all items
    where the climb stood then, so that the sample's luck is left behind.

    Attributes
    ----------
    average
        What the items used of late: in the mean over many prices a nearly optimal placement in fractions.
    """

    average: Demand

    def __init__(self, instance: Instance, rows: Rows, items: Items) -> None:
        self.instance, self.rows, self.items = instance, rows, items
        self.unit = float(rows.beta.max())  # seconds of the dearest count
        self.limited = np.array([limit is not None for limit in instance.room])
        if instance.inclusive:
            self.limited[-1] = False  # it holds everything anyway
        room = [limit or 0 for limit in instance.room]
        self.room = np.array(room, np.float64)[self.limited, None]
        shape = (int(self.limited.sum()), 1 + instance.decode_steps * instance.layers)
        self.missing = Demand(np.zeros(()), np.zeros(()))
        slots = (instance.decode_steps, instance.layers)
        self.average = Demand(np.zeros((3 * instance.tiers, *slots)), np.zeros((instance.tiers, shape[1])))
        self._start(_first_logits(rows), np.full(shape, 0.1), 1.0)

    def _start(self, logits: Floats, stay: Floats, share: float) -> None:
        self.logits, self.stay = _Adam(logits, share * _RATES[0]), _Adam(stay, share * _RATES[1])
        self.best_s, self.best = -np.inf, (logits.copy(), stay.copy())

    def run(self, iterations: int, deadline: float, target: float, progress: Progress) -> bool:
        """Climb, with steps that shrink to nothing towards the end.

        Parameters
        ----------
        deadline
            `time.perf_counter` at which to be there, or inf.
        target
            Seconds; stop at such a bound.

        Returns
        -------
        Whether time was up before the iterations were done.
        """
        start = time.perf_counter()
        for count in range(iterations):
            passed = (time.perf_counter() - start) / max(deadline - start, 1e-9)
            done = max(count / iterations, (passed - _LATE) / (1 - _LATE))
            if done >= 1 or self.best_s >= target:
                return done >= 1
            self._step(1 - done)
            progress(done, 1, f"tuned to {self.best_s:.6g} s")
        return False

    def _step(self, share: float) -> None:
        weights, prices, capacity = self._multipliers(self.logits.value, self.stay.value)
        items, demand = self.items.evaluate(prices, capacity)
        assert demand is not None
        used, held = demand.used + self.missing.used, demand.held + self.missing.held
        for mean, now in ((self.average.used, used), (self.average.held, held)):
            mean += _RECENT / (self.stay.count + _RECENT) * (now - mean)
        items += float((self.missing.used * prices).sum() + (self.missing.held * capacity).sum())
        value = float((weights * self.rows.alpha).sum()) + items
        value -= float((self.room * capacity[self.limited]).sum())
        if value > self.best_s:
            self.best_s, self.best = value, (self.logits.value.copy(), self.stay.value.copy())
        slope = self.rows.at(used) / self.unit
        self.logits.ascend(weights * (slope - (weights * slope).sum(axis=0)), share)
        self.stay.ascend(held[self.limited] - self.room, share)
        logits = self.logits.value
        np.clip(logits - logits.max(axis=0), -_DEEPEST, 0, out=logits)
        np.maximum(self.stay.value, 0, out=self.stay.value)

    def _multipliers(self, logits: Floats, stay: Floats) -> tuple[Floats, Floats, Floats]:
        """Row weights (rows, steps, layers), prices of counts and of room, in seconds."""
        weights = np.exp(logits - logits.max(axis=0))
        weights /= weights.sum(axis=0)
        capacity = np.zeros((len(self.limited), stay.shape[1]))
        capacity[self.limited] = stay * (self.unit / self.instance.layers)
        return weights, self.rows.prices(weights), capacity

    def sealed(self) -> Certificate:
        """Return the best multipliers so far, rounded, with no claim yet."""
        weights, _, capacity = self._multipliers(*self.best)
        return seal(self.instance, self.rows, weights, capacity)

    def correct(self, everything: Demand) -> None:
        """Go on from the best multipliers, given what all items use there, with smaller steps."""
        _, prices, capacity = self._multipliers(*self.best)
        mine = self.items.evaluate(prices, capacity)[1]
        assert mine is not None
        self.missing = Demand(everything.used - mine.used, everything.held - mine.held)
        self._start(*self.best, 0.5 * self.logits.rate / _RATES[0])


def _first_logits(rows: Rows) -> Floats:
    """Start from what binds without misses and with most misses, in equal parts, and some chord."""
    count = len(rows.beta)
    weights = np.full(rows.alpha.shape, 1e-3)
    np.put_along_axis(weights, rows.alpha[:count].argmax(axis=0)[None], 0.45, 0)
    weights[rows.beta[:, rows.tier].argmax()] += 0.45
    weights[count:] = 0.1
    return np.log(weights)
