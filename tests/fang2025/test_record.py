"""The independent checker replays logs to the same times."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from kvbound.checker import check_fang2025
from kvbound.errors import InfeasibleError
from kvbound.fang2025 import Setting, simulate
from kvbound.instance import Instance
from kvbound.llm.model import Llm
from kvbound.memory import Memory, Tier
from kvbound.placement import write_placement
from kvbound.rules import Rules
from tests.fang2025.cases import Case, cases


def instance_of(case: Case) -> Instance:
    s = case.setting
    memory = Memory(
        "two tiers",
        {"hbm": s.b_hbm, "down": s.b_read, "up": s.b_write, "bus": s.b_internal},
        (Tier("near", s.capacity, ("hbm",), ("hbm",)), Tier("far", None, ("down", "bus"), ("up", "bus"))),
    )
    llm = Llm("model", s.layers, s.item_bytes, s.weight_bytes, s.weight_reads)
    return Instance("case", memory, llm, Rules(accounting="fang2025"), case.trace)  # type: ignore[arg-type]


PAST_THE_END = Case(Setting(64, (16.0,), 0, 6400, 4900e9, 450e9, 450e9, 500e9), 15, [[[0]], [[16]]])
"""The last step reads its own token, the first of a page whose other 15 tokens do not exist."""


@given(case=cases())
@settings(max_examples=20, deadline=None)
def test_a_setting_is_read_from_an_instance(case: Case) -> None:
    setting = Setting.from_instance(instance_of(case))
    assert dataclasses.replace(setting, name=case.setting.name) == case.setting


@example(case=PAST_THE_END, policy="page")
@given(case=cases(), policy=st.sampled_from(["static", "reactive", "page", "lookahead-one", "sa-guided"]))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_checker_accepts_a_log(case: Case, policy: str, tmp_path: Path) -> None:
    instance, file = instance_of(case), tmp_path / "schedule.npz"
    try:
        run = simulate(case.setting, case.trace, policy, window=case.window, topk=case.topk, record=True)
    except InfeasibleError:
        assume(False)
    write_placement(run, file, instance_sha256=instance.sha256, tokens=instance.tokens)
    report = check_fang2025(instance.expanded(), case.trace.rows, file, claimed_s=run.total_s)
    assert report.problems == ()
    assert report.mean_alpha == pytest.approx(run.mean_alpha, rel=1e-12)
    assert report.step_times_s is not None
    np.testing.assert_allclose(report.step_times_s, run.step_times_s, rtol=1e-12)


def test_a_run_without_a_log_is_not_written(tmp_path: Path) -> None:
    setting = Setting(64, (16.0,), 0, 6400, 4900e9, 450e9, 450e9, 500e9)
    case = Case(setting, 2, [[[0, 1]], [[1]]])
    with pytest.raises(ValueError, match="not recorded"):
        write_placement(
            simulate(setting, case.trace, "page"), tmp_path / "log.npz", instance_sha256="", tokens=1
        )
    assert not list(tmp_path.iterdir())
