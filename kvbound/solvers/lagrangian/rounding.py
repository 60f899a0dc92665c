"""From multipliers to a certificate: integers in a fixed unit of time, and the bound that they prove.

Equations: "Rounding to a certificate" in docs/methods.md.
"""

from __future__ import annotations

import dataclasses
import math
from itertools import product

import numpy as np
from numpy.typing import NDArray

from kvbound.arithmetic import combine, solve
from kvbound.certificate import FULL, MOST_SCALE, Certificate
from kvbound.cost.ideal import Slots, ideal
from kvbound.instance import Instance
from kvbound.rules import Timing
from kvbound.solvers.lagrangian.minorants import SlotMinorants, ideal_theta, sure_latency

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_IDEAL_BITS = 54
"""The ideal time is about 2**54 units, so that a unit per slot is far below the precision of a float64."""
_PATH_BITS = 52
"""Sums of prices along an item's path stay exact in float64."""
_RELATIVE_SLACK = 1e-12
"""Slack relative to the sums over slots, items and capacity; errors are smaller unless terms cancel."""
_HALF_ULP = 2.0**-53
_RIDGE = 1e-9
"""Regularization of the least squares, for minorants that are equal, and the smallest weight."""


def round_multipliers(
    instance: Instance, minorants: SlotMinorants, weights: Floats, capacity: Floats
) -> Certificate:
    """Round multipliers to a certificate that claims no bound yet.

    Parameters
    ----------
    weights
        Weights of the minorants, (minorants, steps, layers), sum 1.
    capacity
        Capacity price of a unit in seconds, (K, 1 + steps * layers).
    """
    theta = np.stack([_resource_weights(minorants, weights, ends) for ends in _cases(minorants)])
    has_chords = len(weights) > len(minorants.beta)
    splits = minorants.breakpoints if has_chords else np.full_like(minorants.breakpoints, -1)
    return rounded(instance, minorants.prices(weights), capacity, theta, minorants.tier, *splits)


def ideal_certificate(instance: Instance) -> Certificate:
    """Return the certificate of the ideal time: all prices are zero, so that every path costs nothing."""
    slots, tiers = (instance.decode_steps, instance.layers), instance.tiers
    theta = np.repeat(ideal_theta(instance)[None], 2, axis=0)
    capacity = np.zeros((tiers, 1 + slots[0] * slots[1]))
    prices, split = np.zeros((3 * tiers, *slots)), np.full(slots, -1, np.int64)
    return claim_bound(instance, rounded(instance, prices, capacity, theta, tiers - 1, split), 0.0)


def recover_multipliers(
    instance: Instance, minorants: SlotMinorants, certificate: Certificate
) -> tuple[Floats, Floats]:
    """Return minorant weights that nearly reproduce a certificate's prices, and its capacity prices.

    The weights are least squares in the prices of counts, the resource weights and the sum, 1, with negative
    weights set to zero. Shapes and units as for `round_multipliers`.
    """
    unit, highest = 2.0**certificate.scale, float(minorants.beta.max())
    prices, tiers = np.moveaxis(certificate.prices / (unit * highest), 0, -1), instance.tiers
    cases, given = _cases(minorants), certificate.theta / FULL
    theta = np.empty((len(cases), *given.shape[1:]))
    theta[:, _sorted_resources(instance)] = given[np.arange(len(cases)) % len(given)]
    goal = np.concatenate([prices, *np.moveaxis(theta, 1, -1), np.ones_like(prices[..., :1])], axis=-1)
    matrix = np.zeros((*certificate.whole.shape, len(minorants.alpha), goal.shape[-1]))
    for row, alone in enumerate(np.eye(len(minorants.alpha))):
        weights = np.broadcast_to(alone[:, None, None], minorants.alpha.shape)
        matrix[..., row, : 3 * tiers] = np.moveaxis(minorants.prices(weights), 0, -1) / highest
        behind = [_resource_weights(minorants, weights, ends) for ends in cases]
        matrix[..., row, 3 * tiers : -1] = np.moveaxis(np.concatenate(behind), 0, -1)
    matrix[..., -1] = 1
    rows = np.moveaxis(matrix, -2, 0)
    square = np.array([[(one * other).sum(axis=-1) for other in rows] for one in rows])
    square[np.diag_indices(len(rows))] += _RIDGE
    weights = np.maximum(solve(square, np.array([(one * goal).sum(axis=-1) for one in rows])), 0) + _RIDGE
    return weights / weights.sum(axis=0), np.maximum(certificate.capacity, 0) / unit


def _cases(minorants: SlotMinorants) -> list[Ints]:
    """Return the facets that replace the chords in each case of a certificate, each (C, steps, layers)."""
    reads, *writes = minorants.ends
    return [np.stack([end, *others]) for others in product(*writes) for end in reads]


def rounded(
    instance: Instance,
    prices: Floats,
    capacity: Floats,
    theta: Floats,
    tier: int,
    whole: Ints,
    whole_writes: Ints | None = None,
    *,
    bits: int = _IDEAL_BITS,
) -> Certificate:
    """Round multipliers in seconds to a certificate that claims no bound yet; its arrays, not yet integers.

    Parameters
    ----------
    theta
        Weights of the resources in the order of the memory, (2 or 4, R, steps, layers), sum at most 1.
    bits
        The ideal time is below 2 to this power of units.
    """
    scale = _scale(instance, prices, capacity, bits)
    unit = 2.0**scale
    return Certificate(
        instance.sha256,
        bound_s=0.0,
        scale=scale,
        capacity=np.floor(capacity * unit).astype(np.int64),
        prices=np.floor(prices * unit).astype(np.int64),
        tier=tier,
        whole=whole,
        whole_writes=whole_writes,
        theta=_integer_theta(instance, theta)[:, _sorted_resources(instance)],
    )


def _sorted_resources(instance: Instance) -> list[int]:
    """Positions of the resources in the order of their names."""
    names = list(instance.memory.resources)
    return sorted(range(len(names)), key=names.__getitem__)


def _scale(instance: Instance, prices: Floats, capacity: Floats, bits: int) -> int:
    """Largest scale at which the ideal time and the price of any path keep within their bits."""
    longest = capacity.sum(axis=1).max() * int(instance.block_units.max())
    longest += (
        4 * instance.granularity * instance.chunks.largest * float(np.abs(prices).max(axis=(0, 2)).sum())
    )
    scales = [bits - math.frexp(ideal(instance))[1]]
    if longest > 0:
        scales.append(_PATH_BITS - math.frexp(longest)[1])
    return min(max(min(scales), -MOST_SCALE), MOST_SCALE)


def _resource_weights(minorants: SlotMinorants, weights: Floats, ends: Ints) -> Floats:
    """Resource weights that prove the mixed minorants in one of `_cases`, (R, steps, layers)."""
    facets = weights[: len(minorants.beta)].copy()
    for weight, end in zip(weights[len(minorants.beta) :], ends, strict=False):
        np.put_along_axis(facets, end[None], np.take_along_axis(facets, end[None], 0) + weight, 0)
    return combine(minorants.theta.T, facets)


def _integer_theta(instance: Instance, theta: Floats) -> Ints:
    """Round (2, R, steps, layers) so that the weights of parallel resources add up to at most FULL."""
    if instance.rules.timing is Timing.SERIAL:
        return np.full(theta.shape, FULL, np.int64)
    share = theta / np.maximum(theta.sum(axis=1, keepdims=True), 1.0)
    integer = np.rint(share * FULL).astype(np.int64)
    excess = np.maximum(integer.sum(axis=1, keepdims=True) - FULL, 0)
    largest = integer.argmax(axis=1)[:, None]
    np.put_along_axis(integer, largest, np.take_along_axis(integer, largest, 1) - excess, 1)
    return integer


def slot_bounds(
    instance: Instance, certificate: Certificate, reads: tuple[Ints, Ints] | None = None
) -> tuple[Floats, Floats]:
    """Return the least time of every slot minus the prices paid to it, in units, (steps, layers).

    These are the linear minimizations of the checker, one for each case, in floating point.

    Parameters
    ----------
    reads
        The range of items that each slot reads at the certificate's tier, moved from there or not, if it is
        known to be smaller: the least and the largest number, (steps, layers) each. Where it is empty the
        bound is infinite.

    Returns
    -------
    The bounds, and the sums of their terms' magnitudes, which limit the rounding errors where terms cancel.
    """
    slots = Slots.of(instance)
    least, magnitude = np.full(slots.reads.shape, np.inf), np.zeros(slots.reads.shape)
    for case in range(len(certificate.theta)):
        value, terms = _case_bound(instance, certificate, case, slots, reads)
        least, magnitude = np.minimum(least, value), np.maximum(magnitude, terms)
    return least, magnitude


def _case_bound(
    instance: Instance, certificate: Certificate, case: int, slots: Slots, within: tuple[Ints, Ints] | None
) -> tuple[Floats, Floats]:
    """Bound slots in one of the certificate's cases, infinity where it is empty; see `slot_bounds`."""
    more_writes, more_reads = divmod(case, 2)
    reads, born = slots.reads.astype(np.float64), slots.births.astype(np.float64)
    live = instance.live_items[:-1].astype(np.float64)
    memory, tiers = instance.memory, instance.tiers
    sizes = np.array(instance.unit_sizes, np.float64)[:, None, None] * instance.units
    order, unit, slow = _sorted_resources(instance), 2.0**certificate.scale, certificate.tier
    paid = certificate.prices.astype(np.float64).reshape(3, tiers, *reads.shape)
    cost = certificate.theta[case] * (unit / FULL / memory.bandwidths[order])[:, None, None]
    byte = combine(memory.read_load[:, order], cost)
    held, wrote = sizes * byte, sizes * combine(memory.write_load[:, order], cost)
    read = (np.minimum(held, held[-1]) if instance.inclusive else held) - paid[0]
    extra, write = held - paid[1], wrote - paid[2]
    weights = byte[0] * instance.weight_reads
    other = np.delete(read, slow, axis=0).min(axis=0)
    fixed = weights + reads * other
    fixed += np.minimum(np.delete(extra, slow, axis=0), 0).sum(axis=0) * (live - reads)
    (low, high), (least, most) = (
        _range(certificate.whole, live, more_reads),
        _range(certificate.whole_writes, live + born, more_writes),
    )
    if within is not None:
        low, high = np.maximum(low, within[0]), np.minimum(high, within[1])
    if instance.inclusive:
        fixed += born * write[-1] + np.minimum(write[:-1], 0).sum(axis=0) * (live + born)
    else:
        target, others = write[slow], np.delete(write, slow, axis=0)
        fixed += np.minimum(others, 0).sum(axis=0) * (live + born)
        elsewhere = np.maximum(others.min(axis=0), 0)
        numbers = (least, most, np.clip(born, least, most))
        fixed += np.min([target * n + elsewhere * np.maximum(born - n, 0) for n in numbers], axis=0)
    here = read[slow] - other
    slope = np.minimum(here, extra[slow])
    floor = np.minimum(here, 0) * reads + np.minimum(extra[slow], 0) * (live - reads)
    touched = (low > 0) | (least > 0)
    latency = np.where(touched, sure_latency(instance, slots, slow), sure_latency(instance, slots))
    value = fixed + unit * latency + np.maximum(np.minimum(slope * low, slope * high), floor)
    terms = np.abs(paid) + np.stack([held, held, wrote])
    magnitude = 3 * reads * terms[0].max(axis=0) + (live - reads) * terms[1].sum(axis=0)
    magnitude += (live + 2 * born) * terms[2].sum(axis=0)
    return np.where((high < low) | (most < least), np.inf, value), magnitude + weights


def _range(whole: Ints | None, most: Floats, more: int) -> tuple[Floats, Floats]:
    """Return the least and the largest number of items up to `whole`, or above it, (steps, layers) each."""
    if whole is None:
        return np.zeros_like(most), most
    if more:
        return np.maximum(whole + 1.0, 0), most
    return np.zeros_like(most), np.minimum(whole, most)


def claim_bound(
    instance: Instance, certificate: Certificate, items: float, reads: tuple[Ints, Ints] | None = None
) -> Certificate:
    """Return the certificate with its bound, rounded down.

    The checker proves at least this bound: it rounds every slot and latency down by less than a unit, and the
    rounding errors of the terms are below the slack.

    Parameters
    ----------
    items
        Cost of the best paths of all items, in units.
    reads
        As for `slot_bounds`, whose bounds must be finite.
    """
    slots, magnitude = slot_bounds(instance, certificate, reads)
    capacity = math.fsum(
        float(prices.sum()) * (limit or 0)
        for limit, prices in zip(
            instance.capacity_units, certificate.capacity.astype(np.float64), strict=True
        )
    )
    roundings = 16 + 2 * instance.tiers + len(instance.memory.resources)
    slack = _RELATIVE_SLACK * (math.fsum(np.abs(slots).ravel()) + abs(items) + capacity)
    slack = max(slack, roundings * _HALF_ULP * (math.fsum(magnitude.ravel()) + abs(items) + capacity))
    slack += slots.size * (1 + sum(tier.latency > 0 for tier in instance.memory.tiers))
    total = max(0.0, math.fsum(slots.ravel()) + items - capacity - slack)
    return dataclasses.replace(certificate, bound_s=math.ldexp(total, -certificate.scale))
