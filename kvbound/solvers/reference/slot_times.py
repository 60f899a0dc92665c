"""Slot times by direct minimisation, independent of the package's cost model."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from kvbound.instance import Instance
from kvbound.rules import Timing

_GOLDEN = (math.sqrt(5) - 1) / 2

Floats = NDArray[np.float64]


def slot_times(instance: Instance, loads: Floats) -> Floats:
    """Return seconds of slots for bytes read, read without choice, and written, ``(slots, 3, tiers)``.

    KV counts with its bytes in the llm's format, and weights as if they were stored in the format of tier 0.
    Under another objective than time alone the least values of that are returned.
    """
    memory, last = instance.memory, instance.tiers - 1
    sizes = np.array(size_ratios(instance))[:, None]
    read_load, write_load = sizes * memory.read_load, sizes * memory.write_load
    latency = np.array([tier.latency for tier in memory.tiers])
    price, byte = _prices(instance)
    second = price / memory.bandwidths
    serial = instance.rules.timing is Timing.SERIAL
    divertible = range(last) if instance.inclusive else range(0)
    best = np.full(len(loads), np.inf)
    for count in range(len(divertible) + 1 if latency.any() else 1):
        for diverted in map(list, combinations(divertible, count)):
            read = loads[:, 0].copy()
            read[:, last] += read[:, diverted].sum(axis=1)
            read[:, diverted] = 0
            serving = read + loads[:, 1] > 0
            idle, split = ~serving[:, last], read[:, list(divertible)].any(axis=1)
            load = (read + loads[:, 1]) @ read_load + loads[:, 2] @ write_load
            slope = read_load[last] - read_load[list(divertible)]
            spent, more = load @ byte, slope @ byte
            load, slope = load * second, slope * second
            if serial:
                alone = load.sum(axis=1) + spent + price * (serving @ latency)
            else:
                alone = (load + price * _longest_wait(instance, serving)).max(axis=1) + spent
            best = np.where(idle, np.minimum(best, alone), best)
            serving[:, last] |= split
            if serial:
                saving = np.minimum(slope.sum(axis=1) + more, 0)
                busy = load.sum(axis=1) + spent
                busy += read[:, list(divertible)] @ saving + price * (serving @ latency)
            else:
                waiting = load + price * _longest_wait(instance, serving)
                held = read[:, list(divertible)]
                busy = _balance(waiting + spent[:, None], slope + more[:, None], held)
            best = np.minimum(best, busy)
    return best


def _prices(instance: Instance) -> tuple[float, Floats]:
    """Return what a second costs, and what a byte's energy on each resource costs, ``(resources,)``."""
    objective, memory = instance.objective, instance.memory
    byte = np.zeros(len(memory.resources))
    if not objective.energy:
        return objective.time, byte
    for n, name in enumerate(memory.resources):
        known = memory.energy.get(name, {}).get(objective.level, {})
        byte[n] = objective.energy * 8e-12 * known.get(objective.point, 0.0)
    return objective.time + objective.energy * (memory.static_watts or 0.0), byte


def _longest_wait(instance: Instance, serving: NDArray[np.bool_]) -> Floats:
    """Return how long each resource waits for the tiers that serve reads, ``(slots, resources)``, seconds."""
    wait = np.zeros((len(serving), len(instance.memory.resources)))
    for n, resource in enumerate(instance.memory.resources):
        for k, tier in enumerate(instance.memory.tiers):
            if resource in tier.reads:
                wait[:, n] = np.maximum(wait[:, n], serving[:, k] * tier.latency)
    return wait


def size_ratios(instance: Instance) -> list[float]:
    """Return the bytes of KV in each tier, relative to those in the llm's format."""
    usual = instance.llm.kv_sizes
    sizes = (instance.formats.get(tier.name, usual) for tier in instance.memory.tiers)
    return [(max(each) if isinstance(each, tuple) else each) / max(usual) for each in sizes]


def _balance(load: Floats, slope: Floats, full: Floats) -> Floats:
    """Return ``min over 0 <= u <= full of max over r of load_r + sum_k u_k slope_kr``, slot by slot.

    For one u it is the largest of the minima over pairs of lines, by Helly's theorem. For more, golden
    section in the first one: the minimum over the others is convex in it.
    """
    if not len(slope):
        return np.asarray(load.max(axis=1))
    if len(slope) == 1:
        r, s = np.triu_indices(load.shape[1])
        rise = slope[0][r] - slope[0][s]
        meet = np.where(rise == 0, 0, (load[:, s] - load[:, r]) / np.where(rise == 0, 1, rise))
        points = np.stack([np.zeros_like(meet), np.broadcast_to(full, meet.shape), np.clip(meet, 0, full)])
        pair = np.maximum(load[:, r] + points * slope[0][r], load[:, s] + points * slope[0][s])
        return np.asarray(pair.min(axis=0).max(axis=1))

    def minimum(share: Floats) -> Floats:
        return _balance(load + (share * full[:, 0])[:, None] * slope[0], slope[1:], full[:, 1:])

    low, width = np.zeros(len(load)), np.ones(len(load))
    best = np.minimum(minimum(low), minimum(width))
    left, right = minimum(low + (1 - _GOLDEN) * width), minimum(low + _GOLDEN * width)
    for _ in range(75):
        best = np.minimum(best, np.minimum(left, right))
        lower = left <= right
        low = np.where(lower, low, low + (1 - _GOLDEN) * width)
        width = width * _GOLDEN
        fresh = minimum(low + np.where(lower, 1 - _GOLDEN, _GOLDEN) * width)
        left, right = np.where(lower, fresh, right), np.where(lower, left, fresh)
    return best
