"""Pyomo models and sparse arrays are the same programs, and solutions convert to schedules and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pyomo.environ as pyo
import pytest
from pyomo.repn import generate_standard_repn

from kvbound.cost.evaluate import evaluate
from kvbound.errors import InfeasibleError, UsageError
from kvbound.initial import require_room
from kvbound.instance import Instance
from kvbound.models import columns, formulation, intervals, placement_model
from kvbound.models.sparse import Matrix
from kvbound.models.time_indexed import TimeIndexed
from kvbound.simulation import simulate
from kvbound.solvers.mip.highs import minimise
from tests.strategies import (
    rule_combinations,
    tiny_instance,
    with_experts,
    with_layers,
    with_placeable_weights,
)

INTERVALS: dict[str, Any] = {"tiers": 2, "copies": "inclusive", "migration": "on-read", "granularity": 1}
Row = tuple[tuple[tuple[str, float], ...], float, float]


def row(coefficients: dict[str, float], lower: float, upper: float) -> Row:
    """A row in a normal form, whatever its sign and the order of its entries."""
    entries = sorted((name, round(value, 9)) for name, value in coefficients.items() if abs(value) > 1e-12)
    if entries and entries[0][1] < 0:
        entries = [(name, -value) for name, value in entries]
        lower, upper = -upper, -lower
    return tuple(entries), round(lower, 7) + 0.0, round(upper, 7) + 0.0


def sparse_rows(matrix: Matrix) -> Iterator[Row]:
    names, rows = list(matrix.column_names()), matrix.rows
    for n in range(rows.shape[0]):
        at = slice(rows.indptr[n], rows.indptr[n + 1])
        entries = dict(zip((names[c] for c in rows.indices[at]), rows.data[at].tolist(), strict=True))
        yield row(entries, matrix.row_lower[n], matrix.row_upper[n])


def pyomo_rows(model: pyo.ConcreteModel) -> Iterator[Row]:
    for constraint in model.component_data_objects(pyo.Constraint, active=True):
        body = generate_standard_repn(constraint.body)
        entries = {v.name: float(c) for v, c in zip(body.linear_vars, body.linear_coefs, strict=True)}
        lower = -np.inf if constraint.lower is None else pyo.value(constraint.lower) - body.constant
        upper = np.inf if constraint.upper is None else pyo.value(constraint.upper) - body.constant
        yield row(entries, lower, upper)


def same_program(instance: Instance, *, cuts: bool = True) -> None:
    matrix, model = formulation(instance, cuts=cuts).matrix, placement_model(instance, cuts=cuts)
    assert sorted(r for r in sparse_rows(matrix) if r[0]) == sorted(r for r in pyomo_rows(model) if r[0])
    bounds = matrix.lower, matrix.upper, matrix.integer, matrix.cost
    described = zip(matrix.column_names(), *bounds, strict=True)
    fast = {name: (lo, up, integer) for name, lo, up, integer, cost in described}
    objective = generate_standard_repn(model.total.expr)
    assert {v.name for v in objective.linear_vars} == {
        name for name, cost in zip(matrix.column_names(), matrix.cost, strict=True) if cost
    }
    for variable in model.component_data_objects(pyo.Var):
        lower = -np.inf if variable.lb is None else variable.lb
        upper = np.inf if variable.ub is None else variable.ub
        assert fast.pop(variable.name) == (lower, upper, variable.is_binary() or variable.is_integer())
    assert not fast


@pytest.mark.parametrize("rules", rule_combinations(), ids=lambda rules: "-".join(map(str, rules.values())))
def test_pyomo_and_sparse_arrays_are_the_same_program(rules: dict[str, Any]) -> None:
    seed = sorted(map(str, rules.values()))
    rng = np.random.default_rng(list("-".join(seed).encode()))
    same_program(tiny_instance(rng, **rules))


def test_without_cuts_too() -> None:
    rng = np.random.default_rng(5)
    for _ in range(10):
        same_program(tiny_instance(rng), cuts=False)


@pytest.mark.parametrize("rules", [{}, {"granularity": 2}, INTERVALS], ids=["any", "blocks", "intervals"])
def test_with_births_and_ends_too(rules: dict[str, Any]) -> None:
    rng = np.random.default_rng(9)
    for _ in range(25):
        instance = tiny_instance(rng, batch=True, **rules)
        same_program(instance)
        same_program(instance, cuts=False)


@pytest.mark.parametrize("rules", [{}, {"granularity": 2}, INTERVALS], ids=["any", "blocks", "intervals"])
def test_with_layers_that_differ_too(rules: dict[str, Any]) -> None:
    rng, intervals_used = np.random.default_rng(11), 0
    for number in range(40):
        instance = with_layers(rng, tiny_instance(rng, layers=2, batch=number % 2 == 0, **rules))
        intervals_used += intervals.supports(instance)
        same_program(instance)
        same_program(instance, cuts=False)
    assert intervals_used or rules is not INTERVALS


@pytest.mark.parametrize("rules", [{}, {"granularity": 2}], ids=["any", "blocks"])
def test_with_weights_that_are_placed_too(rules: dict[str, Any]) -> None:
    rng, compared = np.random.default_rng(13), 0
    for number in range(25):
        instance = with_placeable_weights(rng, tiny_instance(rng, layers=2, batch=number % 2 == 0, **rules))
        instance = with_experts(rng, instance) if number % 3 == 0 else instance
        with suppress(InfeasibleError):
            require_room(instance)
            same_program(instance)
            same_program(instance, cuts=False)
            compared += 1
    assert compared > 15


def test_fang2025_accounting_has_no_program() -> None:
    instance = tiny_instance(np.random.default_rng(0)).with_rules(accounting="fang2025")
    for build in (formulation, placement_model):
        with pytest.raises(UsageError, match="physical"):
            build(instance)


@pytest.mark.parametrize("initial", ["free", "prefill-first"])
@pytest.mark.parametrize("timing", ["parallel", "serial"])
def test_the_interval_form_is_used_where_it_applies(initial: str, timing: str) -> None:
    rng = np.random.default_rng(3)
    strong = 0
    while strong < 20:
        instance = tiny_instance(rng, initial=initial, timing=timing, **INTERVALS)
        if intervals.supports(instance):
            strong += 1
            assert isinstance(formulation(instance), intervals.Intervals)
            same_program(instance)
            same_program(instance, cuts=False)


def test_both_forms_have_the_same_optimum_and_the_same_plain_relaxation() -> None:
    rng = np.random.default_rng(4)
    for n in range(40):
        instance = tiny_instance(rng, batch=n % 2 > 0, **INTERVALS)
        if not intervals.supports(instance):
            continue
        for integer, cuts in ((True, True), (False, True), (False, False)):
            strong, general = (
                minimise(form(instance, cuts=cuts).matrix, integer=integer, gap=1e-9).objective
                for form in (intervals.Intervals, TimeIndexed)
            )
            if cuts and not integer:  # the interval form counts entries into tier 0 as well
                assert strong >= general * (1 - 1e-6)
            else:
                assert strong == pytest.approx(general, rel=1e-6)


@pytest.mark.parametrize(
    "rules", [{}, {"batch": True}, {"batch": True, **INTERVALS}], ids=["plain", "batch", "intervals"]
)
def test_the_number_of_columns_is_bounded(rules: dict[str, Any]) -> None:
    rng = np.random.default_rng(6)
    for _ in range(100):
        instance = tiny_instance(rng, **rules)
        assert formulation(instance).matrix.columns <= columns(instance)


def test_a_schedule_converts_to_a_start_and_back() -> None:
    rng = np.random.default_rng(7)
    for _ in range(60):
        instance = tiny_instance(rng)
        program, schedule = formulation(instance), simulate(instance, "belady").schedule
        assert schedule is not None
        chosen, values = program.start(schedule)
        matrix = program.matrix
        lower, upper = matrix.lower.copy(), matrix.upper.copy()
        lower[chosen] = upper[chosen] = values
        answer = minimise(dataclasses.replace(matrix, lower=lower, upper=upper))
        assert answer.values is not None
        time = evaluate(instance, program.schedule(answer.values)).time_s
        assert time <= evaluate(instance, schedule).time_s * (1 + 1e-9)
