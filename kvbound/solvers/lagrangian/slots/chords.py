"""Chords of a slot's time: lines between its values at two whole numbers of reads or of writes.

Equations: "Minorants of a slot" in docs/methods.md.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvbound.cost import marginal

Floats = NDArray[np.float64]


class Chord(NamedTuple):
    """The chord of a maximum of affine functions, the facets, of a whole number in every slot.

    Attributes
    ----------
    constant, slope
        Its seconds at 0, and per item, (steps, layers).
    begin
        Where it begins; it ends one item further, (steps, layers).
    ends
        The facets that are active at its two ends, (2, steps, layers).
    """

    constant: Floats
    slope: Floats
    begin: NDArray[np.int64]
    ends: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        alpha: Floats,
        slope: Floats,
        sizes: Floats,
        most: NDArray[np.int64],
        elsewhere: Floats | None = None,
        births: NDArray[np.int64] | None = None,
    ) -> Chord:
        """Return the chord that begins at the largest number, up to `most`, at which the slot is no longer.

        Parameters
        ----------
        alpha, slope
            The facets: seconds at 0, (V, steps, layers), and per item of size 1, (V,).
        sizes
            Size of each layer's items, (layers,).
        elsewhere, births
            The facets' seconds per birth that is not among the items, (V,), and the births, (steps, 1).
        """
        begin = marginal.breakpoints(alpha, np.outer(slope, sizes)[:, None], most)
        below, above = (alpha + slope[:, None, None] * (sizes * (begin + k)) for k in (0, 1))
        if elsewhere is not None and births is not None:
            for k, value in enumerate((below, above)):
                value += elsewhere[:, None, None] * (sizes * np.maximum(births - (begin + k), 0))
        rise = above.max(axis=0) - below.max(axis=0)
        ends = np.stack([_active(below, slope, -1), _active(above, slope, 1)])
        return cls(below.max(axis=0) - rise * begin, rise, begin, ends)

    @classmethod
    def touching(
        cls, alpha: Floats, wait: Floats, slope: Floats, sizes: Floats, reads: NDArray[np.int64]
    ) -> Chord:
        """Return the chord from no read at a tier to the number at which it rises least.

        Parameters
        ----------
        alpha, slope, sizes
            As `of` takes them.
        wait
            Seconds that the facets wait once there is a read, (V, steps, layers).
        reads
            Largest number of reads, (steps, layers).
        """
        start, most = alpha.max(axis=0), np.maximum(reads, 1)
        level = alpha + wait - start

        def rises(number: NDArray[np.int64], some: NDArray[np.bool_]) -> Floats:
            """Return the largest rise per item of some facets, (steps, layers)."""
            rise = level / number + (slope[:, None] * sizes)[:, None]
            return np.where(some, rise, -np.inf).max(axis=0)

        # facets that start below rise ever faster per item, the others ever slower: best is where both meet
        low, high = np.ones_like(most), most
        while np.any(low < high):
            middle = (low + high + 1) // 2
            falling = rises(middle, level > 0) >= rises(middle, level <= 0)
            low, high = np.where(falling, middle, low), np.where(falling, high, middle - 1)
        everything = np.ones_like(level, np.bool_)
        after = np.minimum(low + 1, most)
        end = np.where(rises(after, everything) < rises(low, everything), after, low)
        there = alpha + wait + slope[:, None, None] * (sizes * end)
        ends = np.stack([_active(alpha, slope, -1), _active(there, slope, 1)])
        return cls(start, rises(end, everything), np.zeros_like(most), ends)


def _active(values: Floats, slope: Floats, side: int) -> NDArray[np.int64]:
    """The highest facet; among equals the one of least slope (side -1) or of greatest (side 1)."""
    order = np.argsort(side * -slope, kind="stable")
    top = values.max(axis=0)
    near = values[order] >= top - 1e-13 * top
    return order[near.argmax(axis=0)]
