"""Overlap over a step: never slower than by slot, the same for one layer, and one optimum by every method."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kvbound as kv
from kvbound.checker import check
from kvbound.cost.evaluate import evaluate
from kvbound.cost.ideal import ideal
from kvbound.errors import InputError
from kvbound.instance import Instance
from kvbound.instance_io import from_mapping
from kvbound.rules import Overlap
from kvbound.solvers.lagrangian.bound import solve_dual
from kvbound.solvers.reference.brute_force import find_optimum
from tests.strategies import random_schedule, tiny_instance, with_formats, with_layers

seeds = st.integers(0, 2**32 - 1)


def under(instance: Instance, overlap: Overlap) -> Instance:
    return dataclasses.replace(instance, rules=dataclasses.replace(instance.rules, overlap=overlap))


def by_slot_and_by_step(seed: int, **rules: Any) -> tuple[np.random.Generator, Instance, Instance]:
    """Return two instances that differ in the rule alone, with layers of one size or several."""
    rng = np.random.default_rng(seed)
    instance = tiny_instance(rng, layers=2, batch=bool(rng.integers(2)), overlap="slot", **rules)
    kind = rng.integers(3)
    instance = [lambda: instance, lambda: with_layers(rng, instance), lambda: with_formats(rng, instance)][
        kind
    ]()
    return rng, instance, under(instance, Overlap.STEP)


@given(seeds)
@settings(max_examples=100)
def test_a_schedule_takes_no_longer_by_step(seed: int) -> None:
    rng, by_slot, by_step = by_slot_and_by_step(seed)
    schedule = random_schedule(rng, by_slot)
    slow, fast = evaluate(by_slot, schedule), evaluate(by_step, schedule)
    assert fast.time_s <= slow.time_s * (1 + 1e-12)
    assert ideal(by_step) <= min(ideal(by_slot), fast.time_s) * (1 + 1e-12)
    assert (fast.moved_bytes, fast.hit_rate) == (slow.moved_bytes, slow.hit_rate)
    if fast.time_s:
        assert max((fast.utilisation or {}).values()) <= 1
    arrays = schedule.arrays(instance_sha256=by_step.sha256, tokens=by_step.workload.tokens)
    report = check(by_step.expanded(), by_step.token_trace.arrays, arrays, claimed_s=fast.time_s)
    assert report.problems == ()


@given(seeds)
@settings(max_examples=25)
def test_all_methods_agree_on_the_optimum(seed: int) -> None:
    _, by_slot, by_step = by_slot_and_by_step(seed)
    optimum = find_optimum(by_step).time_s
    assert optimum <= find_optimum(by_slot).time_s * (1 + 1e-9)
    exact = kv.solve(by_step, "exact")
    assert exact.time_s == pytest.approx(optimum, rel=1e-6)
    certificate = solve_dual(by_step, work=100)[1]
    report = check(by_step.expanded(), by_step.token_trace.arrays, certificate.arrays())
    assert report.problems == ()
    assert report.bound_s is not None
    assert report.bound_s <= optimum * (1 + 1e-12)
    found = {kv.solve(by_step, "anneal", work=2, kernel=kernel).time_s for kernel in ("numpy", "numba")}
    assert len(found) == 1
    assert min(time for time in found if time is not None) >= optimum * (1 - 1e-12)


@given(seeds)
@settings(max_examples=15)
def test_one_layer_takes_the_same_time_under_both(seed: int) -> None:
    rng = np.random.default_rng(seed)
    by_slot = tiny_instance(rng, layers=1)
    by_step, schedule = under(by_slot, Overlap.STEP), random_schedule(rng, by_slot)
    assert by_slot.sha256 != by_step.sha256
    assert evaluate(by_slot, schedule) == evaluate(by_step, schedule)
    bounds = [solve_dual(instance, work=20)[0].time_s for instance in (by_slot, by_step)]
    assert bounds[0] == bounds[1]


def test_a_layer_transfers_while_another_leaves_the_link_idle() -> None:
    """Layer 0 reads only weights, layer 1 only what does not fit beside them: together half the time."""
    document: dict[str, Any] = {
        "schema": "kvbound.instance/1", "name": "two",
        "memory": {
            "name": "two",
            "resources": {"fast": 4, "slow": 4},
            "tiers": [
                {"name": "near", "capacity": 16, "reads": ["fast"], "writes": ["fast"]},
                {"name": "far", "capacity": None, "reads": ["slow"], "writes": []},
            ],
        },
        "llm": {
            "name": "two", "layers": 2, "kv_bytes_per_token_layer": 8, "weight_bytes": 16,
            "weight_read_bytes_per_layer": [16, 0],
        },
        "trace": {"prefill_tokens": 2, "reads": [[[], [0, 1]]]},
        "rules": {"overlap": "step"},
    }  # fmt: skip
    by_step = from_mapping(document)
    assert kv.solve(by_step, "exact").time_s == pytest.approx(4.0)
    assert kv.solve(under(by_step, Overlap.SLOT), "exact").time_s == pytest.approx(8.0)
    document["rules"]["accounting"] = "fang2025"
    with pytest.raises(InputError, match=r"rules\.overlap.*'slot'"):
        from_mapping(document)


def test_the_default_stands_in_no_file_and_the_checker_knows_the_words() -> None:
    _, by_slot, by_step = by_slot_and_by_step(0, copies="inclusive")
    assert "overlap" not in by_slot.rules.to_mapping()
    expanded = by_step.expanded()
    assert expanded["rules"]["overlap"] == "step"
    expanded["rules"]["overlap"] = "layer"
    report = check(expanded, by_step.token_trace.arrays, solve_dual(by_step, work=5)[1].arrays())
    assert any("overlap" in problem for problem in report.problems)
