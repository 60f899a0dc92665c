"""Compiled twin of the passes in `kvbound.solvers.dense.paths`: same numbers, layer by layer."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvbound.kernels import compiled

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@compiled()
def follow(
    own: int,
    read_price: Floats,
    write_price: Floats,
    birth_price: Floats,
    hold_price: Floats,
    start_price: Floats,
    ends: Ints,
    prompt: Ints,
    forced: Ints,
    first: Ints,
    layer: Ints,
    kind: Ints,
    count: Ints,
    legal: Bools,
    charged: Bools,
    birth_writes: Ints,
    cost: Floats,
    reads: Ints,
    writes: Ints,
    held: Ints,
    start: Ints,
    demand: bool,
) -> None:
    """Find the cheapest paths of a layer's items; add their cost and, if wanted, their counts.

    Parameters
    ----------
    own
        The layer; the other arguments are those of all layers, see `DenseItems`, `Prices` and `Counts`.
    legal, charged, birth_writes
        See `kvbound.cost.transitions.Transitions`; legal moves are those of items that are read.
    """
    steps, tiers, kinds = read_price.shape[1], read_price.shape[2], len(ends)
    value = np.zeros((kinds, tiers))
    before = np.zeros(tiers)
    choices = np.zeros((steps if demand else 1, kinds, tiers), np.uint8)
    entry = np.zeros(len(count), np.uint8)
    present = kinds  # classes that exist in the step begin here
    for step in range(steps - 1, -1, -1):
        while present > 0 and ends[present - 1] >= step:
            present -= 1
        for c in range(present, kinds):
            for k in range(tiers):
                value[c, k] = 0.0 if ends[c] == step else value[c, k] + hold_price[own, step, k]
        for n in range(first[step], first[step + 1]):
            if layer[n] != own:
                continue
            best, least = 0, value[kind[n], 0] + birth_price[own, step, 0]
            for k in range(1, tiers):
                price = value[kind[n], k] + birth_price[own, step, k]
                if price < least:
                    best, least = k, price
            entry[n] = best
            cost[own] += count[n] * least
        for c in range(present, kinds):
            if ends[c] > step:
                for k in range(tiers):
                    before[k] = value[c, k]
                for source in range(tiers):
                    choice = source
                    for target in range(tiers):
                        if target != source and legal[source, target]:
                            price = before[target]
                            if charged[source, target]:
                                price += write_price[own, step, target]
                            if price < value[c, source]:
                                value[c, source], choice = price, target
                    if demand:
                        choices[step, c, source] = choice
            for k in range(tiers):
                value[c, k] += read_price[own, step, k]
    number = np.zeros((kinds, tiers), np.int64)
    total = 0.0
    for c in range(kinds):
        best, least = 0, value[c, 0] + start_price[own, 0]
        for k in range(tiers):
            price = value[c, k] + start_price[own, k]
            if price < least:
                best, least = k, price
            if len(forced):
                number[c, k] = forced[k, own, c]
                total += number[c, k] * price
        if not len(forced):
            number[c, best] = prompt[own, c]
            total += prompt[own, c] * least
    cost[own] += total
    if demand:
        _count(
            own, ends, first, layer, kind, count, entry, choices, number, charged, birth_writes,
            reads, writes, held, start,
        )  # fmt: skip


@compiled()
def _count(
    own: int,
    ends: Ints,
    first: Ints,
    layer: Ints,
    kind: Ints,
    count: Ints,
    entry: NDArray[np.uint8],
    choices: NDArray[np.uint8],
    number: Ints,
    charged: Bools,
    birth_writes: Ints,
    reads: Ints,
    writes: Ints,
    held: Ints,
    start: Ints,
) -> None:
    """Follow a layer's numbers of items, (classes, K), from slot to slot."""
    kinds, tiers = number.shape
    moved = np.zeros(tiers, np.int64)
    present = 0
    for c in range(kinds):
        for k in range(tiers):
            start[own, k] += number[c, k]
    for step in range(len(choices)):
        while present < kinds and ends[present] < step:
            present += 1
        for c in range(present, kinds):
            for k in range(tiers):
                reads[own, step, k] += number[c, k]
                moved[k] = 0
            if ends[c] > step:
                for source in range(tiers):
                    target = choices[step, c, source]
                    moved[target] += number[c, source]
                    if charged[source, target]:
                        writes[own, step, target] += number[c, source]
            for k in range(tiers):
                number[c, k] = moved[k]
        for n in range(first[step], first[step + 1]):
            if layer[n] == own:
                for k in range(tiers):
                    writes[own, step, k] += birth_writes[entry[n], k] * count[n]
                if ends[kind[n]] > step:
                    number[kind[n], entry[n]] += count[n]
        for c in range(present, kinds):
            for k in range(tiers):
                held[own, step, k] += number[c, k]
