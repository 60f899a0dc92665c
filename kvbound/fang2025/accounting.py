"""The study's time of a slot, and the data of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kvbound.fang2025.setting import Setting

Ints: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]

SCHEMA = "kvbound.schedule-fang2025/1"


@dataclass(frozen=True)
class Log:
    """The net changes of HBM, for replay; item = token * layers + layer, slot = step * layers + layer.

    Slots ascend; a token placed and evicted in its own slot occurs once in each list.

    Attributes
    ----------
    initial
        Items in HBM before the first slot.
    add_slot, add_item, remove_slot, remove_item
        Items that entered and left, and their slots.
    """

    initial: Ints
    add_slot: Ints
    add_item: Ints
    remove_slot: Ints
    remove_item: Ints


@dataclass(frozen=True)
class Run:
    """The outcome of one policy; arrays are ``(steps, layers)``.

    Attributes
    ----------
    policy
        Name of the policy.
    reads, hits
        Tokens read, and those of them in HBM when the slot began; `hits` is None for ``best``, which assumes
        a share of hits and places no items.
    beta
        Whether the new token went to HBM.
    promoted, external
        Items that migration wrote to HBM (hMW / K) and read from external memory (eMR / K).
    alpha
        Share of the slot's bytes, weights included, that HBM serves.
    time_s
        Slot times in seconds.
    peak_items
        Largest number of items in HBM, at the start or after a slot.
    log
        Every change of HBM, if recorded.
    """

    policy: str
    reads: Ints
    hits: Ints | None
    beta: NDArray[np.bool_]
    promoted: Ints
    external: Ints
    alpha: Floats
    time_s: Floats
    peak_items: int
    log: Log | None = None

    @cached_property
    def total_s(self) -> float:
        """Decode time in seconds."""
        return math.fsum(self.time_s.ravel().tolist())

    @cached_property
    def mean_alpha(self) -> float:
        """Mean of alpha over the slots."""
        return float(self.alpha.mean())

    def arrays(self, *, instance_sha256: str, tokens: int) -> dict[str, Any]:
        """Return what the npz file of a recorded run holds.

        Raises
        ------
        ValueError
            The run was not recorded.
        """
        if self.log is None:
            raise ValueError(f"the run of {self.policy} was not recorded")
        return {
            "schema": np.array(SCHEMA),
            "instance_sha256": np.array(instance_sha256),
            "beta": self.beta.ravel().astype(np.uint8),
            "promoted": self.promoted.ravel(),
            "external": self.external.ravel(),
            **vars(self.log),
        }

    @property
    def step_times_s(self) -> Floats:
        """Seconds of each step ``(steps,)``."""
        return self.time_s.sum(axis=1)


def alpha(setting: Setting, reads: Ints, hits: Ints) -> Floats:
    """Return the share of each slot's bytes that HBM serves: those it holds, but at most alpha*."""
    return _capped(setting, setting.slot_bytes(hits), reads)


def ideal_alpha(setting: Setting, reads: Ints) -> Floats:
    """Return the share that ``best`` assumes: HBM full of items that the slot reads, but at most alpha*."""
    return _capped(setting, np.full(reads.shape, setting.capacity, np.float64), reads)


def _capped(setting: Setting, served: Floats, reads: Ints) -> Floats:
    total = setting.slot_bytes(reads)
    share = np.divide(served, total, out=np.ones(reads.shape), where=total > 0)
    return np.minimum(share, setting.alpha_cap)


def slot_times(
    setting: Setting, reads: Ints, share: Floats, beta: NDArray[np.bool_], promoted: Ints, external: Ints
) -> Floats:
    """Return the seconds of each slot: the longer of those of HBM and external memory, which overlap.

    The new token is always written to the external memory. If the link is slower than the memory behind it,
    this write overlaps the reads, at the internal bandwidth that they leave; otherwise it follows them.

    Parameters
    ----------
    setting
        Bandwidths and sizes.
    reads, beta, promoted, external
        As in `Run`.
    share
        Share of each slot's bytes that HBM serves, alpha.
    """
    total, item = setting.slot_bytes(reads), setting.item_bytes
    hbm = (share * total + beta * item + promoted * item) / setting.b_hbm
    far = ((1 - share) * total + external * item) / setting.b_external
    if setting.b_read < setting.b_internal:
        far = np.maximum(far, item / min(setting.b_write, setting.b_internal - setting.b_read))
    else:
        far = far + item / setting.b_internal
    return np.maximum(hbm, far)
