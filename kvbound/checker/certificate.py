"""Recompute the time lower bound that a certificate's multipliers prove, in exact integers.

The prices of slots' counts and of capacities decouple items from slots (Lagrangian relaxation). Any prices
give a valid bound: the least price of each item's path, plus the minimum over each slot's counts of its time
less the prices of these counts, minus the price of all capacity. An item's path is a shortest path over the
tiers it may be in (`paths`), a slot's minimum one over weights of resources and ranges of counts
(`slot_minima`).
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from typing import Any

import numpy as np

from kvbound.checker import dense_paths
from kvbound.checker.arrays import Source, load
from kvbound.checker.conclusion import prefill_first
from kvbound.checker.inputs import Case, Rows, check_identity, read_case
from kvbound.checker.multipliers import Multipliers, priced_capacities, read_multipliers
from kvbound.checker.paths import sum_of_paths
from kvbound.checker.report import Refused, Report
from kvbound.checker.slot_minima import sum_of_slots

SCHEMA = "kvbound.certificate/1"
_THREADS = min(os.cpu_count() or 1, 4)
"""Layers processed at once; each has its own arrays."""


def check_certificate(
    expanded: Mapping[str, Any], rows: Rows, certificate: Source, *, claimed_s: float | None = None
) -> Report:
    """Recompute a certificate's bound and compare it with what the certificate claims.

    Parameters
    ----------
    expanded
        The expanded instance.
    rows
        Per layer the packed read sets, uint8 ``(steps, 8 * ceil(tokens / 64))``, lowest bit first; None where
        the expanded instance says that reads are dense.
    certificate
        The npz file or its arrays.
    claimed_s
        A bound claimed elsewhere, in seconds.
    """
    sha256, problems = None, list[str]()
    try:
        case = read_case(expanded, rows)
        sha256 = case.sha256
        arrays = load(certificate)
        problems = check_identity(arrays, case, SCHEMA, "physical")
        given = read_multipliers(case, arrays)
        limits = priced_capacities(case, given)
    except Refused as refusal:
        return Report.refused(SCHEMA, refusal, problems, sha256)
    total = _sum_of_minima(case, given) - price_of_room(given, limits)
    bound_s = seconds(total, given.scale)
    problems += unproved(bound_s, given.bound_s, claimed_s, unit=unit_of(case))
    return Report(SCHEMA, tuple(problems), sha256, bound_s=bound_s, time_alone=case.objective.time_alone)


def unit_of(case: Case) -> str:
    """Return the unit of bounds, for messages: seconds where the objective is time alone."""
    return " s" if case.objective.time_alone else " of the objective"


def unproved(bound_s: float, *claims: float | None, unit: str = " s") -> list[str]:
    """Return one problem for each claimed bound that is above the proved one, both in seconds."""
    return [
        f"the claimed bound {claim!r}{unit} is not proved, only {bound_s!r}{unit} is"
        for claim in claims
        if claim is not None and not (math.isfinite(claim) and Fraction(claim) <= bound_s)
    ]


def price_of_room(given: Multipliers, limits: Mapping[int, int]) -> int:
    """Return the price of all room of the tiers with capacity prices; `limits` as `priced_capacities`."""
    return sum(room * int(given.capacity[k].sum(dtype=object)) for k, room in limits.items())


def _sum_of_minima(case: Case, given: Multipliers) -> int:
    """Return the sum of all items' and slots' minima, in units of 2**-scale seconds."""
    forced = prefill_first(case) if case.rules["initial"] == "prefill-first" else None
    closed = case.dense and case.granularity == 1
    paths = dense_paths.sum_of_paths(case, given, forced) if closed else 0
    slots = {layer: layer for layer in range(case.layers)}
    if case.dense and not case.by_step:  # layers alike in everything have the same minima
        slots = {layer: _alike(case, given, layer) for layer in range(case.layers)}

    def one(layer: int) -> int:
        items: int | None = 0
        if not closed:
            start = None if forced is None else forced[layer]
            items = sum_of_paths(case, given, layer, case.rows(layer), start)
        assert items is not None  # no state is closed
        if slots[layer] != layer:
            return items
        if case.by_step:
            return items
        least = sum_of_slots(case, given, [layer], [case.past_reads(layer)])
        assert least is not None  # some part of every slot is not empty
        return items + list(slots.values()).count(layer) * least

    if case.by_step:
        everything = range(case.layers)
        least = sum_of_slots(case, given, everything, [case.past_reads(layer) for layer in everything])
        assert least is not None
        paths += least
    pool = ThreadPoolExecutor(_THREADS)
    try:
        return paths + sum(pool.map(one, range(case.layers)))
    finally:
        pool.shutdown(cancel_futures=True)  # also on KeyboardInterrupt


def _alike(case: Case, given: Multipliers, layer: int) -> int:
    """Return the first layer with the same slots and multipliers of slots as a layer, perhaps itself."""
    tables = [given.prices, given.whole, given.theta]
    tables += [] if given.whole_writes is None else [given.whole_writes]
    for other in range(layer):
        same = case.lives[other] is case.lives[layer] and case.sizes(other) == case.sizes(layer)
        same &= bool(case.weight_reads[other] == case.weight_reads[layer])
        if same and all(np.array_equal(table[..., other], table[..., layer]) for table in tables):
            return other
    return layer


def seconds(total: int, scale: int) -> float:
    """Return total * 2**-scale rounded down, and clipped to the range of doubles."""
    most = Fraction(sys.float_info.max)
    exact = min(max(total / Fraction(2) ** scale, -most), most)
    nearest = float(exact)
    return nearest if Fraction(nearest) <= exact else math.nextafter(nearest, -math.inf)
