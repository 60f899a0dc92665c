"""What the multipliers of a certificate prove, evaluated on all items."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from kvbound.bitsets.lanes import Lanes
from kvbound.bitsets.two_tier import supports_two_tier_bits
from kvbound.certificate import Certificate
from kvbound.instance import Instance
from kvbound.kernels import Kernel, pick
from kvbound.progress import Progress, silent
from kvbound.solvers.dense import items as dense_items
from kvbound.solvers.dense.items import DenseItems
from kvbound.solvers.dense.paths import DensePaths
from kvbound.solvers.lagrangian.ascent import Multipliers
from kvbound.solvers.lagrangian.paths.multi_tier import MultiTierPaths
from kvbound.solvers.lagrangian.paths.two_tier import TwoTierPaths
from kvbound.solvers.lagrangian.rounding import claim_bound, round_multipliers
from kvbound.solvers.lagrangian.slots.minorants import SlotMinorants
from kvbound.solvers.lagrangian.subproblem import ItemSubproblem
from kvbound.solvers.lagrangian.touches import touch_prices


def evaluate_certificate(
    instance: Instance,
    certificate: Certificate,
    kernel: Kernel,
    threads: int = 1,
    progress: Progress = silent,
) -> Certificate:
    """Evaluate all items, layer by layer, and return the certificate with the bound it proves."""
    prices, capacity = certificate.prices.astype(np.float64), certificate.capacity.astype(np.float64)
    total = 0.0
    if dense_items.applies(instance):
        items = DensePaths(instance, DenseItems.of(instance), kernel, threads)
        return claim_bound(instance, certificate, items.evaluate(prices, capacity, demand=False)[0])

    def evaluate_layer(layer: int) -> float:
        layers = slice(layer, layer + 1)
        items = item_subproblem(instance, Lanes.all_of(instance, layers), kernel, 1, certificate.shares)
        return items.evaluate(prices, capacity, demand=False)[0]

    with thread_pool(threads) as pool:
        for layer, cost in enumerate(pool.map(evaluate_layer, range(instance.layers))):
            progress(layer, instance.layers, "bound evaluated on all items")
            total += cost
    return claim_bound(instance, certificate, total)


def prove(
    instance: Instance,
    multipliers: Multipliers,
    *,
    kernel: str | None = None,
    threads: int = 1,
    progress: Progress = silent,
) -> Certificate:
    """Round multipliers, and return the certificate with the bound they prove."""
    rounded = round_multipliers(instance, SlotMinorants.of(instance), *multipliers)
    return evaluate_certificate(instance, rounded, pick(kernel), threads, progress)


@contextmanager
def thread_pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Run threads; when interrupted, cancel the tasks that have not begun."""
    pool = ThreadPoolExecutor(threads)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def item_subproblem(
    instance: Instance, lanes: Lanes, kernel: Kernel, threads: int, shares: NDArray[np.int64] | None = None
) -> ItemSubproblem:
    """Return the subproblem of the items in some lanes, on the fast two-tier paths where they apply.

    Parameters
    ----------
    shares
        Those of a certificate.
    """
    if shares is not None:
        return MultiTierPaths(instance, lanes, kernel, threads, touch_prices(instance, lanes, shares))
    paths = TwoTierPaths if supports_two_tier_bits(instance) else MultiTierPaths
    return paths(instance, lanes, kernel, threads)
