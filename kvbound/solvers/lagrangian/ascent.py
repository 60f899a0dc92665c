"""First-order ascent of the dual function, on all items or on a new sample of them in every step.

Equations: "The dual function" and "The ascent" in docs/methods.md.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvbound.arithmetic import log
from kvbound.certificate import Certificate
from kvbound.instance import Instance
from kvbound.progress import Progress
from kvbound.solvers.lagrangian.parameters import LOGIT_RANGE, Adam, SoftmaxWeights, softmax
from kvbound.solvers.lagrangian.paths.multi_tier import MultiTierPaths
from kvbound.solvers.lagrangian.rounding import round_multipliers
from kvbound.solvers.lagrangian.slots.minorants import SlotMinorants
from kvbound.solvers.lagrangian.subproblem import ItemSubproblem, limited_tiers
from kvbound.solvers.lagrangian.touches import TouchShares

Floats = NDArray[np.float64]

_CAPACITY_RATE = 0.15
"""Adam's learning rate of capacity prices, in multiples of `DualAscent._price_s`."""
_TIME_SLACK = 0.1
"""Share of the time limit by which an ascent may be behind the clock before its step size follows the clock
instead of the iteration count: an ascent in time is the same on any machine."""
_SMOOTHING = 0.05
"""Weight of one sample's value in the running mean."""
_CHUNK, _CHUNK_OF_ONE_LAYER = 256, 8192
"""Time steps updated at a time: their arrays fit into a cache, and take longer than a call."""


class _Chunk(NamedTuple):
    """Minorants of some time steps, and their weights."""

    steps: slice
    minorants: SlotMinorants
    mix: SoftmaxWeights

    def price(self, weights: Floats, prices: Floats) -> float:
        """Fill in the minorants' weights and the prices of counts; return the mixed minorants at counts 0."""
        mix = weights[:, self.steps] = self.mix.weights()
        prices[:, self.steps] = self.minorants.prices(mix)
        return float((mix * self.minorants.alpha).sum())

    def ascend(
        self, weights: Floats, used: Floats, charged: Floats | None, unit_s: float, share: float
    ) -> None:
        """Step towards the minorants that are highest at the counts, and with the shares of waits, in use."""
        values = self.minorants.at(used[:, self.steps])
        if charged is not None:
            values[: len(charged)] += charged[:, self.steps]
        self.mix.ascend(weights[:, self.steps], values / unit_s, share)


class Multipliers(NamedTuple):
    """A point of the ascent."""

    weights: Floats
    """Weights of the minorants, (minorants, steps, layers or 1), sum 1."""
    capacity: Floats
    """Capacity price of a unit in seconds, at the start and after every slot, (K, 1 + steps * layers)."""
    shares: Floats | None = None
    """Shares of waits in seconds, (late tiers, steps, layers, blocks); None for none."""


class DualAscent:
    """Ascends in minorant weights, as a softmax of logits, and in capacity prices.

    Either every step evaluates all items, and the best point is kept; or every step draws a new sample, and
    the last point is kept: as the step size falls to zero, the noise of the samples averages out.

    Attributes
    ----------
    count
        Iterations made.
    value_s
        Dual value at the point kept, in seconds; on samples, its running mean.
    share
        Share of the full learning rates at the beginning.
    map_chunks
        Maps a function over chunks of time steps: `map`, or that of a pool of threads.
    """

    def __init__(
        self,
        instance: Instance,
        minorants: SlotMinorants,
        draw: Callable[[], ItemSubproblem],
        *,
        sampled: bool,
        map_chunks: Callable[..., Iterable[Any]],
        start: Multipliers | None = None,
        share: float = 1.0,
        touches: TouchShares | None = None,
    ) -> None:
        self.instance, self.minorants, self.draw, self.share = instance, minorants, draw, share
        self.touches = touches
        self.sampled, self.map_chunks = sampled, map_chunks
        self.unit_s = float(minorants.beta.max())  # the highest price of a count
        self.limited = limited_tiers(instance)
        limits = [instance.capacity_units[k] for k in self.limited]
        self.capacity_units = np.array(limits, np.float64)[:, None]
        shape = len(self.limited), 1 + instance.decode_steps * instance.layers
        self.logits, self.capacity_prices = (
            first_logits(minorants),
            Adam(np.full(shape, 0.1), _CAPACITY_RATE),
        )
        if start is not None:
            self.logits[:] = np.maximum(log(start.weights), -LOGIT_RANGE)
            self.capacity_prices.value[:] = start.capacity[self.limited] / self._price_s
        chunk = _CHUNK if instance.layers > 1 else _CHUNK_OF_ONE_LAYER
        chunks = [slice(n, n + chunk) for n in range(0, instance.decode_steps, chunk)]
        self.chunks = [
            _Chunk(steps, minorants.part(steps), SoftmaxWeights(self.logits[:, steps])) for steps in chunks
        ]
        self.count, self.value_s = 0, -np.inf
        prices = self.capacity_prices.value
        self.best: tuple[Floats, Floats, Floats | None] = self.logits.copy(), prices.copy(), None

    def run(self, iterations: int, start: float, limit_s: float, target: float, progress: Progress) -> float:
        """Ascend, with a step size that falls to zero towards the end.

        Parameters
        ----------
        iterations
            Iterations in all, including those made before.
        start, limit_s
            `time.perf_counter` at the start of the time limit, and the limit in seconds.
        target
            Dual value to stop at, in seconds.

        Returns
        -------
        Share of the ascent that is done; 1 or more at its end.
        """
        while self.count < iterations and self.value_s < target:
            passed = (time.perf_counter() - start) / max(limit_s, 1e-9)
            done = max(self.count / iterations, (passed - _TIME_SLACK) / (1 - _TIME_SLACK))
            if done >= 1:
                return done
            # smaller steps average the noise of the samples
            self._step(self.share * ((1 - done) * (1 - done) if self.sampled else 1 - done))
            unit = " s" if self.instance.objective.time_alone else ""
            progress(done, 1, f"tuned to {self.value_s:.6g}{unit}")
        return 1.0 if self.count >= iterations else self.count / iterations

    def _step(self, share: float) -> None:
        weights = np.empty(self.logits.shape)
        slots = self.instance.decode_steps, self.instance.layers
        prices = np.empty((3 * self.instance.tiers, *slots))
        constant = sum(self.map_chunks(lambda chunk: chunk.price(weights, prices), self.chunks))
        capacity, touches, charged = self._in_seconds(self.capacity_prices.value), self.touches, None
        items = self.draw()
        if touches is not None:
            assert isinstance(items, MultiTierPaths)
            items = dataclasses.replace(items, touch=touches.price(weights))
        cost, demand = items.evaluate(prices, capacity)
        assert demand is not None
        value = constant + cost - float((self.capacity_units * capacity[self.limited]).sum())
        if not self.sampled and value > self.value_s:
            shares = None if touches is None else touches.seconds
            self.value_s, self.best = value, (self.logits.copy(), self.capacity_prices.value.copy(), shares)
        if touches is not None and demand.tiers is not None:
            charged = touches.ascend(demand.tiers, share)
        used, unit_s = demand.used, self.unit_s
        list(self.map_chunks(lambda chunk: chunk.ascend(weights, used, charged, unit_s, share), self.chunks))
        self.capacity_prices.ascend(demand.held[self.limited] - self.capacity_units, share)
        np.maximum(self.capacity_prices.value, 0, out=self.capacity_prices.value)
        self.count += 1
        if self.sampled:
            self.best = self.logits, self.capacity_prices.value, None
            before = self.value_s if self.count > 1 else value
            self.value_s = before + max(_SMOOTHING, 1 / self.count) * (value - before)

    def multipliers(self) -> Multipliers:
        """Return the point kept."""
        logits, capacity_prices, shares = self.best
        shares = None if shares is None else shares[..., : self.instance.blocks]
        return Multipliers(softmax(logits), self._in_seconds(capacity_prices), shares)

    def _in_seconds(self, capacity_prices: Floats) -> Floats:
        """Capacity prices of all tiers in seconds, (K, 1 + steps * layers)."""
        capacity = np.zeros((self.instance.tiers, capacity_prices.shape[1]))
        capacity[self.limited] = capacity_prices * self._price_s
        return capacity

    @property
    def _price_s(self) -> float:
        """Capacity price of 1 in seconds per unit: a block saves as many reads as it has tokens."""
        instance = self.instance
        return self.unit_s * instance.granularity / (instance.layers * int(instance.units.max()))

    def rounded(self) -> Certificate:
        """Return the point kept as a certificate that claims no bound yet."""
        return round_multipliers(self.instance, self.minorants, *self.multipliers())


def first_logits(minorants: SlotMinorants) -> Floats:
    """Logits of the facets that bind with no misses and with most misses, in equal parts, and some chord."""
    facets = len(minorants.beta)
    weights = np.full(minorants.alpha.shape, 1e-3)
    np.put_along_axis(weights, minorants.alpha[:facets].argmax(axis=0)[None], 0.45, 0)
    weights[minorants.beta[:, minorants.tier].argmax()] += 0.45
    weights[facets:] = 0.1
    return log(weights)
