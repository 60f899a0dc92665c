"""A certified time lower bound at any size: Lagrangian decomposition into items and slots.

Prices on what items ask of slots, and on room, let both fall apart: an item is a cheapest path over the
tiers, a slot the least of its time less the prices paid to it. The prices are mixes of linear functions
that the slot's time is never below (`_dual_rows`), tuned by first-order ascent on a sample of the items
(`_dual_tuner`) and evaluated on all of them; rounded to integers they are a certificate.
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
from numpy.typing import NDArray

from kvbound.errors import UsageError
from kvbound.instance import Instance
from kvbound.kernels import Kernel, pick
from kvbound.progress import Progress, silent
from kvbound.result import Bound, BoundStatus, Termination
from kvbound.solvers._dual_items import Demand, Items, Lanes
from kvbound.solvers._dual_paths import TwoTiers, warm_up
from kvbound.solvers._dual_rows import Rows
from kvbound.solvers._dual_seal import claim, seal_ideal
from kvbound.solvers._dual_states import ManyTiers
from kvbound.solvers._dual_tuner import Tuner
from kvbound.solvers.certificate import Certificate

_CELLS, _GENERAL_CELLS = {"numba": 1e8, "numpy": 4e7}, 2e7
"""Lanes times steps of a default sample, for the fast paths and for the general ones."""
_WORK, _FEWEST, _MOST, _GENERAL = 6e10, 250, 3000, 20
"""Default iterations: about so many lanes times steps in all, but within these limits; what one costs on
the general paths against the fast ones."""
_FIRST = 0.6
"""Share of the iterations before the first correction of a sample."""


@dataclass(frozen=True, eq=False)
class Tuned:
    """Outcome of a climb.

    Attributes
    ----------
    certificate
        The best multipliers and the time lower bound they prove, at least the ideal time.
    demand
        What items use and hold, averaged over the later part of the climb: a nearly optimal placement in
        fractions. It breaks capacity a little, and on a sample it is an estimate. None without a climb.
    termination
        Whether the climb was finished, out of time, or interrupted.
    """

    certificate: Certificate
    demand: Demand | None
    termination: Termination


def solve_dual(instance: Instance, **options: Any) -> tuple[Bound, Certificate]:
    """Bound the decode time from below; options as for `tune`.

    Returns
    -------
    The bound, at least the ideal time, and its certificate; claimed until the checker has seen that.

    Raises
    ------
    UsageError
        The accounting is not physical.
    """
    best = tune(instance, **options).certificate
    return Bound(best.bound_s, BoundStatus.CLAIMED, "dual"), best


def tune(
    instance: Instance,
    *,
    time_limit: float = math.inf,
    gap: float = 0.0,
    incumbent_s: float = math.inf,
    iterations: int | None = None,
    seed: int = 0,
    sample: float | None = None,
    corrections: int = 2,
    whole_counts: bool = True,
    kernel: str | None = None,
    threads: int | None = None,
    progress: Progress = silent,
) -> Tuned:
    """Climb to good multipliers, and prove what they are worth.

    Parameters
    ----------
    time_limit
        Seconds to stop tuning after; taking the sample and the last evaluation on all items come on top.
    gap, incumbent_s
        Stop tuning when the bound is within `gap` of this decode time of a schedule.
    iterations
        Steps of the ascent; by default 600 for the largest samples, 3000 for small ones, 250 at least.
    sample
        Share of the items to tune on; by default all of a small instance, 1 % of the largest.
    corrections
        How often to correct the sample's slopes by those of all items.
    whole_counts
        Whether to use that no part of a read is a miss; without it the bound is at most the plain LP's.
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
    best, chosen, tuner, ended = seal_ideal(instance), pick(kernel), None, Termination()
    try:
        stride = _stride(instance, sample, chosen)
        workers = threads or (_processors() if stride > 1 else 1)
        offsets = np.random.default_rng(seed).integers(stride, size=instance.layers)
        some = _items(instance, slice(None), offsets, stride, chosen, workers)
        warm_up(chosen)
        tuner = Tuner(instance, Rows.of(instance, whole_counts), some)
        price = partial(evaluate, instance, kernel=chosen, threads=workers, progress=progress)
        steps = _iterations(instance, stride) if iterations is None else iterations
        plan = _Plan(steps, corrections if stride > 1 else 0, time_limit, incumbent_s * (1 - gap))
        for found, termination in _climb(tuner, plan, price, progress):
            best = max(best, found, key=lambda certificate: certificate.bound_s)
            ended = termination
    except KeyboardInterrupt:
        ended = Termination("interrupted")
    return Tuned(best, tuner.average if tuner and tuner.stay.count else None, ended)


@dataclass(frozen=True)
class _Plan:
    """How long and how high to climb, and how often to correct a sample's slopes on the way."""

    iterations: int
    corrections: int
    limit_s: float
    target_s: float

    def parts(self) -> list[tuple[float, float]]:
        """Return when each part begins and how long it is, as shares of the whole."""
        if not self.corrections:
            return [(0.0, 1.0)]
        rest = (1 - _FIRST) / self.corrections
        return [(0.0, _FIRST), *((_FIRST + n * rest, rest) for n in range(self.corrections))]


def _climb(
    tuner: Tuner,
    plan: _Plan,
    price: Callable[[Certificate, bool], tuple[Certificate, Demand | None]],
    progress: Progress,
) -> Iterator[tuple[Certificate, Termination]]:
    """Tune part by part, and yield what each part proves and how it ended."""
    start, proved_s, ended = time.perf_counter(), 0.0, Termination()
    out_of_time, parts = Termination("limit", "time"), plan.parts()
    while parts:
        begin, share = parts.pop(0)
        report = _within(progress, begin, share, proved_s)
        try:
            deadline = start + plan.limit_s * (begin + share)
            if tuner.run(round(plan.iterations * share), deadline, plan.target_s, report):
                ended = out_of_time
        except KeyboardInterrupt:
            ended = Termination("interrupted")
        tuned = time.perf_counter()
        last = not parts or ended.reason == "interrupted" or tuned >= start + plan.limit_s
        found, demand = price(tuner.sealed(), not last)
        left = start + plan.limit_s - time.perf_counter()
        if not last and left <= 0:
            last, ended = True, out_of_time
        elif len(parts) > 1 and left < 2 * len(parts) * (time.perf_counter() - tuned):
            parts, ended = [(begin + share, 1 - begin - share)], out_of_time  # one evaluation, not several
        yield found, ended
        proved_s = max(proved_s, found.bound_s)
        if last or demand is None or proved_s >= plan.target_s:
            return
        tuner.correct(demand)


def _within(progress: Progress, begin: float, share: float, proved_s: float) -> Progress:
    """Report a part's progress as a share of the whole, beside what is proved already."""

    def report(done: float, total: float, note: str = "") -> None:
        progress(begin + share * done / total, 1.0, f"{note}, {proved_s:.6g} s proved")

    return report


def evaluate(
    instance: Instance,
    certificate: Certificate,
    with_demand: bool,
    kernel: Kernel,
    threads: int = 1,
    progress: Progress = silent,
) -> tuple[Certificate, Demand | None]:
    """Price all items, layer by layer.

    Returns
    -------
    The certificate with the bound it proves, and if wanted what all items use at its prices.
    """
    prices, capacity = certificate.prices.astype(np.float64), certificate.capacity.astype(np.float64)
    used, held = np.zeros_like(prices), np.zeros_like(capacity)
    everyone, total = np.zeros(instance.layers, np.int64), 0.0

    def one_layer(layer: int) -> tuple[float, Demand | None]:
        items = _items(instance, slice(layer, layer + 1), everyone, 1, kernel, 1)
        return items.evaluate(prices, capacity, with_demand)

    with _pool(threads) as pool:
        for layer, (value, demand) in enumerate(pool.map(one_layer, range(instance.layers))):
            progress(layer, instance.layers, "bound evaluated on all items")
            total += value
            if demand is not None:
                used[:, :, layer : layer + 1] += demand.used
                held += demand.held
    return claim(instance, certificate, total), Demand(used, held) if with_demand else None


@contextmanager
def _pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Run threads that stop soon when interrupted."""
    pool = ThreadPoolExecutor(threads)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _items(
    instance: Instance, layers: slice, offsets: NDArray[np.int64], stride: int, kernel: Kernel, threads: int
) -> Items:
    """Take every stride-th block of some layers, with the fast path where it applies."""
    lanes = Lanes.of(instance, layers, offsets, stride)
    return TwoTiers(instance, lanes, kernel, threads) if _simple(instance) else ManyTiers(instance, lanes)


def _simple(instance: Instance) -> bool:
    """Whether the fast paths apply."""
    return instance.inclusive and instance.tiers == 2 and instance.granularity == 1


def _iterations(instance: Instance, stride: int) -> int:
    cells = instance.layers * instance.blocks * instance.decode_steps / stride
    return int(np.clip(_WORK / (cells * (1 if _simple(instance) else _GENERAL)), _FEWEST, _MOST))


def _processors() -> int:
    """Count the processors that this process may use."""
    usable = getattr(os, "sched_getaffinity", None)  # Linux
    return len(usable(0)) if usable else os.cpu_count() or 1


def _stride(instance: Instance, sample: float | None, kernel: Kernel) -> int:
    """Every how manieth block to tune on: 1 or a multiple of 8, at least 64 blocks of a layer."""
    if sample is not None and not 0 < sample <= 1:
        raise UsageError(f"a sample is a share of the items in (0, 1], not {sample}")
    cells = instance.layers * instance.blocks * instance.decode_steps
    most = _CELLS[kernel] if _simple(instance) else _GENERAL_CELLS
    stride = min(cells / most if sample is None else 1 / sample, instance.blocks / 64)
    return 1 if stride < 5 else 8 * max(1, round(stride / 8))
