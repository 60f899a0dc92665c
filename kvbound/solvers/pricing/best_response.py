"""Schedules at prices: items answer, a few at a time, what all others leave them.

The dual's prices alone make no schedule: where paths cost the same, as most do in the end, all items would
take the same one. So a small group of items at a time takes its best paths, at prices that the loads of a
slot move away from the dual's: up where it has more than it should, down where it has less. That is the
method of multipliers for the convex program over all mixes of paths, minimised block by block; the more
items share a slot, the less it matters that each takes one path whole. In the end it is made to fit the
room (`repair`, `response_tiers`).

Equations: "Best responses to prices" in docs/methods.md.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from kvbound.arithmetic import power
from kvbound.bitsets.lanes import Lanes, count_units
from kvbound.bitsets.two_tier import TwoTierSchedule, supports_two_tier_bits
from kvbound.instance import Instance, Migration
from kvbound.kernels import Kernel, pick
from kvbound.progress import Progress, silent
from kvbound.result import Termination
from kvbound.schedule import Schedule
from kvbound.solvers.lagrangian.ascent import Multipliers
from kvbound.solvers.lagrangian.minorants import SlotMinorants
from kvbound.solvers.lagrangian.subproblem import limited_tiers
from kvbound.solvers.pricing.response_bits import Bits
from kvbound.solvers.pricing.response_tiers import Tiers

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_MOST = 2e9
"""Slots times blocks up to which each has its byte; single tokens between inclusive tiers have bits."""
_GROUP = 0.0025
"""Share of the items that answer at once: more of them would all run to where it was cheap."""
SWEEPS = 9
"""Further sweeps over all items, by default."""
_WORTH = 2e6
"""Items that answer, times steps, from which threads save more than it takes to start them."""
_PART = 256
"""Steps priced at a time: what that takes stays in a cache."""
_PULL = 0.3, 0.02
"""How far a slot's load moves its row weights, per slow read too many, and the price of room, in slow reads
per step and block too many; at one read and one block, and falling with the square root of their number, as
chance does."""
_FADE = 0.1
"""What is left of these moves at the end: they fade over the second half of the sweeps. As strong as in the
first, prices would never settle where room is cheap."""
_LEARN = 0.5, 1.0
"""Shares of these moves that stay in the multipliers, ten times a sweep."""


class BestResponses(NamedTuple):
    """What came of it."""

    state: _Answers | None
    """What everybody answered; none if there was no time for that."""
    multipliers: Multipliers
    """The dual's, moved by what loads they led to."""
    termination: Termination

    def schedule(self, progress: Progress = silent) -> TwoTierSchedule | Schedule | None:
        """Make it a schedule that keeps the rules, once: the answers are used up."""
        return None if self.state is None else self.state.settled(progress)


def supports(instance: Instance) -> bool:
    """Whether schedules come from prices: items may move, and their tiers are not too many to keep."""
    plan = instance.slots * instance.blocks
    kept = supports_two_tier_bits(instance) or plan <= _MOST
    return kept and instance.rules.migration is not Migration.NONE


def best_responses(
    instance: Instance,
    multipliers: Multipliers,
    *,
    seed: int = 0,
    kernel: str | None = None,
    threads: int = 1,
    sweeps: int | None = None,
    end: float = math.inf,
    progress: Progress = silent,
) -> BestResponses:
    """Make a schedule from the dual's multipliers; see `supports`.

    Parameters
    ----------
    sweeps
        Number of further sweeps over all items; None takes SWEEPS.
    end
        `time.perf_counter` when to stop.

    Returns
    -------
    BestResponses
        With multipliers that have learnt from the loads, often better ones.
    """
    generator, chosen = np.random.default_rng(seed), pick(kernel)
    stride = min(count_units(instance), round(1 / _GROUP))
    share = min(1.0, max(_GROUP * stride, instance.granularity / 64))  # some of a word at least
    sweep = round(stride / share)
    steps = stride + (SWEEPS if sweeps is None else sweeps) * sweep
    if instance.slots * instance.blocks / stride < _WORTH:
        threads = 1
    state = (Bits if supports_two_tier_bits(instance) else Tiers).of(instance, stride, chosen, threads)
    ended = Termination()
    with ThreadPoolExecutor(threads) as pool:
        prices = _Prices(instance, multipliers, chosen, map if threads == 1 else pool.map)
        try:
            for step in range(steps):
                if time.perf_counter() >= end:
                    ended = Termination("limit", "time")
                    break
                if step % stride == 0:
                    order = generator.permuted(np.tile(np.arange(stride), (instance.layers, 1)), axis=1)
                group = Lanes.of(instance, slice(None), order[:, step % stride], stride)
                choose = None if step < stride else lambda shape: generator.random(shape) < share
                state.answer(group, *prices.around(state), choose)
                if step >= stride and step % max(sweep // 10, 1) == 0:
                    prices.learn(state, (step - stride) / (steps - stride))
                progress(step + 1, steps, "items answer prices")
        except KeyboardInterrupt:
            ended = Termination("interrupted")
    return BestResponses(state if state.share == 1 else None, prices.multipliers(), ended)


class _State(Protocol):
    """What prices look at: a schedule that grows and changes.

    Attributes
    ----------
    reads
        Reads of the items asked so far, (steps, layers).
    share
        What share of the items that are.
    """

    @property
    def reads(self) -> Ints: ...
    @property
    def share(self) -> float: ...
    def used(self, steps: slice) -> Floats:
        """What those asked so far use of some steps' slots; see `Demand`, (3K, steps, layers)."""

    def held(self) -> Floats:
        """Blocks of those in tiers with a limit, at the start and after every slot, (tiers, 1 + slots)."""


class _Answers(_State, Protocol):
    """One that can be made to fit."""

    def settled(self, progress: Progress = silent) -> TwoTierSchedule | Schedule:
        """Return it as a schedule that keeps within the room; what was answered is used up."""


class _Prices:
    """The dual's multipliers, and prices that loads move away from them."""

    def __init__(
        self, instance: Instance, multipliers: Multipliers, kernel: Kernel, each: Callable[..., Iterable[Any]]
    ) -> None:
        self.instance, self.kernel, self.each, self.rows = instance, kernel, each, SlotMinorants.of(instance)
        self.reads, self.limited = instance.trace.past_counts(), limited_tiers(instance)
        self.room = np.array([instance.capacity_blocks[k] for k in self.limited], np.float64)[:, None]
        self.weights, self.stay = multipliers.weights.copy(), multipliers.capacity[self.limited]
        self.unit = float(self.rows.beta.max())
        self.prices = np.empty((3 * instance.tiers, *self.reads.shape))
        block = self.unit * instance.granularity / instance.layers
        self.pull = self.most = (
            _PULL[0] / math.sqrt(max(float(self.reads.mean()), 1.0)),
            _PULL[1] / np.sqrt(np.maximum(self.room, 1)) * block,
        )
        steps = [slice(n, n + _PART) for n in range(0, instance.decode_steps, _PART)]
        self.parts = [(part, self.rows.part(part)) for part in steps]

    def around(self, state: _State) -> tuple[Floats, Floats]:
        """Return prices of counts, (3K, steps, layers), and of room, (K, 1 + steps * layers).

        The former stay as they are until this is asked again.
        """
        price = self._price if self.kernel == "numpy" else self._price_compiled
        list(self.each(price, repeat(state), *zip(*self.parts, strict=True)))
        return self.prices, self._capacity(self._stay(state, 1.0))

    def _price(self, state: _State, part: slice, rows: SlotMinorants) -> None:
        self.prices[:, part] = rows.prices(self._weights(state, part, rows, 1.0))

    def _price_compiled(self, state: _State, part: slice, _: SlotMinorants) -> None:
        from kvbound.solvers.pricing.best_response_numba import price_around

        rows, pull = self.rows, self.pull[0] / self.unit
        loads = state.used(part), self._missing(state, part)
        price_around(
            rows.alpha, rows.beta, rows.chord, rows.tier, *loads, pull, self.weights, self.prices, part.start
        )

    def multipliers(self) -> Multipliers:
        """Return those learnt so far."""
        return Multipliers(self.weights, self._capacity(self.stay))

    def learn(self, state: _State, done: float) -> None:
        """Move the multipliers themselves; `done` is the share of the sweeps that is."""
        fade = power(_FADE, max(2 * done - 1, 0.0))
        self.pull = self.most[0] * fade, self.most[1] * fade
        for part, rows in self.parts:
            self.weights[:, part] = self._weights(state, part, rows, _LEARN[0])
        self.stay = self._stay(state, _LEARN[1])

    def _weights(self, state: _State, part: slice, rows: SlotMinorants, share: float) -> Floats:
        """Row weights of some steps, moved by what the rows say of those asked so far."""
        says, pull = rows.at(state.used(part), self._missing(state, part)), share * self.pull[0] / self.unit
        return _onto_simplex(self.weights[:, part] + pull * (says - says.max(axis=0)))

    def _missing(self, state: _State, part: slice) -> Floats:
        """Share of the reads of some steps whose items were not asked so far."""
        share: Floats = 1 - state.reads[part] / np.maximum(self.reads[part], 1)
        return share

    def _stay(self, state: _State, share: float) -> Floats:
        """Prices of room, moved by what those asked so far have too much of it."""
        return np.maximum(self.stay + share * self.pull[1] * (state.held() - state.share * self.room), 0)

    def _capacity(self, stay: Floats) -> Floats:
        """Prices of room in all tiers, (K, 1 + slots)."""
        capacity = np.zeros((self.instance.tiers, stay.shape[1]))
        capacity[self.limited] = stay
        return capacity


def _onto_simplex(points: Floats) -> Floats:
    """Project columns of (rows, ...) onto weights >= 0 that add up to 1, as the compiled twin does."""
    level = np.full(points.shape[1:], -np.inf)
    for _ in points:
        over, total = points > level, np.full(level.shape, -1.0)
        for row, counts in zip(points, over, strict=True):
            total += np.where(counts, row, 0.0)
        level = total / over.sum(axis=0)
    return np.maximum(points - level, 0)
