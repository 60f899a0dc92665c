"""The slot formula, branch by branch, against hand calculations."""

from __future__ import annotations

import numpy as np
import pytest

from kvbound.fang2025 import Setting
from kvbound.fang2025.accounting import alpha, ideal_alpha, slot_times

# K = 1, W = 2; rates 4 / 1 / 1 / 2 bytes per second, so alpha* = 4 / 5
SLOW_LINK = Setting(1, (2.0,), 0, 9, 4.0, 1.0, 1.0, 2.0)
FAST_LINK = Setting(1, (2.0,), 0, 9, 4.0, 2.0, 1.0, 1.0)


def time(setting: Setting, reads: int, share: float, beta: bool, promoted: int, external: int) -> float:
    counts = (np.array([[n]], np.int64) for n in (promoted, external))
    return slot_times(setting, np.array([[reads]]), np.array([[share]]), np.array([[beta]]), *counts).item()


@pytest.mark.parametrize(
    ("setting", "reads", "share", "beta", "promoted", "external", "expected"),
    [
        (SLOW_LINK, 8, 0.8, False, 0, 0, 2.0),  # both sides: 8 / 4 and 2 / 1
        (SLOW_LINK, 8, 0.5, True, 0, 0, 5.0),  # external reads: 5 / 1
        (SLOW_LINK, 8, 0.8, True, 3, 0, 3.0),  # HBM: (8 + 1 + 3) / 4
        (SLOW_LINK, 8, 0.8, False, 0, 3, 5.0),  # external: (2 + 3) / 1
        (SLOW_LINK, 0, 1.0, False, 0, 0, 1.0),  # the write: 1 / min(1, 2 - 1)
        (FAST_LINK, 8, 0.8, False, 0, 0, 3.0),  # the write follows: 2 / 1 + 1 / 1
    ],
)
def test_slot_times(
    setting: Setting, reads: int, share: float, beta: bool, promoted: int, external: int, expected: float
) -> None:
    assert time(setting, reads, share, beta, promoted, external) == pytest.approx(expected, rel=1e-12)


def test_alpha_is_the_share_that_hbm_holds_up_to_its_cap() -> None:
    reads = np.array([[8], [8], [2]])
    assert alpha(SLOW_LINK, reads, np.array([[3], [8], [0]])).ravel() == pytest.approx([0.5, 0.8, 0.5])
    small = Setting(1, (2.0,), 0, 4, 4.0, 1.0, 1.0, 2.0)
    assert ideal_alpha(small, reads).ravel() == pytest.approx([0.4, 0.4, 0.8])


def test_a_slot_that_reads_nothing() -> None:
    idle = Setting(1, (0.0,), 0, 4, 4.0, 1.0, 1.0, 2.0)
    assert alpha(idle, np.array([[0]]), np.array([[0]])).item() == pytest.approx(0.8)
