"""Disjunctive cuts: the misses of a slot are at most i or at least i + 1.

A slot's time depends on the intervals that end in it (its hits), on those that begin in it, and on the items
that stay from one to the next, which need no promotion. A solution of the relaxation with i + 1/2 misses
combines two things that exclude each other: the hits of i misses, and promotions that are free only under the
longer time of i + 1 misses. The least time of a mixture of these two sides is a small linear program, and its
dual solution is the deepest cut for the slot.

Equations: "Disjunctive cuts" in docs/methods.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from kvbound.models.intervals import NONE, Intervals
from kvbound.models.sparse import Floats, Ints
from kvbound.solvers.mip.highs import row_duals

INTEGRALITY = 1e-6
"""Distance from an integer up to which a value counts as one."""
MIN_FRACTION = 1e-3
"""Distance of a slot's misses from an integer from which a cut is derived."""


@dataclass(frozen=True, eq=False)
class Cut:
    """The cut values @ x[columns] >= lower on a slot's time and its intervals."""

    columns: Ints
    values: Floats
    lower: float

    def violation(self, point: Floats) -> float:
        """Return the amount by which a point, shape (columns of the program,), violates the cut."""
        return self.lower - float((self.values * point[self.columns]).sum())


def as_rows(cuts: Sequence[Cut]) -> tuple[list[Ints], list[Floats], Floats]:
    """Return columns, values and lower bounds of cuts, as programs take rows."""
    return (
        [cut.columns for cut in cuts],
        [cut.values for cut in cuts],
        np.array([cut.lower for cut in cuts]),
    )


@dataclass(frozen=True, eq=False)
class Slot:
    """The part of the program that concerns one slot.

    Attributes
    ----------
    time
        Column of its time.
    reads
        Its reads, hits and misses together.
    columns
        Columns y of the classes whose intervals begin or end in it, shape (n,).
    size
        Items of each class, shape (n,).
    begins
        Whether the intervals of a class begin in it, or else end, shape (n,).
    group
        Group of each class: one that begins and all that continue in it; or NONE; shape (n,).
    hull
        time >= hull @ (1, misses, entries), shape (rows, 3).
    """

    time: int
    reads: int
    columns: Ints
    size: Floats
    begins: NDArray[np.bool_]
    group: Ints
    hull: Floats


def cuttable_slots(program: Intervals) -> list[Slot]:
    """Return the slots that can have cuts: intervals begin and end there, and their time is not affine."""
    found = []
    for layer, (classes, y) in enumerate(zip(program.layers, program.y, strict=True)):
        after = np.full(len(y), NONE)
        after[classes.follows[:, 0]] = classes.follows[:, 1]
        for step in range(program.instance.decode_steps):
            begin, end = np.flatnonzero(classes.event == step), np.flatnonzero(classes.until == step)
            reads, hull = int(program.coefficients.read_counts[step, layer]), program.slot_hull(step, layer)
            if len(begin) and len(end) and len(hull) > 1:
                both = np.concatenate([begin, end])
                begins = np.arange(len(both)) < len(begin)
                group = np.concatenate([begin, after[end]])
                time = int(program.time[step, layer])
                size = classes.size[both].astype(float)
                found.append(Slot(time, reads, y[both], size, begins, group, hull))
    return found


def deepest_cut(slot: Slot, point: Floats) -> Cut | None:
    """Return the deepest cut of a slot at a point, or None if its misses are integer there."""
    stay = point[slot.columns]
    misses = slot.reads - stay[~slot.begins].sum()
    if abs(misses - round(misses)) < MIN_FRACTION:
        return None
    # classes of which all items stay, or none, are the same on both sides, and are added up by kind
    state = np.where(stay < INTEGRALITY, 0, NONE)
    state[stay > slot.size - INTEGRALITY] = 1
    group = _merged(slot, stay, state)
    alone = np.where(state == NONE, np.arange(len(state)), NONE)
    keys, kind = np.unique(np.column_stack([slot.begins, group, state, alone]), axis=0, return_inverse=True)
    kind = kind.ravel()
    total, value = (np.bincount(kind, of).astype(np.float64) for of in (slot.size, stay))
    program = _mixture(slot, float(np.floor(misses)), keys[:, 0] > 0, keys[:, 1], total)
    least, by_kind = program.dual(value)
    return Cut(np.append(slot.columns, slot.time), np.append(-by_kind[kind], 1.0), least)


def _merged(slot: Slot, stay: Floats, state: Ints) -> Ints:
    """Merge the groups without fractions into two: those that need promotions, and the others."""
    merged, known = slot.group.copy(), slot.group != NONE
    most = int(merged.max()) + 1
    fraction = np.zeros(most, bool)
    fraction[merged[known & (state == NONE)]] = True
    change = np.where(slot.begins, stay, -stay)
    enter = np.bincount(merged[known], change[known], most) > -INTEGRALITY
    plain = known & ~fraction[merged]
    merged[plain] = most + enter[slot.group[plain]]
    return merged


@dataclass(frozen=True, eq=False)
class _LinearProgram:
    """Minimise cost @ x with rows @ x >= constant + linear @ stay and 0 <= x <= upper."""

    cost: Floats
    rows: sparse.csr_array
    constant: Floats
    linear: Floats
    upper: Floats

    def dual(self, stay: Floats) -> tuple[float, Floats]:
        """Return a and b with optimum >= a + b @ stay for all values, and equality at these."""
        duals = np.maximum(
            row_duals(self.cost, self.rows, self.constant + (self.linear * stay).sum(axis=1)), 0.0
        )
        # dual infeasibility left by rounding costs at most what the bounds of x allow
        over = (np.maximum(duals @ self.rows - self.cost, 0.0) * self.upper).sum()
        return float((duals * self.constant).sum() - over), (duals[:, None] * self.linear).sum(axis=0)


def _mixture(slot: Slot, few: float, begins: NDArray[np.bool_], group: Ints, total: Floats) -> _LinearProgram:
    """The least time of a mixture of at most `few` misses and of more, in shares 1 - d and d.

    Columns: the items u of each kind that stay on the side of more misses; d; the entries of each group on
    the side of few, and of more; the times of both sides.
    """
    number, ends = len(total), np.where(begins, 0.0, 1.0)[None]
    grouped = np.unique(group[group != NONE])
    sign = np.where(grouped[:, None] == group, np.where(begins, 1.0, -1.0), 0.0)
    least, miss, enter = slot.hull.T[:, :, None]
    flat, entries = least + miss * slot.reads, np.repeat(enter, len(grouped), axis=1)
    each, entry, all_of = np.eye(number), np.eye(len(grouped)), total[:, None]
    on_few, on_more = np.tile([1.0, 0.0], (len(miss), 1)), np.tile([0.0, 1.0], (len(miss), 1))
    one = np.ones((1, 1))
    # blocks of rows, each with the constant and the factors of `stay` on its right-hand side
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
    return _LinearProgram(
        cost=np.append(np.zeros(number + 1 + width), [1.0, 1.0]),
        rows=sparse.csr_array(rows),
        constant=np.concatenate(constants),
        linear=np.vstack(linear),
        upper=np.concatenate([total, [1.0], np.full(width, held), [slowest, slowest]]),
    )
