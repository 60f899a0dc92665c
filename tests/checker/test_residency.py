"""Legal residencies are accepted; each violation is named."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kvbound as kv
from kvbound.checker import Report, check
from kvbound.instance import Instance
from kvbound.placement import write_placement
from kvbound.residency import Residency
from kvbound.schedule import Schedule
from kvbound.trace import Trace
from tests.strategies import random_schedule, tiny_instance

ON_READ, PREFETCH = "swap-4x64-c30-b450", "native-r15-c25-b64-n64-prefetch"


def large(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> kv.Result:
    """Solve an instance as if it were too large for events."""
    monkeypatch.setattr("kvbound.residency.EVENT_LIMIT", 0)
    return kv.solve(instance, "pricing", time_limit=1)


@pytest.fixture
def case() -> Instance:
    return kv.read_instance(ON_READ)


@pytest.fixture
def arrays(case: Instance, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    found = large(case, monkeypatch).placement
    assert isinstance(found, Residency)
    arrays = found.arrays(instance_sha256=case.sha256, tokens=case.tokens)
    return {name: np.array(value) for name, value in arrays.items()}


def replay(instance: Instance, arrays: dict[str, Any], **claim: float) -> Report:
    return check(instance.expanded(), instance.trace.rows, arrays, **claim)


@pytest.mark.parametrize("name", [ON_READ, PREFETCH])
def test_solved_written_and_checked(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    instance = kv.read_instance(name)
    result = large(instance, monkeypatch)
    assert result.schedule is None
    assert isinstance(result.placement, Residency)
    assert result.time_s is not None
    path = tmp_path / "schedule.npz"
    write_placement(result.placement, path, instance_sha256=instance.sha256, tokens=instance.tokens)
    report = check(instance.expanded(), instance.trace.rows, path, claimed_s=result.time_s)
    assert report.problems == ()
    assert report.bound_s is None
    assert (result.bound.time_s or 0) <= result.time_s


def test_a_layer_that_cannot_be_read(case: Instance, arrays: dict[str, Any], tmp_path: Path) -> None:
    """Layers are read one by one: damage in the last one is found, too."""
    path, last = tmp_path / "schedule.npz", arrays[f"after_{case.layers - 1}"].tobytes()
    np.savez(path, **arrays)
    whole = bytearray(path.read_bytes())
    at = bytes(whole).rindex(last[-64:])
    whole[at] ^= 1
    path.write_bytes(whole)
    report = check(case.expanded(), case.trace.rows, path)
    assert "is no readable npz file" in report.problems[0]
    assert report.time_s is None


@pytest.mark.parametrize("steps", [1, 3, 1000])
def test_any_number_of_steps_at_once(
    steps: int, case: Instance, arrays: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = replay(case, arrays).to_mapping()
    for module in ("physical", "residency"):
        monkeypatch.setattr(f"kvbound.checker.{module}._STEPS", steps)
    assert replay(case, arrays).to_mapping() == whole


def test_a_wrong_claim(case: Instance, arrays: dict[str, Any]) -> None:
    time = replay(case, arrays).time_s
    assert time is not None
    assert replay(case, arrays, claimed_s=time).ok
    assert "claim" in replay(case, arrays, claimed_s=time * (1 - 1e-8)).problems[0]


def flip(arrays: dict[str, Any], layer: int, step: int, token: int) -> None:
    arrays[f"after_{layer}"][step, token >> 3] ^= 1 << (token & 7)


def test_unread_tokens_do_not_move_up_on_read(case: Instance, arrays: dict[str, Any]) -> None:
    row, bits = case.trace.rows[1][5], arrays["after_1"]
    out = ~(row | bits[4] | bits[5])[: case.prefill_tokens // 8]
    token = int(np.flatnonzero(np.unpackbits(out, bitorder="little"))[0])
    flip(arrays, 1, 5, token)
    assert "step 5, layer 1: a token goes up without being read (on-read)" in replay(case, arrays).problems


def test_tokens_are_in_no_tier_before_their_birth(case: Instance, arrays: dict[str, Any]) -> None:
    flip(arrays, 2, 3, case.prefill_tokens + 4)
    assert any(
        "step 3, layer 2: a token is in tier 0 that is not born" in p for p in replay(case, arrays).problems
    )


def test_migration_none_forbids_every_move(case: Instance, arrays: dict[str, Any]) -> None:
    still = case.with_rules(migration="none")
    arrays["instance_sha256"] = np.array(still.sha256)
    assert any("the rules allow no migration" in problem for problem in replay(still, arrays).problems)


def test_capacity_is_limited(case: Instance, arrays: dict[str, Any]) -> None:
    for layer in range(case.layers):
        arrays["initial"][layer] = 0
        for step in range(case.decode_steps):
            alive = np.zeros(64 * arrays[f"after_{layer}"].shape[1] // 8, np.uint8)
            alive[: case.prefill_tokens + step + 1] = 1
            arrays[f"after_{layer}"][step] = np.packbits(alive, bitorder="little")
    assert "at the start: tier" in replay(case, arrays).problems[0]


def test_every_flipped_bit_is_rejected_or_costs_something_else(
    case: Instance, arrays: dict[str, Any]
) -> None:
    """Except where the bit has no effect: a token that needs no space or is not read again."""
    time, rng, same = replay(case, arrays).time_s, np.random.default_rng(0), 0
    assert time is not None
    for _ in range(60):
        layer, step = int(rng.integers(case.layers)), int(rng.integers(case.decode_steps))
        token = int(rng.integers(case.prefill_tokens + step + 1))
        flip(arrays, layer, step, token)
        report = replay(case, arrays, claimed_s=time)
        same += report.ok
        flip(arrays, layer, step, token)
    assert same <= 6


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("after_0", None, "no array 'after_0'"),
        ("after_0", np.zeros((2, 8), np.uint8), "after_0 is uint8 (2, 8), expected"),
        ("initial", np.zeros((1, 1), np.uint8), "initial is uint8 (1, 1), expected"),
        ("instance_sha256", np.array("f" * 64), "made for another instance"),
        ("initial", "3", "initial names a tier that does not exist"),
    ],
)
def test_malformed(case: Instance, arrays: dict[str, Any], name: str, value: Any, problem: str) -> None:
    if value is None:
        del arrays[name]
    else:
        arrays[name] = np.full_like(arrays[name], 3) if isinstance(value, str) else value
    assert problem in replay(case, arrays).problems[0]


def test_other_rules_are_refused(case: Instance, arrays: dict[str, Any]) -> None:
    exclusive = case.with_rules(copies="exclusive")
    assert "two tiers with inclusive copies" in replay(exclusive, arrays).problems[0]


def of_bits(instance: Instance, initial: Any, bits: list[Any]) -> Residency:
    found = Residency(instance.timelines)
    found.initial = initial
    for layer, after in enumerate(bits):
        found.put(layer, after)
    return found


def reported(instance: Instance, placement: Residency | Schedule) -> Report:
    arrays = placement.arrays(instance_sha256=instance.sha256, tokens=instance.tokens)
    return check(instance.expanded(), instance.trace.rows, arrays)


@pytest.mark.parametrize("seed", range(30))
def test_births_and_ends(seed: int) -> None:
    """Bits and the events that they stand for get the same report; tokens that do not exist have none."""
    rng = np.random.default_rng(seed)
    instance = tiny_instance(rng, batch=True, tiers=2, copies="inclusive", granularity=1)
    schedule, timeline = random_schedule(rng, instance), instance.timeline
    bits = [schedule.tier0_rows(layer, timeline) for layer in range(instance.layers)]
    for trial in range(20):
        flipped = [after.copy() for after in bits]
        layer, step = int(rng.integers(instance.layers)), int(rng.integers(instance.decode_steps))
        token = int(rng.integers(instance.tokens + 1))
        if trial:
            flipped[layer][step, token >> 3] ^= 1 << (token & 7)
        report = reported(instance, residency := of_bits(instance, schedule.initial, flipped))
        if trial and (token == instance.tokens or timeline.born[token] > step):
            assert f"step {step}, layer {layer}: a token is in tier 0 that is not born yet" in report.problems
        elif trial and timeline.ends[token] <= step:
            assert f"step {step}, layer {layer}: a token is in tier 0 that has ended" in report.problems
        else:
            other = reported(instance, residency.to_schedule())
            assert trial or report.ok
            assert report.ok == other.ok
            assert not report.ok or report.to_mapping() | {"checked": ""} == other.to_mapping() | {
                "checked": ""
            }


@pytest.mark.parametrize("seed", range(6))
def test_a_trace_that_reads_tokens_which_do_not_exist_is_refused(seed: int) -> None:
    rng = np.random.default_rng(seed)
    instance = tiny_instance(rng, batch=True, tiers=2, copies="inclusive", granularity=1)
    timeline = instance.timeline
    for token, step in np.ndindex(instance.tokens, instance.decode_steps):
        rows = [row.copy() for row in instance.trace.rows]
        rows[0][step, token >> 3] |= 1 << (token & 7)
        trace = Trace(instance.prefill_tokens, tuple(rows), timeline=timeline)
        wrong = dataclasses.replace(instance, workload=trace)
        initial = np.ones((instance.layers, instance.prefill_tokens), np.uint8)
        problems = reported(wrong, of_bits(wrong, initial, [np.zeros_like(row) for row in rows])).problems
        ended, unborn = timeline.ends[token] < step, timeline.born[token] > step
        for bad, when in ((ended, "has ended"), (unborn, "is not born yet")):
            assert (f"step {step}, layer 0: the trace reads a token that {when}" in problems) == bad
