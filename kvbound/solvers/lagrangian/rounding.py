"""From multipliers to a certificate: integers in a fixed unit of time, and the bound that they prove.

Equations: "Rounding to a certificate" in docs/methods.md.
"""

from __future__ import annotations

import dataclasses
import math
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvbound.arithmetic import combine, solve
from kvbound.certificate import FULL, MOST_SCALE, Certificate
from kvbound.cost.ideal import ideal
from kvbound.instance import Instance
from kvbound.rules import Timing
from kvbound.solvers.lagrangian.slots.bounds import (
    SlotLimits,
    reading_tiers,
    resource_order,
    slot_bounds,
)
from kvbound.solvers.lagrangian.slots.minorants import SlotMinorants, ideal_theta

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

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
    instance: Instance,
    minorants: SlotMinorants,
    weights: Floats,
    capacity: Floats,
    shares: Floats | None = None,
) -> Certificate:
    """Round multipliers to a certificate that claims no bound yet.

    Parameters
    ----------
    weights
        Weights of the minorants, (minorants, steps, layers), sum 1.
    capacity
        Capacity price of a unit in seconds, (K, 1 + steps * layers).
    shares
        Shares of waits in seconds, (late tiers, steps, layers, blocks).
    """
    cases = _cases(instance, minorants)
    theta = np.stack([_resource_weights(minorants, weights, case) for case in cases])
    has_chords, splits = len(weights) > len(minorants.beta), minorants.splits
    splits = splits if has_chords else np.full_like(splits, -1)
    prices = minorants.prices(weights)
    return rounded(instance, prices, capacity, theta, minorants.tier, *splits, shares=shares)


def ideal_certificate(instance: Instance) -> Certificate:
    """Return the certificate of the ideal time: all prices are zero, so that every path costs nothing."""
    slots, tiers = (instance.decode_steps, instance.layers), instance.tiers
    theta = np.repeat(ideal_theta(instance), 2, axis=0)
    capacity = np.zeros((tiers, 1 + slots[0] * slots[1]))
    prices, split = np.zeros((3 * tiers, *slots)), np.full(theta.shape[2:], -1, np.int64)
    return claim_bound(instance, rounded(instance, prices, capacity, theta, tiers - 1, split), 0.0)


def recover_multipliers(
    instance: Instance, minorants: SlotMinorants, certificate: Certificate
) -> tuple[Floats, Floats, Floats | None]:
    """Return minorant weights that nearly reproduce a certificate's prices, its capacity prices and shares.

    The weights are least squares in the prices of counts, the resource weights and the sum, 1, with negative
    weights set to zero. Shapes and units as for `round_multipliers`.
    """
    unit, highest = 2.0**certificate.scale, float(minorants.beta.max())
    tiers, layers = instance.tiers, _largest(instance)
    prices = np.moveaxis(certificate.prices[:, :, layers] / (unit * highest), 0, -1)
    cases, given = _cases(instance, minorants), certificate.theta / FULL
    theta = np.empty((len(cases), *given.shape[1:]))
    theta[:, resource_order(instance)] = given[np.arange(len(cases)) % len(given)]
    goal = np.concatenate([prices, *np.moveaxis(theta, 1, -1), np.ones_like(prices[..., :1])], axis=-1)
    matrix = np.zeros((*certificate.whole.shape, len(minorants.alpha), goal.shape[-1]))
    for row, alone in enumerate(np.eye(len(minorants.alpha))):
        weights = np.broadcast_to(alone[:, None, None], minorants.alpha.shape)
        of_counts = minorants.prices(weights)[:, :, layers]
        matrix[..., row, : 3 * tiers] = np.moveaxis(of_counts, 0, -1) / highest
        behind = [_resource_weights(minorants, weights, case) for case in cases]
        matrix[..., row, 3 * tiers : -1] = np.moveaxis(np.concatenate(behind), 0, -1)
    matrix[..., -1] = 1
    rows = np.moveaxis(matrix, -2, 0)
    square = np.array([[(one * other).sum(axis=-1) for other in rows] for one in rows])
    square[np.diag_indices(len(rows))] += _RIDGE
    weights = np.maximum(solve(square, np.array([(one * goal).sum(axis=-1) for one in rows])), 0) + _RIDGE
    shares = None if certificate.shares is None else certificate.shares / unit
    return weights / weights.sum(axis=0), np.maximum(certificate.capacity, 0) / unit, shares


def _largest(instance: Instance) -> slice:
    """Return the layers whose prices determine the rest: all, or one with the largest items."""
    largest = int(instance.units.argmax())
    return slice(largest, largest + 1) if instance.by_step else slice(None)


class _Case(NamedTuple):
    """A case of a certificate: the tiers that may serve reads, (K,), and the facets that replace the chords,
    (C, steps, layers)."""

    reading: Bools
    ends: Ints


def _cases(instance: Instance, minorants: SlotMinorants) -> list[_Case]:
    """Return the cases of a certificate, in its order."""
    count = len(minorants.splits)
    (reads, *writes), touching = minorants.ends[:count], minorants.ends[count:]
    cases = []
    for number in range(1 << len(instance.memory.late_tiers)):
        reading = reading_tiers(instance, number)
        touched = [ends[int(reading[k])] for k, ends in zip(minorants.touching, touching, strict=True)]
        for others, end in product(product(*writes), reads):
            cases.append(_Case(reading, np.stack([end, *others, *touched])))
    return cases


def rounded(
    instance: Instance,
    prices: Floats,
    capacity: Floats,
    theta: Floats,
    tier: int,
    whole: Ints,
    whole_writes: Ints | None = None,
    *,
    shares: Floats | None = None,
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
    scale = _scale(instance, prices, capacity, shares, bits)
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
        shares=None if shares is None else np.floor(shares * unit).astype(np.int64),
        theta=_integer_theta(instance, theta)[:, resource_order(instance)],
        mixed=not instance.objective.time_alone,
    )


def _scale(instance: Instance, prices: Floats, capacity: Floats, shares: Floats | None, bits: int) -> int:
    """Largest scale at which the ideal time and the price of any path keep within their bits."""
    longest = capacity.sum(axis=1).max() * int(instance.block_units.max())
    longest += (
        4 * instance.granularity * instance.chunks.largest * float(np.abs(prices).max(axis=(0, 2)).sum())
    )
    if shares is not None:
        longest += float(shares.max(axis=0).sum(axis=0).max())
    scales = [bits - math.frexp(ideal(instance))[1]]
    if longest > 0:
        scales.append(_PATH_BITS - math.frexp(longest)[1])
    return min(max(min(scales), -MOST_SCALE), MOST_SCALE)


def _resource_weights(minorants: SlotMinorants, weights: Floats, case: _Case) -> Floats:
    """Resource weights that prove the mixed minorants in a case, (R, steps, layers)."""
    facets = np.zeros((len(minorants.theta), *weights.shape[1:]))
    for weight, (idle, busy, tier) in zip(weights, minorants.behind.tolist(), strict=False):
        facets[busy if tier >= 0 and case.reading[tier] else idle] += weight
    for weight, end in zip(weights[len(minorants.beta) :], case.ends, strict=False):
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


def claim_bound(
    instance: Instance, certificate: Certificate, items: float, within: SlotLimits | None = None
) -> Certificate:
    """Return the certificate with its bound, rounded down.

    The checker proves at least this bound: it rounds every slot and latency down by less than a unit, and the
    rounding errors of the terms are below the slack.

    Parameters
    ----------
    items
        Cost of the best paths of all items, in units.
    within
        What is known of slots, by default nothing. If some slot has no way to serve its reads within it, the
        bound is infinite.
    """
    slots, magnitude = slot_bounds(instance, certificate, within)
    if np.isinf(slots).any():
        return dataclasses.replace(certificate, bound_s=math.inf)
    capacity = math.fsum(
        float(prices.sum()) * (limit or 0)
        for limit, prices in zip(
            instance.capacity_units, certificate.capacity.astype(np.float64), strict=True
        )
    )
    roundings = 16 + 2 * instance.tiers + len(instance.memory.resources)
    slack = _RELATIVE_SLACK * (math.fsum(np.abs(slots).ravel()) + abs(items) + capacity)
    slack = max(slack, roundings * _HALF_ULP * (math.fsum(magnitude.ravel()) + abs(items) + capacity))
    slack += slots.size * (1 + len(instance.memory.late_tiers))
    total = max(0.0, math.fsum(slots.ravel()) + items - capacity - slack)
    return dataclasses.replace(certificate, bound_s=math.ldexp(total, -certificate.scale))
