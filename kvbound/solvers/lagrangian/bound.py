"""A certified time lower bound at any size: Lagrangian decomposition into items and slots.

Prices on what items ask of slots, and on room, let both fall apart: an item is a cheapest path over the
tiers, a slot the least of its time less the prices paid to it. The prices are mixes of linear functions
that the slot's time is never below (`minorants`), tuned by first-order ascent, of many items by ever new
samples of them (`ascent`), and evaluated on all items; rounded to integers they are a certificate.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from kvbound.bitsets.lanes import Lanes, count_units, supports
from kvbound.certificate import Certificate
from kvbound.errors import UsageError
from kvbound.instance import Instance
from kvbound.kernels import Kernel, pick
from kvbound.progress import Progress, silent
from kvbound.result import Bound, BoundStatus, Termination
from kvbound.solvers.lagrangian.ascent import DualAscent, Multipliers
from kvbound.solvers.lagrangian.minorants import SlotMinorants
from kvbound.solvers.lagrangian.paths import ManyTiers
from kvbound.solvers.lagrangian.paths_two_tier import TwoTiers
from kvbound.solvers.lagrangian.rounding import claim, seal, seal_ideal, unseal
from kvbound.solvers.lagrangian.subproblem import Items

_CELLS, _GENERAL_CELLS = {"numba": 1e8, "numpy": 4e7}, 2e7
"""Lanes times steps of a default sample, for the fast paths and for the general ones."""
_WORK, _FEWEST, _MOST, _GENERAL = 3e11, 250, 3000, 20
"""Default iterations: about so many lanes times steps in all, but within these limits; what one costs on
the general paths against the fast ones."""


@dataclass(frozen=True, eq=False)
class AscentResult:
    """Outcome of a climb.

    Attributes
    ----------
    certificate
        The best multipliers and the time lower bound they prove, at least the ideal time.
    termination
        Whether the climb was finished, out of time, or interrupted.
    multipliers
        Where it ended.
    """

    certificate: Certificate
    termination: Termination
    multipliers: Multipliers | None


def solve_dual(instance: Instance, **options: Any) -> tuple[Bound, Certificate]:
    """Bound the decode time from below; options as for `maximize_dual`.

    Returns
    -------
    The bound, at least the ideal time, and its certificate; claimed until the checker has seen that.

    Raises
    ------
    UsageError
        The accounting is not physical.
    """
    best = maximize_dual(instance, **options).certificate
    return Bound(best.bound_s, BoundStatus.CLAIMED, "dual"), best


def maximize_dual(
    instance: Instance,
    *,
    time_limit: float = math.inf,
    gap: float = 0.0,
    incumbent_s: float = math.inf,
    iterations: int | None = None,
    work: int | None = None,
    seed: int = 0,
    sample: float | None = None,
    whole_counts: bool = True,
    resume: Certificate | None = None,
    kernel: str | None = None,
    threads: int | None = None,
    progress: Progress = silent,
) -> AscentResult:
    """Climb to good multipliers, and prove what they are worth.

    Parameters
    ----------
    time_limit
        Seconds to stop tuning after; preparing it and the last evaluation on all items come on top.
    gap, incumbent_s
        Stop tuning when the bound is within `gap` of this decode time of a schedule.
    iterations
        Steps of the ascent; by default 3000, of large instances fewer, 250 at least.
    work
        The same without a time limit, and with the sample of the fast kernel whichever runs: the outcome is
        the same, to the last bit, on any machine.
    sample
        Share of the items to ask in every step; by default all of a small instance, 1 % of the largest.
    whole_counts
        Whether to use that no part of a read is a miss; without it the bound is at most the plain LP's.
    resume
        A certificate of the instance to go on from, whose own bound is not asked about again.
    kernel
        "numpy" or "numba"; None takes the faster one at hand.
    threads
        How many; None takes one, or for an instance that is sampled all processors. The numbers are the same.
    progress
        Told the bound so far. An interrupt ends the tuning, a second one the evaluation.

    Raises
    ------
    UsageError
        The accounting is not physical.
    """
    if not instance.physical:
        raise UsageError("a bound needs accounting 'physical'")
    best, chosen, ended, tuner = seal_ideal(instance), pick(kernel), Termination(), None
    try:
        stride = _stride(instance, sample, chosen if work is None else "numba")
        if work is not None:
            iterations, time_limit = work, math.inf
        workers = threads or (_processors() if stride > 1 else 1)
        _warm_up(instance, chosen)
        price = partial(evaluate, instance, kernel=chosen, threads=workers, progress=progress)
        steps = _iterations(instance, stride) if iterations is None else iterations
        target = incumbent_s * (1 - gap)
        with _pool(workers) as pool:
            draw = _samples(instance, stride, seed, chosen, workers, pool)
            each = map if workers == 1 else pool.map
            rows = SlotMinorants.of(instance, whole_counts)
            start = None if resume is None else Multipliers(*unseal(instance, rows, resume))
            tuner = DualAscent(instance, rows, draw, sampled=stride > 1, each=each, start=start)
            for found, reached in _climb(tuner, steps, time_limit, target, price, progress):
                best, ended = max(best, found, key=lambda certificate: certificate.bound_s), reached
    except KeyboardInterrupt:
        ended = Termination("interrupted")
    return AscentResult(best, ended, None if tuner is None else tuner.multipliers())


def _samples(
    instance: Instance, stride: int, seed: int, kernel: Kernel, threads: int, pool: ThreadPoolExecutor
) -> Callable[[], Items]:
    """Return what draws the items of a step: another sample every time, or if the stride is 1 always all."""
    generator = np.random.default_rng(seed)

    def gather() -> Items:
        return _items(instance, Lanes.sample(instance, stride, generator), kernel, threads)

    if stride == 1:
        everything = gather()
        return lambda: everything
    ahead = pool.submit(gather)

    def draw() -> Items:
        nonlocal ahead
        items, ahead = ahead.result(), pool.submit(gather)
        return items

    return draw


def _climb(
    tuner: DualAscent,
    iterations: int,
    limit_s: float,
    target: float,
    price: Callable[[Certificate], Certificate],
    progress: Progress,
) -> Iterator[tuple[Certificate, Termination]]:
    """Tune until the target is proved or the end is reached, and yield what is proved and how it ended."""
    start, level = time.perf_counter(), target
    while True:
        try:
            done = tuner.run(iterations, start, limit_s, level, progress)
            late = done >= 1 and tuner.count < iterations
            ended = Termination("limit", "time") if late else Termination()
        except KeyboardInterrupt:
            done, ended = 1.0, Termination("interrupted")
        found = price(tuner.sealed())
        yield found, ended
        if done >= 1 or found.bound_s >= target:
            return
        level = tuner.level_s * target / found.bound_s  # it promised more than was proved


def evaluate(
    instance: Instance,
    certificate: Certificate,
    kernel: Kernel,
    threads: int = 1,
    progress: Progress = silent,
) -> Certificate:
    """Price all items, layer by layer, and return the certificate with the bound it proves."""
    prices, capacity = certificate.prices.astype(np.float64), certificate.capacity.astype(np.float64)
    everyone, total = np.zeros(instance.layers, np.int64), 0.0

    def one_layer(layer: int) -> float:
        items = _items(instance, Lanes.of(instance, slice(layer, layer + 1), everyone), kernel, 1)
        return items.evaluate(prices, capacity, demand=False)[0]

    with _pool(threads) as pool:
        for layer, value in enumerate(pool.map(one_layer, range(instance.layers))):
            progress(layer, instance.layers, "bound evaluated on all items")
            total += value
    return claim(instance, certificate, total)


def prove(
    instance: Instance,
    multipliers: Multipliers,
    *,
    kernel: str | None = None,
    threads: int = 1,
    progress: Progress = silent,
) -> Certificate:
    """Return what multipliers prove."""
    sealed = seal(instance, SlotMinorants.of(instance), *multipliers)
    return evaluate(instance, sealed, pick(kernel), threads, progress)


@contextmanager
def _pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Run threads that stop soon when interrupted."""
    pool = ThreadPoolExecutor(threads)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _items(instance: Instance, lanes: Lanes, kernel: Kernel, threads: int) -> Items:
    """Make lanes ready to be priced, with the fast path where it applies."""
    paths = TwoTiers if supports(instance) else ManyTiers
    return paths(instance, lanes, kernel, threads)


def _warm_up(instance: Instance, kernel: Kernel) -> None:
    """Have the kernels compiled before a clock runs: the first time that takes seconds."""
    lanes = Lanes.of(instance, slice(1), np.zeros(1, np.int64), count_units(instance))
    items = _items(instance, lanes, kernel, 1)
    slots = instance.decode_steps, instance.layers
    capacity = np.zeros((instance.tiers, 1 + math.prod(slots)))
    items.evaluate(np.zeros((3 * instance.tiers, *slots)), capacity)


def _iterations(instance: Instance, stride: int) -> int:
    cells = instance.layers * instance.blocks * instance.decode_steps / stride
    return int(np.clip(_WORK / (cells * (1 if supports(instance) else _GENERAL)), _FEWEST, _MOST))


def _processors() -> int:
    """Count the processors that this process may use."""
    usable = getattr(os, "sched_getaffinity", None)  # Linux
    return len(usable(0)) if usable else os.cpu_count() or 1


def _stride(instance: Instance, sample: float | None, kernel: Kernel) -> int:
    """Every how manieth unit to ask in a step."""
    if sample is not None and not 0 < sample <= 1:
        raise UsageError(f"a sample is a share of the items in (0, 1], not {sample}")
    cells = instance.layers * instance.blocks * instance.decode_steps
    most = _CELLS[kernel] if supports(instance) else _GENERAL_CELLS
    stride = min(cells / most if sample is None else 1 / sample, count_units(instance))
    return 1 if stride < 5 else round(stride)
