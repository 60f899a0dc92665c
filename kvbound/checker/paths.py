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
    life = case.lives[layer]
    plain = closed is None and life.size == 1 and not life.chunks.size and given.shares is None
    if plain and len(case.names) == 2 and np.all(life.end >= case.steps):
        return _sum_of_differences(case, given, layer, packed, forced)
    closed = {} if closed is None else closed
    tiers = len(case.names)
    hold, start = _room(case, given, layer)
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
        reading, moving = _shares(case, given, step, layer, read, carried[:older])
        moved = _moved(case, alive, read, unread, carried[:older], extra_price, write_price, last, moving)
        leaving = leaving[leaving < older]
        moved[:, leaving] = alive[:, leaving]
        alive[:] = moved + read * read_price[:, None]
        if reading is not None:
            alive += reading
    _close(path, closed.get(-1))
    least = _from_start(life, path, start, forced)
    if closed and (blocked or bool((least >= MOST // 2).any())):
        return None
    return total + int(least.sum(dtype=object))


def _shares(
    case: Case, given: Multipliers, step: int, layer: int, read: Ints, carried: Ints
) -> tuple[Ints, Ints] | tuple[None, None]:
    """Return what blocks pay if they are read in each tier, and if they leave it unread, (tiers, blocks)."""
    if given.shares is None:
        return None, None
    share = np.zeros((len(case.names), read.size), np.int64)
    share[np.flatnonzero(case.latency)] = given.shares[:, step, layer, : read.size]
    return share * (read > 0), share * ((read == 0) & (carried > 0))


def _from_start(life: Lifetimes, path: Ints, start: Ints, forced: Ints | None) -> Ints:
    """Return the price of the cheapest path of each block of the prompt, given those from each tier on."""
    held = np.flatnonzero(life.held[: life.prompt])
    prompt = path[:, held] + start[:, None] * life.blocks_in(held)
    if forced is not None:
        prompt = prompt[forced[life.head[held]], np.arange(held.size)][None]
    least: Ints = prompt.min(axis=0)
    return least


def _room(case: Case, given: Multipliers, layer: int) -> tuple[Ints, Ints]:
    """Return the price of a block's room after each slot, (tiers, steps), and before the first, (tiers,)."""
    slots = case.steps * case.layers
    running = np.concatenate(
        [np.zeros_like(given.capacity[:, :1]), np.cumsum(given.capacity, axis=1)], axis=1
    )
    running *= np.array(case.units[layer])[:, None]
    at = np.arange(layer, slots, case.layers)
    return running[:, np.minimum(at + 1 + case.layers, slots + 1)] - running[:, at + 1], running[:, layer + 1]


def _sum_of_differences(
    case: Case, given: Multipliers, layer: int, packed: NDArray[np.uint8], forced: Ints | None
) -> int:
    """Return the same sum for single tokens that stay, between two tiers, in a fraction of the time.

    Choices depend on what a path costs from tier 0 on, less what it costs from tier 1 on. The sum is that of
    all paths from tier 1 on, with what each move and each start in tier 0 gains.
    """
    life, inclusive, migration = (
        case.lives[layer],
        case.rules["copies"] == "inclusive",
        case.rules["migration"],
    )
    hold, start = _room(case, given, layer)
    more, total = np.zeros(len(life.head), np.int64), 0
    for step in reversed(range(case.steps)):
        read, extra, write = given.prices[:, step, layer].reshape(3, 2).tolist()
        older, after = int(life.past[step]), int(life.past[step + 1])
        more[:after] += hold[0, step] - hold[1, step]
        # births; with inclusive copies they are written to tier 1 in any case
        total += after * int(hold[1, step]) + (after - older) * write[1]
        total += _gains(more[older:after] + (write[0] - (0 if inclusive else write[1])))[1]
        alive = more[:older]
        listed = np.flatnonzero(np.unpackbits(packed[step], count=older, bitorder="little"))
        here, total = alive[listed], total + read[1] * listed.size
        if migration != "none":
            up, gain = _gains(here + write[0])
            here = np.minimum(here, 0 if inclusive else write[1]) - up
            total += gain
        if migration == "prefetch":
            up, _ = _gains(alive + (write[0] + extra[1]))
            up[listed] = 0
            total += _sum(up)
        if migration != "none":
            np.minimum(alive, 0 if inclusive else write[1] + extra[0], out=alive)
        if migration == "prefetch":
            alive -= up
        alive[listed] = here + (read[0] - read[1])
    prompt = more[: life.prompt] + (start[0] - start[1])
    total += life.prompt * int(start[1])
    return total + (_gains(prompt)[1] if forced is None else int(prompt[forced == 0].sum(dtype=object)))


def _gains(change: Ints) -> tuple[Ints, int]:
    """Return what of each change is below 0, and the sum of that."""
    gains = np.minimum(change, 0)
    return gains, _sum(gains)


def _sum(gains: Ints) -> int:
    """Add up integers below 0 exactly."""
    overflows = -int(gains.min(initial=0)) * gains.size >= MOST
    return int(gains.sum(dtype=object if overflows else np.int64))


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
    last: int, share: Ints | None,
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
            price = price if share is None else price + share[old]
        if new < old and case.rules["migration"] == "on-read":
            np.minimum(best[old], price, out=best[old], where=read > 0)
        else:
            np.minimum(best[old], price, out=best[old])
    return best
