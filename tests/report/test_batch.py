"""Births, ends and sequences in reports, where they are not those of one sequence that keeps all."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from kvbound.instance import Instance
from kvbound.report import instance as report_instance
from kvbound.report import numbers
from kvbound.report import trace as report_trace
from kvbound.trace.statistics import batch_figures, trace_info
from kvbound.trace.timeline import Timeline
from tests.cost_cases import toy
from tests.instance_documents import two_tiers

FIELDS: dict[str, Any] = {
    "births": [2, 0, 1],
    "ends": [0, 1, None, None, None],
    "sequence": [0, 0, 1, 1, 0],
    "outputs": [1, 0, 1],
}
FIGURES = {"births": 3, "births_max": 2, "outputs": 2, "sequences": 2, "live_tokens_max": 3}
PHRASE = "2 sequences, births per step up to 2, tokens at a time up to 3, 2 decoded"


def batch(**fields: object) -> Instance:
    """Two prompt tokens and three births in three steps, with room for two in the first tier."""
    trace = {"prefill_tokens": 2, "reads": [[[0, 1]], [[1, 2]], [[3]]], **fields}
    return toy(memory=two_tiers(4, 1, 2), trace=trace)


def text(parts: Sequence[object]) -> str:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(*parts, sep="\n")
    return captured.get()


@pytest.mark.parametrize("name", FIELDS)
def test_only_what_is_not_the_default_is_named(name: str) -> None:
    given: Any = {name: FIELDS[name]}
    named = {"births": {"births", "births_max"}, "ends": {"live_tokens_max"}, "sequence": {"sequences"}}
    expected = named.get(name, {"outputs"})
    timeline = Timeline.of(2, 3, **given)
    assert set(batch_figures(timeline)) == expected
    plain = Timeline.of(2, 3)
    assert batch_figures(plain) == {}
    assert numbers.batch({}) == ""


def test_a_batch_in_the_figures_of_an_instance() -> None:
    instance = batch(**FIELDS)
    known = report_instance.figures(instance)
    assert {name: known[name] for name in FIGURES} == FIGURES
    assert numbers.batch(known) == PHRASE
    # 2, 3 and 2 past tokens exist when the steps begin, and at most 3 at a time
    assert known["share_of_past_read"] == pytest.approx((5 / 3) / (7 / 3))
    assert known["kv_bytes"] == 3
    assert known["tiers"][0]["room_for_kv_share"] == pytest.approx(2 / 3)
    shown = text(report_instance.describe(instance))
    assert PHRASE in shown
    assert "KV at most" in shown
    assert "2 + 3 tokens" in shown


def test_one_sequence_is_described_as_ever() -> None:
    known = report_instance.figures(batch())
    assert not FIGURES.keys() & known.keys()
    assert known["share_of_past_read"] == pytest.approx((5 / 3) / 3)
    shown = text(report_instance.describe(batch()))
    assert "KV at the end" in shown
    assert "batch" not in shown.split("placement gains")[0]


def test_nothing_is_ever_held() -> None:
    instance = toy(trace={"prefill_tokens": 0, "reads": [[[]]], "ends": [0]})
    known = report_instance.figures(instance)
    assert (known["kv_bytes"], known["share_of_past_read"]) == (0, 0.0)
    assert known["tiers"][0]["room_for_kv_share"] is None


def test_blocks_at_most() -> None:
    instance = batch(**FIELDS).with_rules(granularity=2)
    held = int(np.max(instance.grouping.held_counts))
    assert held < instance.blocks
    assert f" in {held} blocks of 2 B" in text(report_instance.describe(instance))


def test_a_batch_in_the_statistics_of_a_trace() -> None:
    info = trace_info(batch(**FIELDS).trace)
    mapping = info.to_mapping()
    assert {name: mapping[name] for name in FIGURES} == FIGURES
    shown = text(report_trace.describe(info))
    assert PHRASE in shown
    assert "1 layer, 2 + 3 tokens" in shown
    # 2 of 2, 2 of 3 and 1 of 2 past tokens that exist
    assert mapping["overall"]["share_of_past"] == pytest.approx((1 + 2 / 3 + 1 / 2) / 3)
    assert "72.2 % of the past tokens that exist" in shown
    plain = trace_info(batch().trace)
    assert not (FIGURES.keys() | {"tokens", "batch"}) & plain.to_mapping().keys()
    shown = text(report_trace.describe(plain))
    assert "batch" not in shown
    assert "of the past tokens" in shown
    assert "that exist" not in shown
