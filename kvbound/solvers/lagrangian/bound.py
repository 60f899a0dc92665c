"""A time lower bound for instances of any size: Lagrangian decomposition into items and slots.

Prices on the counts that couple items and slots, and on capacity, separate the two: the cheapest path of an
item over the tiers, and the least time of a slot minus the prices paid to it. The prices are convex
combinations of slot minorants (`slots`), improved by first-order ascent (`ascent`), and evaluated on all
items; rounded to integers they are a certificate (`rounding`).

Equations: "Lagrangian bound" in docs/methods.md.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from kvbound.bitsets.lanes import Lanes, count_spans
from kvbound.bitsets.two_tier import supports_two_tier_bits
from kvbound.certificate import Certificate
from kvbound.errors import UsageError
from kvbound.instance import Instance
from kvbound.kernels import Kernel, pick
from kvbound.progress import Progress, silent
from kvbound.result import Bound, BoundStatus, Limit, Reason, Termination
from kvbound.solvers.dense import alike_layers, step_prices
from kvbound.solvers.dense import items as dense_items
from kvbound.solvers.dense.items import DenseItems
from kvbound.solvers.dense.paths import DensePaths
from kvbound.solvers.lagrangian.ascent import DualAscent, Multipliers
from kvbound.solvers.lagrangian.evaluation import evaluate_certificate, item_subproblem, thread_pool
from kvbound.solvers.lagrangian.paths.multi_tier import MultiTierPaths
from kvbound.solvers.lagrangian.rounding import (
    claim_bound,
    ideal_certificate,
    recover_multipliers,
)
from kvbound.solvers.lagrangian.slots.minorants import SlotMinorants
from kvbound.solvers.lagrangian.subproblem import ItemSubproblem
from kvbound.solvers.lagrangian.touches import TouchShares, supports

_SAMPLE_CELLS, _MULTI_TIER_SAMPLE_CELLS = {"numba": 1e8, "numpy": 4e7}, 2e7
"""Blocks times steps in a default sample: on two-tier paths, by kernel, and on multi-tier paths."""
_DEFAULT_WORK, _FEWEST, _MOST = 3e11, 250, 3000
"""The default number of iterations evaluates about so many blocks times steps in all, within these limits."""
_MULTI_TIER_COST = 20
"""Time that an evaluation takes on multi-tier paths, relative to two-tier paths."""
_TOUCHES_SHARE = 0.2
"""Share of the learning rates at which shares of waits are added to multipliers that are good without."""


@dataclass(frozen=True, eq=False)
class AscentResult:
    """Outcome of an ascent.

    Attributes
    ----------
    certificate
        The best multipliers and the time lower bound they prove, at least the ideal time.
    termination
        Whether the ascent was finished, out of time, or interrupted.
    multipliers
        The last multipliers; None if the ascent did not begin, or if it priced alike layers together.
    """

    certificate: Certificate
    termination: Termination
    multipliers: Multipliers | None


def solve_dual(instance: Instance, **options: Any) -> tuple[Bound, Certificate]:
    """Bound the decode time from below; options as for `maximize_dual`.

    Returns
    -------
    The bound, at least the ideal time, and its certificate; only claimed, as the checker has not seen it.

    Raises
    ------
    UsageError
        The accounting is not physical.
    """
    best = maximize_dual(instance, **options).certificate
    return Bound.of(instance, best.bound_s, BoundStatus.CLAIMED, "dual"), best


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
    integer_counts: bool = True,
    resume: Certificate | None = None,
    kernel: str | None = None,
    threads: int | None = None,
    progress: Progress = silent,
) -> AscentResult:
    """Maximize the dual function over the multipliers, and evaluate the bound they prove.

    Parameters
    ----------
    time_limit
        Seconds after which the ascent stops, excluding its preparation and the last evaluation on all items.
    gap, incumbent_s
        Stop when the bound is within `gap` of this decode time of a schedule.
    iterations
        Iterations of the ascent; by default 3000, for large instances fewer, at least 250.
    work
        Iterations without a time limit, and with the sample size of the compiled kernel, whichever kernel
        runs: the outcome is the same, to the last bit, on any machine.
    sample
        Share of the items evaluated in each iteration; by default all items of a small instance, 1 % of the
        largest.
    integer_counts
        Whether to exploit the integrality of the numbers of reads by tier; without it the bound is at most
        that of the plain LP relaxation.
    resume
        A certificate of the instance to start from, whose own bound is not evaluated again.
    kernel
        "numpy" or "numba"; None takes the faster one that is available.
    threads
        Number of threads; None takes one, or all processors if items are sampled. The numbers are the same.
    progress
        Called with the bound so far. An interrupt ends the ascent, a second one the evaluation.

    Raises
    ------
    UsageError
        The accounting is not physical.
    """
    if not instance.physical:
        raise UsageError("a bound needs accounting 'physical'")
    if (one := alike_layers.one_of(instance)) is not None:
        options: dict[str, Any] = {
            "time_limit": time_limit, "gap": gap, "incumbent_s": incumbent_s / instance.layers,
            "iterations": iterations, "work": work, "sample": sample,
            # an item of one layer is not one of a step
            "integer_counts": integer_counts and not instance.by_step,
        }  # fmt: skip
        resumed = None if resume is None else alike_layers.for_one(one, instance, resume)
        common: dict[str, Any] = {"kernel": kernel, "threads": threads, "progress": progress}
        ascended = maximize_dual(one, resume=resumed, **options, **common)
        return _for_all(instance, one, ascended, **common)
    best, chosen, termination, ascent = ideal_certificate(instance), pick(kernel), Termination(), None
    try:
        stride = _stride(instance, sample, chosen if work is None else "numba")
        if work is not None:
            iterations, time_limit = work, math.inf
        workers = threads or (_usable_processors() if stride > 1 else 1)
        _warm_up(instance, chosen)
        evaluate = partial(evaluate_certificate, instance, kernel=chosen, threads=workers, progress=progress)
        count = _default_iterations(instance, stride) if iterations is None else iterations
        target = incumbent_s * (1 - gap)
        with thread_pool(workers) as pool:
            draw = _sampler(instance, stride, seed, chosen, workers, pool)
            map_chunks = map if workers == 1 else pool.map
            minorants = SlotMinorants.of(instance, integer_counts)
            start, share = _start(instance, minorants, resume)
            stages = _stages(instance, minorants, stride, start)
            for n, sharing in enumerate(stages):
                touches = None
                if sharing:
                    touches = TouchShares(instance, minorants, start and start.shares)
                    lanes = Lanes.all_of(instance, slice(None))
                    draw = partial(MultiTierPaths, instance, lanes, chosen, workers)
                ascent = DualAscent(
                    instance, minorants, draw, sampled=stride > 1, map_chunks=map_chunks, start=start,
                    share=share, touches=touches,
                )  # fmt: skip
                report, limit_s = _part(progress, n, len(stages)), time_limit / len(stages)
                most = -(-count // len(stages))
                for found, reached in _ascend(ascent, most, limit_s, target, evaluate, report):
                    best = max(best, found, key=lambda certificate: certificate.bound_s)
                    termination = reached
                if termination.reason is Reason.INTERRUPTED or best.bound_s >= target:
                    break
                start, share = ascent.multipliers(), _TOUCHES_SHARE
    except KeyboardInterrupt:
        termination = Termination(Reason.INTERRUPTED)
    return AscentResult(best, termination, None if ascent is None else ascent.multipliers())


def _start(
    instance: Instance, minorants: SlotMinorants, resume: Certificate | None
) -> tuple[Multipliers | None, float]:
    """Return where the ascent starts, None if nowhere in particular, and the share of its rates there."""
    if resume is not None:
        found = Multipliers(*recover_multipliers(instance, minorants, resume))
        return found, 1.0 if found.shares is None else _TOUCHES_SHARE
    if step_prices.supports(instance):
        start = step_prices.multipliers(instance, minorants)
        return start, 1.0 if start is None else step_prices.SHARE
    return None, 1.0


def _stages(
    instance: Instance, minorants: SlotMinorants, stride: int, start: Multipliers | None
) -> list[bool]:
    """Return whether each ascent, one after the other, is one in shares of waits as well."""
    listed = stride == 1 and not dense_items.applies(instance)
    if not (listed and minorants.touching and supports(instance)):
        return [False]
    at_once = minorants.has_pairs or (start is not None and start.shares is not None)
    return [True] if at_once else [False, True]


def _part(progress: Progress, number: int, count: int) -> Progress:
    """Report the progress of one of several stages."""
    return lambda done, of, message: progress(number + done / of, count, message)


def _for_all(
    instance: Instance,
    one: Instance,
    ascended: AscentResult,
    *,
    kernel: str | None,
    threads: int | None,
    progress: Progress,
) -> AscentResult:
    """Return what the prices of one of the instance's alike layers prove for all of them."""
    ideal, best = (
        alike_layers.for_all(instance, each) for each in (ideal_certificate(one), ascended.certificate)
    )
    proved, termination = [claim_bound(instance, ideal, 0.0)], ascended.termination
    try:
        proved.append(evaluate_certificate(instance, best, pick(kernel), threads or 1, progress))
    except KeyboardInterrupt:
        termination = Termination(Reason.INTERRUPTED)
    return AscentResult(max(proved, key=lambda each: each.bound_s), termination, None)


def _sampler(
    instance: Instance, stride: int, seed: int, kernel: Kernel, threads: int, pool: ThreadPoolExecutor
) -> Callable[[], ItemSubproblem]:
    """Return a function that draws the items of an iteration: a new sample, or with stride 1 all items."""
    generator = np.random.default_rng(seed)

    if dense_items.applies(instance):
        dense = DensePaths(instance, DenseItems.of(instance), kernel, threads)
        return lambda: dense

    def gather() -> ItemSubproblem:
        return item_subproblem(instance, Lanes.sample(instance, stride, generator), kernel, threads)

    if stride == 1:
        all_items = gather()
        return lambda: all_items
    following = pool.submit(gather)

    def draw() -> ItemSubproblem:
        nonlocal following
        items, following = following.result(), pool.submit(gather)
        return items

    return draw


def _ascend(
    ascent: DualAscent,
    iterations: int,
    limit_s: float,
    target: float,
    evaluate: Callable[[Certificate], Certificate],
    progress: Progress,
) -> Iterator[tuple[Certificate, Termination]]:
    """Ascend until the target is proved or the end is reached; yield each certificate and termination."""
    start, level = time.perf_counter(), target
    while True:
        try:
            done = ascent.run(iterations, start, limit_s, level, progress)
            late = done >= 1 and ascent.count < iterations
            termination = Termination(Reason.LIMIT, Limit.TIME) if late else Termination()
        except KeyboardInterrupt:
            done, termination = 1.0, Termination(Reason.INTERRUPTED)
        found = evaluate(ascent.rounded())
        yield found, termination
        if done >= 1 or found.bound_s >= target:
            return
        level = ascent.value_s * target / found.bound_s  # the estimate was above the bound


def _warm_up(instance: Instance, kernel: Kernel) -> None:
    """Compile the kernels before the time limit starts: this takes seconds the first time."""
    if dense_items.applies(instance):
        items: ItemSubproblem = DensePaths(instance, DenseItems.of(instance), kernel)
    else:
        lanes = Lanes.of(instance, slice(1), np.zeros(1, np.int64), count_spans(instance))
        items = item_subproblem(instance, lanes, kernel, 1)
    slots = instance.decode_steps, instance.layers
    capacity = np.zeros((instance.tiers, 1 + math.prod(slots)))
    items.evaluate(np.zeros((3 * instance.tiers, *slots)), capacity)


def _default_iterations(instance: Instance, stride: int) -> int:
    if dense_items.applies(instance):
        return _MOST
    cells = instance.layers * instance.blocks * instance.decode_steps / stride
    cost = 1 if supports_two_tier_bits(instance) else _MULTI_TIER_COST
    return int(np.clip(_DEFAULT_WORK / (cells * cost), _FEWEST, _MOST))


def _usable_processors() -> int:
    """Count the processors that this process may use."""
    usable = getattr(os, "sched_getaffinity", None)  # Linux
    return len(usable(0)) if usable else os.cpu_count() or 1


def _stride(instance: Instance, sample: float | None, kernel: Kernel) -> int:
    """Sampling stride, in spans of blocks; see `Lanes.of`."""
    if sample is not None and not 0 < sample <= 1:
        raise UsageError(f"a sample is a share of the items in (0, 1], not {sample}")
    # chunks are few and large: a sample would leave most of them out; dense items are counted, not listed
    if instance.chunks.ids or dense_items.applies(instance):
        return 1
    cells = instance.layers * instance.blocks * instance.decode_steps
    most = _SAMPLE_CELLS[kernel] if supports_two_tier_bits(instance) else _MULTI_TIER_SAMPLE_CELLS
    stride = min(cells / most if sample is None else 1 / sample, count_spans(instance))
    return 1 if stride < 5 else round(stride)
