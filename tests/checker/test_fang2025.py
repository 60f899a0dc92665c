"""Logs of the published rules are accepted at the published totals; changed ones are refused."""

import csv
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kvbound.checker import Report, check
from kvbound.checker.fang2025 import check_best
from kvbound.checker.inputs import read_case
from kvbound.errors import InfeasibleError
from kvbound.fang2025 import Run, Setting, simulate
from kvbound.instance import Instance
from kvbound.llm.model import Llm
from kvbound.memory import Memory, Tier
from kvbound.placement import write_placement
from kvbound.rules import Rules
from kvbound.trace import Trace
from tests.fang2025.cases import Case, cases
from tests.paths import DATA

STUDY = DATA / "fang2025"
REFERENCE: dict[str, Any] = json.loads((STUDY / "reference.json").read_text())["traces"]
WITH_LOG = ["static", "reactive", "page", "lookahead-one", "sa-guided"]
Arrays = dict[str, Any]


def instance_of(setting: Setting, trace: Trace) -> Instance:
    rates = {"hbm": setting.b_hbm, "down": setting.b_read, "up": setting.b_write, "bus": setting.b_internal}
    near = Tier("hbm", setting.capacity, ("hbm",), ("hbm",))
    far = Tier("far", None, ("down", "bus"), ("up", "bus"))
    llm = Llm("study", setting.layers, setting.item_bytes, setting.weight_bytes, setting.weight_reads)
    return Instance("study", Memory("study", rates, (near, far)), llm, Rules(accounting="fang2025"), trace)  # type: ignore[arg-type]


def as_file(run: Run, instance: Instance) -> Arrays:
    assert run.log is not None
    return {
        "schema": np.array("kvbound.schedule-fang2025/1"),
        "instance_sha256": np.array(instance.sha256),
        "beta": run.beta.ravel().astype(np.uint8),
        "promoted": run.promoted.ravel(),
        "external": run.external.ravel(),
        **vars(run.log),
    }


def checked(instance: Instance, arrays: Arrays, **more: Any) -> Report:
    return check(instance.expanded(), instance.trace.rows, arrays, **more)


def reference(name: str) -> tuple[Setting, Trace]:
    entry = REFERENCE[name]
    config, derived = entry["config"], entry["derived"]
    layers, steps = config["L"], config["N"]
    reads: list[list[list[int]]] = [[[] for _ in range(layers)] for _ in range(steps)]
    with (STUDY / entry["file"]).open() as lines:
        for row in csv.DictReader(lines):
            reads[int(row["n"]) - config["N_pre"]][int(row["l"])] = json.loads(row["read_kv"])
    setting = Setting(
        derived["kv_bytes_per_token_layer"],
        (derived["weight_read_bytes_per_layer_step"],) * layers,
        config["weights_bytes"],
        config["C_HBM_bytes"],
        *(1e9 * config[f"B_{key}"] for key in ("HBM", "ext_interface_R", "ext_interface_W", "ext_internal")),
    )
    return setting, Trace.from_lists(config["N_pre"], reads)


@pytest.mark.parametrize("name", REFERENCE)
@pytest.mark.parametrize("policy", ["static", "reactive", "page", "lookahead-one"])
def test_replayed_logs_cost_what_the_authors_report(name: str, policy: str, tmp_path: Path) -> None:
    setting, trace = reference(name)
    instance = instance_of(setting, trace)
    run = simulate(setting, trace, policy, record=True)
    write_placement(run, tmp_path / "log.npz", instance_sha256=instance.sha256, tokens=instance.tokens)
    expected = REFERENCE[name]["results"][policy.replace("-", "_")]
    claimed = expected["total_ns"] / 1e9
    report = check(instance.expanded(), trace.rows, tmp_path / "log.npz", claimed_s=claimed)
    assert report.problems == ()
    assert report.time_s == pytest.approx(claimed, rel=1e-9)
    assert report.mean_alpha == pytest.approx(expected["mean_alpha"], rel=1e-9)


@given(case=cases(), policy=st.sampled_from(WITH_LOG))
@settings(deadline=None, max_examples=150)
def test_every_policys_log_is_accepted_at_its_own_numbers(case: Case, policy: str) -> None:
    instance = instance_of(case.setting, case.trace)
    try:
        run = simulate(
            case.setting, case.trace, policy, window=case.window, topk=case.topk, kernel="numpy", record=True
        )
    except InfeasibleError:
        assume(False)
    report = checked(instance, as_file(run, instance), claimed_s=run.total_s)
    assert report.problems == ()
    assert run.hits is not None
    assert report.hit_bytes is not None
    assert report.peak_bytes is not None
    assert report.hit_bytes[0] == run.hits.sum() * case.setting.item_bytes
    assert report.peak_bytes[0] == case.setting.weight_bytes + run.peak_items * case.setting.item_bytes
    assert report.step_times_s == pytest.approx(run.step_times_s, rel=1e-12)


@given(case=cases())
@settings(deadline=None)
def test_the_studys_ideal_is_recomputed(case: Case) -> None:
    instance = instance_of(case.setting, case.trace)
    run = simulate(case.setting, case.trace, "best")
    report = check_best(read_case(instance.expanded(), list(instance.trace.rows)), list(instance.trace.rows))
    assert report.problems == ()
    assert report.step_times_s == pytest.approx(run.step_times_s, rel=1e-12)
    assert report.mean_alpha == pytest.approx(float(run.alpha.mean()), rel=1e-12)


def base() -> tuple[Instance, Arrays]:
    """One layer, prompt 0..2, M - 1 = 3 usable items: 0 and 1 are resident, 3 is placed, 2 replaces 0."""
    setting = Setting(10, (5.0,), 7, 47, 4e9, 1e9, 1e9, 2e9)
    trace = Trace.from_lists(3, [[[0, 1]], [[2, 1]], [[2]]])
    instance = instance_of(setting, trace)
    ints = {
        "initial": [0, 1], "add_slot": [0, 1], "add_item": [3, 2], "remove_slot": [1], "remove_item": [0],
        "promoted": [0, 1, 0], "external": [0, 0, 0],
    }  # fmt: skip
    arrays: Arrays = {name: np.array(values, np.int64) for name, values in ints.items()}
    texts = {"schema": "kvbound.schedule-fang2025/1", "instance_sha256": instance.sha256}
    return instance, arrays | {"beta": np.array([1, 0, 0], np.uint8)} | {
        k: np.array(v) for k, v in texts.items()
    }


def test_a_hand_worked_log() -> None:
    instance, arrays = base()
    report = checked(instance, arrays)
    assert report.problems == ()
    # slot 0: D = 25, all hits, alpha = 0.8: HBM (20 + 10) / 4, external max(5, 10 / 1)
    # slot 1: D = 25, one hit, alpha = 0.6: HBM (15 + 10) / 4, external max(10, 10)
    # slot 2: D = 15, one hit, alpha = 0.8: HBM 12 / 4, external max(3, 10)
    assert report.time_s == pytest.approx(30e-9)
    assert report.mean_alpha == pytest.approx((0.8 + 0.6 + 0.8) / 3)
    assert report.moved_bytes == {"up": 10.0, "down": 0.0}
    assert report.peak_bytes is not None
    assert list(report.peak_bytes) == [37, 60]


def put(name: str, *values: int) -> Callable[[Arrays], Arrays]:
    return lambda arrays: arrays | {name: np.array(values, arrays[name].dtype)}


def both(*changes: Callable[[Arrays], Arrays]) -> Callable[[Arrays], Arrays]:
    def change(arrays: Arrays) -> Arrays:
        for each in changes:
            arrays = each(arrays)
        return arrays

    return change


CORRUPTIONS: dict[str, Callable[[Arrays], Arrays]] = {
    "after slot 1 (step 1, layer 0): the pool holds 4 items, 1 over its limit of 3": both(
        put("remove_slot"), put("remove_item")
    ),
    "at the start: the pool holds 4 items, 1 over its limit of 3": put("initial", 0, 1, 4, 5),
    "slot 1 (step 1, layer 0): token 5 of layer 0 is removed but not there": put("remove_item", 5),
    "slot 0 (step 0, layer 0): token 1 of layer 0 is added but already there": put("add_item", 1, 2),
    "slot 2 (step 2, layer 0): beta is 1 but the new token did not enter tier 0": put("beta", 1, 0, 1),
    "slot 0 (step 0, layer 0): migration brought in 1 items but is charged 0": put("beta", 0, 0, 0),
    "slot 1 (step 1, layer 0): migration brought in 1 items but is charged 0": put("promoted", 0, 0, 0),
    "slot 2 (step 2, layer 0): external reads exceed the promoted items": put("external", 0, 1, 1),
    "slot 0 (step 0, layer 0): beta is neither 0 nor 1": put("beta", 2, 0, 0),
    "add 1: its slot or item is outside the trace": put("add_slot", 0, 3),
    "remove 0: its slot or item is outside the trace": put("remove_item", -1),
    "add 1: the slots do not ascend": put("add_slot", 1, 0),
    "add: token 3 of layer 0 twice in one slot": both(put("add_slot", 0, 0), put("add_item", 3, 3)),
    "initial names an item outside the trace": put("initial", 0, 99),
    "initial names token 1 of layer 0 twice": put("initial", 0, 1, 1),
    "add_slot and add_item differ in length": put("add_slot", 0),
    "promoted is int64 (2,), expected int64 (3,)": put("promoted", 0, 1),
    "beta is int64 (3,), expected uint8 (3,)": lambda a: a | {"beta": a["beta"].astype(np.int64)},
    "the file has no array 'external'": lambda a: {k: v for k, v in a.items() if k != "external"},
    "the file was made for another instance": lambda a: a | {"instance_sha256": np.array("0" * 64)},
    "a kvbound.schedule/1 file needs accounting 'physical', not 'fang2025'": lambda a: (
        a | {"schema": np.array("kvbound.schedule/1")}
    ),
    "schema is 'unheard-of/1', expected one of": lambda a: a | {"schema": np.array("unheard-of/1")},
}


@pytest.mark.parametrize("sentence", CORRUPTIONS)
def test_each_corruption_is_named(sentence: str) -> None:
    instance, arrays = base()
    report = checked(instance, CORRUPTIONS[sentence](arrays))
    assert any(sentence in problem for problem in report.problems), report.problems


@given(
    name=st.sampled_from(
        ["initial", "add_slot", "add_item", "remove_slot", "remove_item", "promoted", "external", "beta"]
    ),
    value=st.one_of(st.integers(-3, 9), st.integers(-(2**63), 2**63 - 1)),
)
def test_any_other_number_gives_a_report_and_never_a_traceback(name: str, value: int) -> None:
    instance, arrays = base()
    changed = arrays[name].copy()
    changed[0] = np.asarray(value).astype(changed.dtype)
    assert isinstance(checked(instance, arrays | {name: changed}), Report)


def test_a_wrong_claim_is_refused() -> None:
    instance, arrays = base()
    assert checked(instance, arrays, claimed_s=30e-9).ok
    assert "the claimed time" in checked(instance, arrays, claimed_s=30e-9 * (1 + 1e-8)).problems[0]


def test_weights_that_do_not_fit_are_named() -> None:
    instance, arrays = base()
    near, far = instance.memory.tiers
    memory = dataclasses.replace(instance.memory, tiers=(dataclasses.replace(near, capacity=6), far))
    small = dataclasses.replace(instance, memory=memory)
    report = checked(small, arrays | {"instance_sha256": np.array(small.sha256)})
    assert "the resident weights do not fit into hbm" in report.problems


def test_a_token_placed_and_evicted_in_its_own_slot_is_in_both_lists() -> None:
    instance, arrays = base()
    lists = both(
        put("add_slot", 0, 1, 2), put("add_item", 3, 2, 5), put("remove_slot", 1, 2), put("remove_item", 0, 5)
    )
    assert checked(instance, both(lists, put("beta", 1, 0, 1))(arrays)).ok


def test_the_link_as_fast_as_the_memory_behind_it_is_refused() -> None:
    instance, arrays = base()
    expanded = instance.expanded()
    expanded["memory"]["resources"]["down"] = expanded["memory"]["resources"]["bus"]
    problems = check(expanded, instance.trace.rows, arrays).problems
    assert problems == ("fang2025 accounting divides by zero where the link is as fast as tier 1 itself",)


@pytest.mark.parametrize(
    ("rule", "value"), [("copies", "exclusive"), ("timing", "serial"), ("granularity", 2)]
)
def test_other_rules_than_the_studys_are_refused(rule: str, value: Any) -> None:
    instance, arrays = base()
    report = checked(instance.with_rules(**{rule: value}), arrays)
    assert report.problems[0].startswith("fang2025 accounting needs inclusive copies")
