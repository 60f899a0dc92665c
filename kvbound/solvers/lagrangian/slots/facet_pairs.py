"""Minorants that rest on one facet where a late tier serves no reads, and on another one where it does.

A slot that reads much at a late tier takes as long as that tier's own link; one that reads nothing there
takes as long as another resource needs. A facet prices one of them in both cases. A pair prices both: reads
elsewhere by the first facet, reads at the late tier by the second. A slot that reads there may take its other
reads for nothing then, and what they were charged comes off the wait.

Equations: "Pairs of facets" in docs/methods.md.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvbound.solvers.lagrangian.slots.waits import Waits

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class FacetPairs(NamedTuple):
    """Minorants of P pairs of facets, of every slot.

    Attributes
    ----------
    alpha
        Seconds at counts 0, (P, steps, layers).
    beta
        Seconds per item of the largest size of each count, (P, 3K).
    facets
        The facets where the late tier serves no reads and where it does, and that tier, (P, 3).
    charges
        Seconds that reads at each late tier add at least, (late tiers, P, steps, layers).
    """

    alpha: Floats
    beta: Floats
    facets: Ints
    charges: Floats

    @classmethod
    def none(cls, late: int, alpha: Floats, beta: Floats) -> FacetPairs:
        """Return no pair of these facets, given the number of late tiers."""
        return cls(alpha[:0], beta[:0], np.zeros((0, 3), np.int64), np.zeros((late, 0, *alpha.shape[1:])))

    @classmethod
    def of(
        cls, alpha: Floats, beta: Floats, waits: Waits, late: tuple[int, ...], sizes: Floats, reads: Ints
    ) -> FacetPairs:
        """Pair facets, for each late tier whose waits are longer than slots that do not wait.

        Parameters
        ----------
        alpha, beta
            The facets: seconds at counts 0, with the waits that are sure, (V, steps, layers), and per item of
            the largest size, reads relative to tier 0, (V, 3K).
        sizes
            Size of each layer's items relative to the largest, (layers,).
        reads
            Reads of each slot, (steps, layers or 1).
        """
        tiers, shortest = waits.tiers, alpha.max(axis=0).mean()
        # with inclusive copies the last tier may serve what others hold: that they serve it is not known
        known = [k for k in late if k == tiers - 1 or not waits.inclusive]
        found = []
        for k in known:
            more, own = waits.more(k), [k, tiers + k]
            waiting = more.any(axis=(1, 2))
            if not waiting.any():
                continue
            busy = int(np.where(waiting, beta[:, k], -np.inf).argmax())
            for idle in np.flatnonzero(beta[:, k] < beta[busy, k]).tolist():
                relief = np.delete(beta[idle, :tiers] - beta[busy, :tiers], k).max()
                left = alpha[busy] + more[busy] - alpha[idle] - relief * sizes * reads
                if relief <= 0 or left.mean() < shortest:
                    continue
                # moves without a read, and writes, are charged what both facets charge
                row = np.minimum(beta[idle], beta[busy])
                row[:tiers], row[own] = beta[idle, :tiers], beta[busy, own]
                charge = np.stack([waits.more(each)[idle] if each != k else left for each in late])
                charge = np.minimum(charge, left).clip(min=0)
                found.append((alpha[idle] + np.minimum(left, 0), row, (idle, busy, k), charge))
        if not found:
            return cls.none(len(late), alpha, beta)
        constant, rows, facets, charges = zip(*found, strict=True)
        return cls(np.stack(constant), np.stack(rows), np.array(facets), np.stack(charges, axis=1))
