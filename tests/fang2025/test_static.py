"""The closed forms: best against the published digits, static against the slot-by-slot run."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from numpy.typing import NDArray

from kvbound.errors import InputError
from kvbound.fang2025 import Setting, best, simulate
from kvbound.fang2025.static import static
from tests.fang2025.cases import Case, cases

PAPER = Setting(16_384, (162_889_728.0,) * 32, 16e9, 23 * 2**30, 4900e9, 450e9, 450e9, 500e9)
SYNTHETIC, RECORDED = "round(share (n - 1))", "ceil(share (n + 1))"


def paper_best(first: int, steps: int, rule: str, share: float = 0.4) -> float:
    per_step = [
        round(share * (n - 1)) if rule == SYNTHETIC else math.ceil(round(share * (n + 1), 6))
        for n in range(first, first + steps)
    ]
    reads: NDArray[np.int64] = np.repeat(np.array(per_step)[:, None], 32, axis=1)
    return best(PAPER, first, reads).total_s


@pytest.mark.parametrize(
    ("first", "steps", "rule", "share", "published"),
    [
        (31_299, 10_239, SYNTHETIC, 0.4, 24.59210623),  # low variation
        (31_299, 10_240, RECORDED, 0.4, 24.59591295),  # actual
        (31_346, 10_239, SYNTHETIC, 0.4, 24.61097011),  # high variation
        (31_299, 10_240, RECORDED, 0.6, 31.90528498),  # sparsity 40 %
        (31_299, 10_240, RECORDED, 0.5, 28.25044844),  # sparsity 50 %
    ],
)
def test_best_to_all_published_digits(
    first: int, steps: int, rule: str, share: float, published: float
) -> None:
    assert round(paper_best(first, steps, rule, share), 8) == published


@given(case=cases())
@settings(max_examples=60, deadline=None)
def test_best_is_no_slower_than_static_while_hbm_holds_the_slot(case: Case) -> None:
    """Best assumes that HBM is full of items that are read, but does not save the write of the new token."""
    run = static(case.setting, case.trace)
    ideal = best(case.setting, case.prefill, case.trace.counts())
    fits = case.setting.slot_bytes(run.reads) <= case.setting.capacity
    write_s = run.beta * case.setting.item_bytes / case.setting.b_hbm
    assert np.all((ideal.time_s <= (run.time_s + write_s) * (1 + 1e-12))[fits])
    assert ideal.hits is None
    np.testing.assert_array_equal(ideal.beta, run.beta)
    assert ideal.total_s == simulate(case.setting, case.trace, "best").total_s


def test_best_of_another_model() -> None:
    with pytest.raises(InputError, match="32 layers"):
        best(PAPER, 5, np.ones((3, 2), np.int64))
