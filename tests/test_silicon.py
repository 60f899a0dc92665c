"""No measured time per output token beats the limit."""

from __future__ import annotations

import dataclasses

import pytest

from kvbound.limit import Decoding, decode_limit
from tests import silicon


@pytest.fixture(scope="module")
def compared() -> list[silicon.Compared]:
    return [silicon.compare(row) for row in silicon.rows()]


def test_no_measurement_beats_the_limit(compared: list[silicon.Compared]) -> None:
    found = [each for each in compared if not each.reason]
    assert len(found) >= 2500
    assert min(each.ratio for each in found) >= 1


def test_the_limit_is_near_what_some_systems_reach(compared: list[silicon.Compared]) -> None:
    """Where requests do not queue, half of the bandwidth would be beaten."""
    found = [each.ratio for each in compared if not each.reason and not each.queues]
    assert len(found) > 2000
    assert 1 <= min(found) < 1.5


def test_every_other_row_has_a_reason(compared: list[silicon.Compared]) -> None:
    lines = list(silicon.report(compared))
    left_out = sum(int(line.split()[0].replace(",", "")) for line in lines if " left out: " in line)
    assert left_out + sum(not each.reason for each in compared) == len(compared) == 5221
    assert any(" 0 below the limit" in line for line in lines)


def test_a_row_by_hand(compared: list[silicon.Compared]) -> None:
    """Llama-3.1-70B in 8 bits on one H200, where 83 of 128 sequences fit: 4.8 TB/s and 64 GB/s."""
    name = "2026_04_06_llama_3_1_70b_h200_sxm_trtllm_fp8_agg_1024x8192_c128_tp1_ep1_417"
    [found] = [each for each in compared if each.row["id"] == name]
    read = 80 * 1_711_276_032 / 2 + 83 * 80 * 2048 * (1024 + 4095)
    assert found.limit_s == pytest.approx(read / (4.8e12 + 64e9), rel=2e-5)
    memory, llm = silicon.scaled("llama-3.1-70b", "h200-pcie5", 8, 1)
    setting = Decoding(memory, llm, 1024 + 4095, 83)
    assert decode_limit(setting).time_s == found.limit_s
    assert decode_limit(dataclasses.replace(setting, batch=84)).time_s > found.limit_s
