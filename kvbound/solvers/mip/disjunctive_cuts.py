"""Cuts from one slot at a time: its misses are either at most k or at least k + 1.

A slot's time depends on the stays that end in it (its hits), on those that begin in it, and on which
go on into which (they need not be promoted). Where the relaxation misses k + 1/2 items it lives on
both sides at once and pays for neither: promotions hide under the longer time of k + 1 misses, hits
come from the side of k. The least time of a true mixture of the two sides is a small linear program,
and its dual prices are the deepest cut that this slot alone can tell.

Equations: "Disjunctive cuts" in docs/methods.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from kvbound.models.intervals import NONE, Stays
from kvbound.models.sparse import Floats, Ints
from kvbound.solvers.mip.highs import prices

WHOLE = 1e-6
"""How near to a whole number counts as one."""
APART = 1e-3
"""Misses nearer than this to a whole number are not worth a cut."""


@dataclass(frozen=True, eq=False)
class Cut:
    """values @ x[columns] >= lower: a slot's time against its stays."""

    columns: Ints
    values: Floats
    lower: float

    def violation(self, point: Floats) -> float:
        """Return by how much a point violates it."""
        return self.lower - float((self.values * point[self.columns]).sum())


def as_rows(cuts: Sequence[Cut]) -> tuple[list[Ints], list[Floats], Floats]:
    """Return cuts as rows for a program."""
    return (
        [cut.columns for cut in cuts],
        [cut.values for cut in cuts],
        np.array([cut.lower for cut in cuts]),
    )


@dataclass(frozen=True, eq=False)
class Slot:
    """One slot's part of the program.

    Attributes
    ----------
    time
        Column of its time.
    reads
        Its reads: hits and misses together.
    stays
        Columns of the stays that begin and that end in it, shape (n,).
    size
        Items in each stay's class, shape (n,).
    begins
        Which stays begin, shape (n,).
    into
        Group of each stay: a class that begins and all that go on into it, or NONE, shape (n,).
    hull
        time >= hull @ (1, misses, entries), shape (rows, 3).
    """

    time: int
    reads: int
    stays: Ints
    size: Floats
    begins: NDArray[np.bool_]
    into: Ints
    hull: Floats


def slots(program: Stays) -> list[Slot]:
    """Return the slots whose time bends, so that cuts can be had."""
    found = []
    for layer, (stays, y) in enumerate(zip(program.layers, program.y, strict=True)):
        after = np.full(len(y), NONE)
        after[stays.follows[:, 0]] = stays.follows[:, 1]
        for step in range(program.instance.decode_steps):
            begin, end = np.flatnonzero(stays.event == step), np.flatnonzero(stays.until == step)
            reads = int(program.facts.counts[step, layer])
            hull = program.hull(layer, reads, stays.entries(step))
            if len(begin) and len(end) and len(hull) > 1:
                both = np.concatenate([begin, end])
                begins = np.arange(len(both)) < len(begin)
                group = np.concatenate([begin, after[end]])
                time = int(program.time[step, layer])
                found.append(Slot(time, reads, y[both], stays.size[both].astype(float), begins, group, hull))
    return found


def split(slot: Slot, point: Floats) -> Cut | None:
    """Return the slot's deepest cut at a point, or None if its misses are whole there."""
    stay = point[slot.stays]
    misses = slot.reads - stay[~slot.begins].sum()
    if abs(misses - round(misses)) < APART:
        return None
    # stays that are all or nothing are the same on both sides: one number for all of a kind
    state = np.where(stay < WHOLE, 0, NONE)
    state[stay > slot.size - WHOLE] = 1
    into = _merged(slot, stay, state)
    alone = np.where(state == NONE, np.arange(len(state)), NONE)
    keys, kind = np.unique(np.column_stack([slot.begins, into, state, alone]), axis=0, return_inverse=True)
    kind = kind.ravel()
    total, value = (np.bincount(kind, of).astype(np.float64) for of in (slot.size, stay))
    program = _mixture(slot, float(np.floor(misses)), keys[:, 0] > 0, keys[:, 1], total)
    least, by_kind = program.dual(value)
    return Cut(np.append(slot.stays, slot.time), np.append(-by_kind[kind], 1.0), least)


def _merged(slot: Slot, stay: Floats, state: Ints) -> Ints:
    """Merge the groups without fractions into two: those that somebody has to enter, and the others."""
    merged, known = slot.into.copy(), slot.into != NONE
    most = int(merged.max()) + 1
    fraction = np.zeros(most, bool)
    fraction[merged[known & (state == NONE)]] = True
    change = np.where(slot.begins, stay, -stay)
    enter = np.bincount(merged[known], change[known], most) > -WHOLE
    plain = known & ~fraction[merged]
    merged[plain] = most + enter[slot.into[plain]]
    return merged


@dataclass(frozen=True, eq=False)
class _Program:
    """Minimise cost @ x with rows @ x >= constant + linear @ stay and 0 <= x <= most."""

    cost: Floats
    rows: sparse.csr_array
    constant: Floats
    linear: Floats
    most: Floats

    def dual(self, stay: Floats) -> tuple[float, Floats]:
        """Solve it at `stay`; return a, b with optimum >= a + b @ stay everywhere, equal at `stay`."""
        price = np.maximum(
            prices(self.cost, self.rows, self.constant + (self.linear * stay).sum(axis=1)), 0.0
        )
        # a price that rounding left too high costs at most what x can be
        over = (np.maximum(price @ self.rows - self.cost, 0.0) * self.most).sum()
        return float((price * self.constant).sum() - over), (price[:, None] * self.linear).sum(axis=0)


def _mixture(slot: Slot, few: float, begins: NDArray[np.bool_], group: Ints, total: Floats) -> _Program:
    """Least time of a slot mixed from at most `few` misses and more, in shares 1 - d and d.

    Columns: of each kind its stays u on the side of more; d; the entries of each group on the side
    of few, and of more; the times on both sides.
    """
    number, ends = len(total), np.where(begins, 0.0, 1.0)[None]
    grouped = np.unique(group[group != NONE])
    sign = np.where(grouped[:, None] == group, np.where(begins, 1.0, -1.0), 0.0)
    least, miss, enter = slot.hull.T[:, :, None]
    flat, entries = least + miss * slot.reads, np.repeat(enter, len(grouped), axis=1)
    each, entry, all_of = np.eye(number), np.eye(len(grouped)), total[:, None]
    on_few, on_more = np.tile([1.0, 0.0], (len(miss), 1)), np.tile([0.0, 1.0], (len(miss), 1))
    one = np.ones((1, 1))
    # blocks of rows, beside the constant and the stays on their right-hand sides
    parts: list[tuple[list[Floats | None], Floats, Floats]] = [
        ([-each, all_of, None, None, None], 0 * total, 0 * each),
        ([each, -all_of, None, None, None], -total, each),
        ([-each, None, None, None, None], 0 * total, -each),
        ([sign, None, entry, None, None], np.zeros(len(grouped)), sign),
        ([-sign, None, None, entry, None], np.zeros(len(grouped)), 0 * sign),
        ([-ends, one * (slot.reads - few - 1), None, None, None], np.zeros(1), 0 * ends),
        ([-ends, one * (slot.reads - few), None, None, None], np.full(1, slot.reads - few), -ends),
        ([miss * ends, -flat, None, -entries, on_more], 0 * flat[:, 0], 0 * miss * ends),
        ([-miss * ends, flat, -entries, None, on_few], flat[:, 0], -miss * ends),
        ([None, -one, None, None, None], np.full(1, -1.0), 0 * ends),
    ]
    blocks, constants, linear = zip(*parts, strict=True)
    widths = number, 1, len(grouped), len(grouped), 2
    dense = [
        np.zeros((len(constant), width)) if block is None else block
        for line, constant in zip(blocks, constants, strict=True)
        for block, width in zip(line, widths, strict=True)
    ]
    columns = len(widths)
    rows = np.vstack([np.hstack(dense[n : n + columns]) for n in range(0, len(dense), columns)])
    held, width = total.sum(), 2 * len(grouped)
    slowest = float((flat[:, 0] + enter[:, 0] * held).max())
    return _Program(
        cost=np.append(np.zeros(number + 1 + width), [1.0, 1.0]),
        rows=sparse.csr_array(rows),
        constant=np.concatenate(constants),
        linear=np.vstack(linear),
        most=np.concatenate([total, [1.0], np.full(width, held), [slowest, slowest]]),
    )
