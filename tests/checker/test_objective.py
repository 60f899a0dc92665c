"""The checker refuses false claims about an objective, and anything that belongs to another one."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import kvbound as kv
from kvbound.checker import Report, check, check_result
from kvbound.checker.objective import read_objective
from kvbound.errors import InfeasibleError, UsageError
from kvbound.instance import Instance
from kvbound.result import Result
from kvbound.solvers.reference.brute_force import find_optimum
from tests.objective_cases import swap, tiny_mix

Case = tuple[Instance, Result, dict[str, Report]]


@pytest.fixture(scope="module")
def case() -> Case:
    instance = swap(time=1.0, energy=0.003)
    result = kv.solve(instance, "pricing", work=60)
    assert result.placement is not None
    assert result.certificate is not None
    schedule, certificate = kv.check(instance, result.placement), kv.check(instance, result.certificate)
    return instance, result, {"schedule": schedule, "certificate": certificate}


def problems(instance: Instance, document: Any, reports: dict[str, Report]) -> tuple[str, ...]:
    rows = instance.token_trace.arrays
    beside: dict[str, Any] = {**reports}
    return check_result(instance.expanded(), rows, document, **beside).problems


def test_what_is_said_is_accepted(case: Case) -> None:
    instance, result, reports = case
    assert all(report.ok for report in reports.values())
    assert problems(instance, result.to_json(), reports) == ()
    assert reports["schedule"].objective == pytest.approx(result.value, rel=1e-9)
    assert reports["certificate"].to_mapping()["bound_s"] is None
    assert reports["certificate"].to_mapping()["bound"] >= result.bound.value


@pytest.mark.parametrize("field", ["objective", "bound.objective", "gap", "share_of_bound", "time_s"])
@pytest.mark.parametrize("factor", [0.99, 1.01])
def test_every_changed_number_is_named(case: Case, field: str, factor: float) -> None:
    instance, result, reports = case
    document = copy.deepcopy(result.to_json())
    *tables, key = field.split(".")
    at = document
    for table in tables:
        at = at[table]
    at[key] *= factor
    found = problems(instance, document, reports)
    if field == "bound.objective" and factor < 1:  # a weaker bound is one, but the gap does not follow
        assert any("gap" in problem for problem in found)
    else:
        assert any(field in problem for problem in found)


def test_fields_of_the_other_objective_are_refused(case: Case) -> None:
    instance, result, reports = case
    document = copy.deepcopy(result.to_json())
    document["bound"]["time_s"] = 1e-9
    assert "bound.time_s is given, but the instance does not minimise time alone" in problems(
        instance, document, reports
    )
    del document["objective"]
    assert any(problem.startswith("objective is None") for problem in problems(instance, document, reports))
    plain = swap()
    lru = kv.simulate(plain, "lru")
    report = {"schedule": kv.check(plain, lru)}
    assert problems(plain, lru.to_json(), report) == ()
    said = lru.to_json() | {"objective": lru.time_s}
    assert problems(plain, said, report) == ("objective is given, but the instance minimises time alone",)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("time", 1.001), ("time", 0), ("energy", 0.00301), ("energy", 0), ("point", "high"), ("energy", -1),
        ("time", True), ("level", "chip"), ("energy", float("nan")), ("watts", 3),
    ],
)  # fmt: skip
def test_files_of_another_objective_are_refused(case: Case, field: str, value: Any) -> None:
    instance, result, _ = case
    expanded = copy.deepcopy(instance.expanded())
    expanded["objective"][field] = value
    assert result.placement is not None
    assert result.certificate is not None
    schedule = result.placement.arrays(instance_sha256=instance.sha256, tokens=instance.tokens)
    for arrays in (schedule, result.certificate.arrays()):
        assert not check(expanded, instance.token_trace.arrays, arrays).ok
    del expanded["objective"]
    assert not check(expanded, instance.token_trace.arrays, result.certificate.arrays()).ok


def test_energies_of_the_memory_count(case: Case) -> None:
    instance, result, _ = case
    assert result.certificate is not None
    changes: list[dict[str, Any]] = [{"static_watts": 3.0}, {"energy": {}}, {"energy": None}]
    for change in changes:
        expanded = copy.deepcopy(instance.expanded())
        expanded["memory"] |= change
        assert not check(expanded, instance.token_trace.arrays, result.certificate.arrays()).ok
    expanded = copy.deepcopy(instance.expanded())
    expanded["memory"]["energy"]["hbm"]["device"]["mid"] *= 2
    report = check(expanded, instance.token_trace.arrays, result.certificate.arrays())
    assert not report.ok
    assert report.bound_s is not None  # another bound, of another instance
    assert report.bound_s > (result.bound.value or 0.0)


@pytest.mark.parametrize("seed", range(25))
def test_any_multipliers_prove_no_more_than_the_optimum(seed: int) -> None:
    """Also random ones: whatever they are, the bound that the checker recomputes holds."""
    instance = tiny_mix(seed)
    try:
        optimum = find_optimum(instance).time_s
    except (InfeasibleError, UsageError):
        pytest.skip("no optimum")
    rng = np.random.default_rng(seed)
    result = kv.solve(instance, "dual", work=5)
    assert result.certificate is not None
    arrays = result.certificate.arrays()
    for _ in range(8):
        theta = arrays["theta"] * (rng.random(arrays["theta"].shape) < 0.7)
        scale = 2.0 ** rng.integers(-3, 2)
        prices = (arrays["prices"] * rng.random(arrays["prices"].shape) * scale).astype(np.int64)
        capacity = (arrays["capacity"] * rng.random(arrays["capacity"].shape)).astype(np.int64)
        changed = arrays | {"theta": theta, "prices": prices, "capacity": capacity}
        report = check(instance.expanded(), instance.token_trace.arrays, changed)
        assert report.bound_s is not None
        assert report.bound_s <= optimum * (1 + 1e-9)


def test_exact_prices() -> None:
    instance = swap(time=2.0, energy=0.5)
    instance = replace(instance, memory=replace(instance.memory, static_watts=3.0))
    goal = read_objective(instance.expanded())
    assert goal.second == 2 + 0.5 * 3
    assert [float(each) for each in goal.byte] == pytest.approx(list(instance.prices.byte), rel=1e-15)
    assert instance.prices.second == 3.5
