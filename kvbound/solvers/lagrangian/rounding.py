"""From tuned multipliers to a certificate: integers in a fixed unit of time, and what they prove.

Equations: "Rounding to a certificate" in docs/methods.md.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray

from kvbound.arithmetic import combine, solve
from kvbound.certificate import FULL, MOST_SCALE, Certificate
from kvbound.cost.ideal import ideal
from kvbound.instance import Instance, Timing
from kvbound.solvers.lagrangian.minorants import SlotMinorants, ideal_theta, sure_latency

Floats = NDArray[np.float64]

_BITS = 54
"""The ideal time is about 2**54 units: a unit per slot is far below the precision of a float64."""
_PATH_BITS = 52
"""Prices along an item's path stay exact in float64."""
_SLACK = 1e-12
"""Relative to what slots, items and room come to; floating point errs less, unless terms cancel."""
_ROUNDING = 2.0**-53

_RIDGE = 1e-9
"""Keeps rows apart that say the same."""


def round_multipliers(
    instance: Instance, rows: SlotMinorants, weights: Floats, capacity: Floats
) -> Certificate:
    """Round multipliers; the certificate claims nothing yet.

    Parameters
    ----------
    weights
        Of the rows, (rows, steps, layers), sum 1.
    capacity
        Price of a block's room in seconds, (K, 1 + steps * layers).
    """
    theta = np.stack([_theta(rows, weights, end) for end in rows.ends])
    chorded = len(weights) > len(rows.beta)
    whole = rows.whole if chorded else np.full_like(rows.whole, -1)
    return _rounded(instance, rows.prices(weights), capacity, theta, rows.tier, whole)


def ideal_certificate(instance: Instance) -> Certificate:
    """Return the certificate of the ideal time: everything is free, and so all items are where they like."""
    slots, tiers = (instance.decode_steps, instance.layers), instance.tiers
    theta = np.repeat(ideal_theta(instance)[None], 2, axis=0)
    capacity = np.zeros((tiers, 1 + slots[0] * slots[1]))
    prices, whole = np.zeros((3 * tiers, *slots)), np.full(slots, -1, np.int64)
    return claim_bound(instance, _rounded(instance, prices, capacity, theta, tiers - 1, whole), 0.0)


def recover_multipliers(
    instance: Instance, rows: SlotMinorants, certificate: Certificate
) -> tuple[Floats, Floats]:
    """Return row weights that nearly have a certificate's prices, and its prices of room; see `round_multipliers`.

    By least squares in what is charged, in the weights of the resources and in the sum, 1; then nothing
    below 0.
    """
    unit, facets, dear = 2.0**certificate.scale, len(rows.beta), float(rows.beta.max())
    charged, tiers = np.moveaxis(certificate.prices / (unit * dear), 0, -1), instance.tiers
    theta = np.empty(certificate.theta.shape)
    theta[:, _sorted_resources(instance)] = certificate.theta / FULL
    says = np.concatenate([charged, *np.moveaxis(theta, 1, -1), np.ones_like(charged[..., :1])], axis=-1)
    row = np.zeros((*certificate.whole.shape, len(rows.alpha), says.shape[-1]))
    row[..., -1] = 1
    row[..., :facets, :-1] = np.concatenate([rows.beta / dear, rows.theta, rows.theta], axis=1)
    if len(rows.alpha) > facets:
        row[..., -1, [rows.tier, tiers + rows.tier]] = rows.chord[..., None] / dear
        row[..., -1, 3 * tiers : -1] = np.concatenate([*rows.theta[rows.ends]], axis=-1)
    each = np.moveaxis(row, -2, 0)
    square = np.array([[(one * other).sum(axis=-1) for other in each] for one in each])
    square[np.diag_indices(len(each))] += _RIDGE
    weights = np.maximum(solve(square, np.array([(one * says).sum(axis=-1) for one in each])), 0) + _RIDGE
    return weights / weights.sum(axis=0), np.maximum(certificate.capacity, 0) / unit


def _rounded(
    instance: Instance, prices: Floats, capacity: Floats, theta: Floats, tier: int, whole: NDArray[np.int64]
) -> Certificate:
    scale = _scale(instance, prices, capacity)
    unit = 2.0**scale
    return Certificate(
        instance.sha256,
        bound_s=0.0,
        scale=scale,
        capacity=np.floor(capacity * unit).astype(np.int64),
        prices=np.floor(prices * unit).astype(np.int64),
        tier=tier,
        whole=whole,
        theta=_whole_theta(instance, theta)[:, _sorted_resources(instance)],
    )


def _sorted_resources(instance: Instance) -> list[int]:
    names = list(instance.memory.resources)
    return sorted(range(len(names)), key=names.__getitem__)


def _scale(instance: Instance, prices: Floats, capacity: Floats) -> int:
    longest = capacity.sum(axis=1).max()
    longest += 4 * instance.granularity * float(np.abs(prices).max(axis=(0, 2)).sum())
    fine = [_BITS - math.frexp(ideal(instance))[1]]
    if longest > 0:
        fine.append(_PATH_BITS - math.frexp(longest)[1])
    return min(max(min(fine), -MOST_SCALE), MOST_SCALE)


def _theta(rows: SlotMinorants, weights: Floats, end: NDArray[np.int64]) -> Floats:
    """Resource weights that prove the rows' mix on one side of the chord, (R, steps, layers)."""
    facets = weights[: len(rows.beta)].copy()
    for weight in weights[len(rows.beta) :]:
        np.put_along_axis(facets, end[None], np.take_along_axis(facets, end[None], 0) + weight, 0)
    return combine(rows.theta.T, facets)


def _whole_theta(instance: Instance, theta: Floats) -> NDArray[np.int64]:
    """Round (2, R, steps, layers) so that parallel weights still add up to at most FULL."""
    if instance.rules.timing is Timing.SERIAL:
        return np.full(theta.shape, FULL, np.int64)
    share = theta / np.maximum(theta.sum(axis=1, keepdims=True), 1.0)
    whole = np.rint(share * FULL).astype(np.int64)
    excess = np.maximum(whole.sum(axis=1, keepdims=True) - FULL, 0)
    largest = whole.argmax(axis=1)[:, None]
    np.put_along_axis(whole, largest, np.take_along_axis(whole, largest, 1) - excess, 1)
    return whole


def slot_bounds(instance: Instance, certificate: Certificate) -> tuple[Floats, Floats]:
    """Return what every slot takes at least beyond the prices paid to it, in units, (steps, layers).

    The same two linear minimisations as the checker's, in floating point. Beside it stands what the terms
    add up to without their signs, which says how far rounding can reach where they cancel.
    """
    memory, tiers, size = instance.memory, instance.tiers, instance.item_bytes
    order, unit = _sorted_resources(instance), 2.0**certificate.scale
    reads = instance.trace.past_counts().astype(np.float64)
    past = instance.prefill_tokens + np.arange(instance.decode_steps, dtype=np.float64)[:, None]
    paid = certificate.prices.astype(np.float64).reshape(3, tiers, *reads.shape)
    slow, least, mass = certificate.tier, np.full(reads.shape, np.inf), np.zeros(reads.shape)
    for more, theta in enumerate(certificate.theta):
        cost = theta * (unit / FULL / memory.bandwidths[order])[:, None, None]
        held = combine(memory.read_load[:, order], cost)
        wrote = combine(memory.write_load[:, order], cost)
        read = size * (np.minimum(held, held[-1]) if instance.inclusive else held) - paid[0]
        extra, write = size * held - paid[1], size * wrote - paid[2]
        other = np.delete(read, slow, axis=0).min(axis=0)
        fixed = held[0] * instance.llm.weight_reads + reads * other
        fixed += np.minimum(np.delete(extra, slow, axis=0), 0).sum(axis=0) * (past - reads)
        births = write[-1] if instance.inclusive else np.maximum(write.min(axis=0), 0)
        optional = write[: tiers - instance.inclusive]
        fixed += births + np.minimum(optional, 0).sum(axis=0) * (past + 1)
        here = read[slow] - other
        slope = np.minimum(here, extra[slow])
        floor = np.minimum(here, 0) * reads + np.minimum(extra[slow], 0) * (past - reads)
        low = np.maximum(certificate.whole + 1.0, 0) if more else np.zeros_like(reads)
        high = past + 0 * reads if more else np.minimum(certificate.whole, past)
        latency = np.where(low > 0, sure_latency(instance, slow), sure_latency(instance))
        value = fixed + unit * latency + np.maximum(np.minimum(slope * low, slope * high), floor)
        least = np.where(high < low, least, np.minimum(least, value))
        terms = np.abs(paid) + size * np.stack([held, held, wrote])
        asked = 3 * reads * terms[0].max(axis=0) + (past - reads) * terms[1].sum(axis=0)
        asked += (past + 2) * terms[2].sum(axis=0)
        mass = np.maximum(mass, asked + held[0] * instance.llm.weight_reads)
    return least, mass


def claim_bound(instance: Instance, certificate: Certificate, items: float) -> Certificate:
    """Add up the bound, given what the items' paths cost in units, and round it down.

    The checker finds no less: it rounds every slot and latency down by less than a unit, and floating
    point errs by less than so many roundings of the terms.
    """
    slots, mass = slot_bounds(instance, certificate)
    room = math.fsum(
        float(prices.sum()) * (limit or 0)
        for limit, prices in zip(
            instance.capacity_blocks, certificate.capacity.astype(np.float64), strict=True
        )
    )
    roundings = 16 + 2 * instance.tiers + len(instance.memory.resources)
    slack = _SLACK * (math.fsum(np.abs(slots).ravel()) + abs(items) + room)
    slack = max(slack, roundings * _ROUNDING * (math.fsum(mass.ravel()) + abs(items) + room))
    slack += slots.size * (1 + sum(tier.latency > 0 for tier in instance.memory.tiers))
    total = max(0.0, math.fsum(slots.ravel()) + items - room - slack)
    return dataclasses.replace(certificate, bound_s=math.ldexp(total, -certificate.scale))
