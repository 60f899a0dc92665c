"""The cheapest paths of a layer's blocks at a certificate's prices, in exact integers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import permutations, repeat

import numpy as np
from numpy.typing import NDArray

from kvbound.checker.inputs import Case
from kvbound.checker.lifetimes import Lifetimes
from kvbound.checker.multipliers import MOST, Multipliers
from kvbound.checker.report import Ints

CLOSED = MOST
"""The price of a state that a block must not be in; sums with it fit int64."""


def sum_of_paths(
    case: Case,
    given: Multipliers,
    layer: int,
    packed: NDArray[np.uint8],
    forced: Ints | None,
    closed: Mapping[int, Ints] | None = None,
) -> int | None:
    """Return the summed prices of the cheapest paths of the layer's blocks, by a backward pass over steps.

    A block costs nothing after its last step: the iteration of that step discards what those of later steps,
    which come first, have added.

    Parameters
    ----------
    packed
        The layer's packed reads, (steps, bytes).
    forced
        The tiers in which the prompt's tokens start, (prompt,), if a rule determines them.
    closed
        States that no path may lead through: for some steps, -1 for the start, the block and the tier that it
        must not be in after the layer's slot, (states, 2). It must exist then. With any, the numbers along a
        path must stay below half of `MOST`.

    Returns
    -------
    The sum in units of 2**-scale seconds, or None if no path is left to some block.
    """
    closed = {} if closed is None else closed
    tiers, life, slots = len(case.names), case.lives[layer], case.steps * case.layers
    running = np.concatenate([np.zeros((tiers, 1), np.int64), np.cumsum(given.capacity, axis=1)], axis=1)
    running *= np.array(case.units[layer])[:, None]
    at = np.arange(layer, slots, case.layers)
    hold = running[:, np.minimum(at + 1 + case.layers, slots + 1)] - running[:, at + 1]
    last = tiers - 1 if case.rules["copies"] == "inclusive" else tiers
    path = np.zeros((tiers, len(life.head)), np.int64)
    sizes = np.atleast_1d(life.blocks_in(np.arange(len(life.head))))  # of one block it broadcasts
    begun = np.searchsorted(life.begin, np.arange(case.steps + 1))
    by_last = np.argsort(life.last, kind="stable")
    gone = np.searchsorted(life.last[by_last], np.arange(case.steps + 1))
    total, blocked = 0, False
    for step, carried in zip(reversed(range(case.steps)), _carried(life), strict=True):
        read_price, extra_price, write_price = given.prices[:, step, layer].reshape(3, tiers)
        birth = write_price + np.where(np.arange(tiers) < last, write_price[last] if last < tiers else 0, 0)
        older, after = begun[step], begun[step + 1]
        leaving = by_last[gone[step] : gone[step + 1]]
        path[:, :after] += hold[:, step, None] * sizes[:after]
        path[:, leaving] = 0
        np.add.at(path.T, life.block[life.past[step] : life.past[step + 1]], birth)
        _close(path, closed.get(step))
        born = path[:, older:after].min(axis=0)
        total, blocked = total + int(born.sum(dtype=object)), blocked or bool((born >= MOST // 2).any())
        alive = path[:, :older]
        read, unread = _read(life, step, packed[step], carried[:older])
        moved = _moved(case, alive, read, unread, carried[:older], extra_price, write_price, last)
        leaving = leaving[leaving < older]
        moved[:, leaving] = alive[:, leaving]
        alive[:] = moved + read * read_price[:, None]
    held = np.flatnonzero(life.held[: life.prompt])
    _close(path, closed.get(-1))
    prompt = path[:, held] + running[:, layer + 1, None] * life.blocks_in(held)
    if forced is not None:
        prompt = prompt[forced[life.head[held]], np.arange(held.size)][None]
    least = prompt.min(axis=0)
    if closed and (blocked or bool((least >= MOST // 2).any())):
        return None
    return total + int(least.sum(dtype=object))


def _close(path: Ints, states: Ints | None) -> None:
    """Give states that are closed, each a block and a tier, (states, 2), a price above that of any path."""
    if states is not None:
        path[states[:, 1], states[:, 0]] = CLOSED


def _carried(life: Lifetimes) -> Iterator[Ints]:
    """Yield the number of items that a move of each block carries in each step, from the last step on."""
    count = len(life.outputs)
    if life.size == 1:
        yield from repeat(np.atleast_1d(life.items_in(np.arange(len(life.head)))), count)
        return
    carried, steps = np.zeros(len(life.head), np.int64), np.arange(count + 2)
    moving = np.flatnonzero(life.end > life.born)
    by_end = moving[np.argsort(life.end[moving], kind="stable")]
    ends, births = np.searchsorted(life.end[by_end], steps), np.searchsorted(life.born[moving], steps)
    for step in reversed(range(count)):
        joining = life.block[by_end[ends[step + 1] : ends[step + 2]]]
        np.add.at(carried, joining, life.items_in(joining))
        np.subtract.at(carried, life.block[moving[births[step] : births[step + 1]]], 1)
        yield carried


def _read(life: Lifetimes, step: int, row: NDArray[np.uint8], carried: Ints) -> tuple[Ints, Ints]:
    """Return the past items of each block that a step reads, and the carried ones that it does not read."""
    if life.size == 1:
        bits = np.unpackbits(row, count=life.past[step], bitorder="little")
        read = bits.astype(np.int64)
        read[: life.chunks.size] *= life.chunks
        return read, carried - read
    read, lasting = (count[: carried.size] for count in life.read_blocks(row, step))
    return read, carried - lasting


def _moved(
    case: Case, path: Ints, read: Ints, unread: Ints, carried: Ints, extra_price: Ints, write_price: Ints,
    last: int,
) -> Ints:  # fmt: skip
    """Return the least price from each tier on if a block may move first, (tiers, blocks)."""
    best = path.copy()
    if case.rules["migration"] == "none":
        return best
    for old, new in permutations(range(len(path)), 2):
        if new == last:
            price = path[new]  # free: the copy is already there
        else:
            price = path[new] + carried * write_price[new] + unread * extra_price[old]
        if new < old and case.rules["migration"] == "on-read":
            np.minimum(best[old], price, out=best[old], where=read > 0)
        else:
            np.minimum(best[old], price, out=best[old])
    return best
