"""Dense reads: the checker's closed forms equal its replay of bits, and it proves the claim itself."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kvbound as kv
from kvbound.checker import check, check_result
from kvbound.checker.dense import DenseRows
from kvbound.checker.lifetimes import Lifetimes
from kvbound.checker.report import Refused
from kvbound.instance import Instance
from kvbound.residency import Residency
from kvbound.simulation import simulate
from kvbound.solvers.lagrangian.bound import solve_dual
from kvbound.trace import Trace
from kvbound.trace.timeline import Timeline
from tests.checker.test_certificate import any_multipliers
from tests.dense_cases import dense_instance, feasible, long_run, with_bits
from tests.strategies import random_schedule

seeds = st.integers(0, 2**32 - 1)


def both(instance: Instance, file: Any, **more: Any) -> tuple[Any, Any]:
    """The reports without bits, and with them."""
    plain = with_bits(instance)
    assert instance.sha256 == plain.sha256
    assert "dense" not in plain.expanded()["trace"]
    return (
        check(instance.expanded(), None, file, **more),
        check(plain.expanded(), plain.token_trace.rows, file, **more),
    )


@given(seeds)
def test_any_multipliers_prove_the_same(seed: int) -> None:
    rng = np.random.default_rng(seed)
    instance = dense_instance(rng, tiers=int(rng.integers(2, 5)), weights=True)
    if not feasible(instance):
        return
    arrays = any_multipliers(instance, rng)
    if (shares := arrays.pop("shares", None)) is not None:
        assert "where reads are dense" in both(instance, arrays | {"shares": shares})[0].problems[0]
    dense, plain = both(instance, arrays)
    assert dense.problems == plain.problems
    assert dense.bound_s == plain.bound_s


@pytest.mark.parametrize("field", ["prices", "whole", "theta", "whole_writes"])
def test_layers_that_differ_in_one_array_alone_are_not_taken_for_alike(field: str) -> None:
    instance, rng = long_run(steps=12, layers=2, copies="exclusive"), np.random.default_rng(1)
    arrays = any_multipliers(instance, rng)
    while "whole_writes" not in arrays:
        arrays = any_multipliers(instance, rng)
    arrays["prices"] //= 3
    for name in ("prices", "whole", "theta", "whole_writes"):
        arrays[name][..., 1] = arrays[name][..., 0]
    alike = both(instance, arrays)
    changed = arrays[field].copy()
    changed[..., 1] = changed[..., 1] // 2 if field in ("prices", "theta") else 3 - changed[..., 1]
    dense, plain = both(instance, arrays | {field: changed})
    assert alike[0].bound_s == alike[1].bound_s != dense.bound_s == plain.bound_s


@given(seeds)
def test_any_schedule_takes_the_same_time(seed: int) -> None:
    rng = np.random.default_rng(seed)
    instance = dense_instance(rng)
    if instance.memory.tiers[-1].capacity is not None:
        return
    schedule = random_schedule(rng, instance)
    dense, plain = both(instance, schedule.arrays(instance_sha256=instance.sha256, tokens=instance.tokens))
    assert dense.problems == plain.problems
    assert dense.to_mapping() == plain.to_mapping()


@given(seeds)
def test_weights_that_are_placed_are_read_too(seed: int) -> None:
    instance = dense_instance(np.random.default_rng(seed), weights=True)
    if not instance.chunks.ids or not feasible(instance):
        return
    result = simulate(instance, "static")
    plain = simulate(with_bits(instance), "static")
    assert result.measures == plain.measures
    if result.placement is None:
        return
    file = result.placement.arrays(instance_sha256=instance.sha256, tokens=instance.tokens)
    dense, replayed = both(instance, file, claimed_s=result.time_s)
    assert dense.problems == ()
    assert dense.to_mapping() == replayed.to_mapping()
    labels = instance.workload.timeline.sequence
    claims = check_result(instance.expanded(), None, result.to_json(), schedule=dense, labels=labels)
    assert claims.problems == ()


def test_a_false_claim_is_refused() -> None:
    trace = Trace.from_lists(2, [[[0, 1]], [[0, 2]]])
    plain = long_run(steps=2, layers=1)
    instance = Instance("false", plain.memory, plain.llm, plain.rules, trace)
    certificate = solve_dual(instance, iterations=1)[1]
    expanded = instance.expanded()
    assert check(expanded, trace.rows, certificate.arrays()).ok
    expanded["trace"]["dense"] = True
    for rows in (None, trace.rows):
        report = check(expanded, rows, certificate.arrays())
        assert not report.ok
        assert "expected the trace's own rows (SHA-256 of each layer)" in report.problems[0]


def test_a_bound_claimed_too_high_is_refused() -> None:
    instance = long_run(steps=30)
    arrays = solve_dual(instance, iterations=20)[1].arrays()
    assert check(instance.expanded(), None, arrays).ok
    high = arrays | {"bound_s": np.float64(arrays["bound_s"] * (1 + 1e-6))}
    assert "is not proved" in check(instance.expanded(), None, high).problems[0]
    dear = arrays | {"prices": arrays["prices"] + 1000}
    assert not check(instance.expanded(), None, dear | {"bound_s": high["bound_s"]}).ok


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("dense", 1, "expected dense of a trace to be true, or no such field"),
        ("dense", None, "expected dense of a trace to be true, or no such field"),
        ("decode_steps", 1 << 40, "expected at most 16777216 slots of dense reads"),
        ("prefill_tokens", 1 << 40, "expected at most 134217728 items of dense reads"),
        ("layers", 3, "expected the trace's own rows"),
        ("births", [1, 2], "expected births: a list of 5 integers"),
        ("sha256", [], "expected the trace's own rows"),
    ],
)
def test_malformed_claims_are_refused(field: str, value: object, expected: str) -> None:
    instance = long_run(steps=5)
    expanded = instance.expanded()
    expanded["trace"][field] = value
    report = check(expanded, None, solve_dual(instance, iterations=1)[1].arrays())
    assert not report.ok
    assert expected in report.problems[0]


def test_without_rows_reads_must_be_dense() -> None:
    instance = long_run(steps=5)
    expanded = instance.expanded()
    del expanded["trace"]["dense"]
    report = check(expanded, None, solve_dual(instance, iterations=1)[1].arrays())
    assert "expected the trace's own rows" in report.problems[0]


def test_reads_beyond_a_window_are_found() -> None:
    instance = long_run(steps=5, layers=2)
    certificate = solve_dual(instance, iterations=1)[1].arrays()
    for trace in (instance.token_trace, with_bits(instance).token_trace):
        expanded = instance.expanded()
        if not trace.dense:
            del expanded["trace"]["dense"]
        expanded["rules"]["windows"] = "ends"
        expanded["llm"]["windows"] = [None, 103]
        report = check(expanded, trace.rows, certificate)
        reads = "the trace reads a token that has ended (and 1 more like it)"
        assert report.problems == (f"slot 7 (step 3, layer 1): {reads}",)


def test_a_residency_of_dense_reads_is_replayed_by_bits() -> None:
    instance = long_run(steps=20, copies="inclusive")
    schedule = kv.solve(instance, "static").placement
    assert isinstance(schedule, kv.Schedule)
    residency = Residency(instance.timelines)
    residency.initial = schedule.initial
    for layer in range(instance.layers):
        residency.put(layer, schedule.tier0_rows(layer, instance.timeline))
    arrays = residency.arrays(instance_sha256=instance.sha256, tokens=instance.tokens)
    dense, plain = both(instance, arrays)
    assert dense.problems == ()
    assert dense.to_mapping() == plain.to_mapping()


def test_rows_too_many_for_bits_are_refused() -> None:
    timeline = Timeline.of(131_072, 131_072)
    trace = {"decode_steps": timeline.steps, "prefill_tokens": timeline.prefill_tokens}
    rows = DenseRows(Lifetimes.read(trace, 1), 2)
    assert len(rows) == 2
    with pytest.raises(Refused, match=r"those of dense reads take 4\.3 GB"):
        _ = rows[0]
    with pytest.raises(IndexError):
        _ = rows[2]
