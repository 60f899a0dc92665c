"""HiGHS is verified: its errors cost time, but never a schedule or a valid bound."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import highspy
import numpy as np
import pytest

import kvbound as kv
from kvbound.checker import check
from kvbound.cost.evaluate import evaluate
from kvbound.errors import KvboundError
from kvbound.instance import Instance
from kvbound.models import formulation
from kvbound.result import BoundStatus, Result, Status
from kvbound.solvers.mip import fix_and_search, highs
from kvbound.solvers.mip.highs import FAILED, REJECTED, SilentHighs, minimise, row_duals
from kvbound.solvers.mip.verification import dual_bound, rounded_solution
from kvbound.solvers.reference.brute_force import solve_brute
from tests.paths import DATA
from tests.strategies import tiny_instance

KNOWN_FAILURES = sorted((DATA / "solver").glob("*.json"))
CLOSE = 1e-6

Report = SimpleNamespace
Fault = Callable[[Report], None]


def _lower(report: Report) -> None:
    report.objective *= 0.9
    report.bound *= 0.9


def _higher(report: Report) -> None:
    report.objective *= 2
    report.bound *= 2
    report.columns *= 2


def _bound(report: Report) -> None:
    report.bound = 1.5 * report.objective


def _columns(report: Report) -> None:
    report.columns[:] = 0


def _nonsense(report: Report) -> None:
    report.columns[:] = report.duals[:] = np.nan


def _duals(report: Report) -> None:
    report.duals *= 3


def _infeasible(report: Report) -> None:
    report.status = highspy.HighsModelStatus.kInfeasible
    report.found = highspy.SolutionStatus.kSolutionStatusNone
    report.bound = np.inf


def _error(report: Report) -> None:
    report.status = highspy.HighsModelStatus.kSolveError


FAULTS: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (_lower, _higher, _bound, _columns, _nonsense, _duals, _infeasible, _error)
}


def faulty(fault: Fault, times: int) -> type:
    """Return a HiGHS that reports something wrong about its first runs, in number `times`."""
    runs: list[object] = []

    class FaultyHighs(SilentHighs):
        def _reported(self) -> Report:
            info, solution = super().getInfo(), super().getSolution()
            report = Report(
                status=super().getModelStatus(),
                found=info.primal_solution_status,
                objective=info.objective_function_value,
                bound=info.mip_dual_bound,
                columns=np.array(solution.col_value),
                duals=np.array(solution.row_dual),
            )
            if not any(run is self for run in runs):
                runs.append(self)
            if len(runs) <= times:
                fault(report)
            return report

        def getModelStatus(self) -> Any:
            return self._reported().status

        def getInfo(self) -> Report:
            report = self._reported()
            return Report(
                primal_solution_status=report.found,
                objective_function_value=report.objective,
                mip_dual_bound=report.bound,
            )

        def getSolution(self) -> Report:
            report = self._reported()
            return Report(col_value=report.columns.tolist(), row_dual=report.duals.tolist())

    return FaultyHighs


def assert_valid(instance: Instance, result: Result, optimum: float) -> None:
    """The checker accepts the schedule, and time and bound are consistent with the optimum."""
    assert result.schedule is not None
    sha256, tokens = instance.sha256, instance.tokens
    arrays = result.schedule.arrays(instance_sha256=sha256, tokens=tokens)
    report = check(instance.expanded(), instance.trace.rows, arrays, claimed_s=result.time_s)
    assert report.ok, report.problems
    assert result.time_s is not None
    assert result.bound.time_s is not None
    assert result.bound.time_s <= optimum * (1 + CLOSE)
    assert optimum <= result.time_s * (1 + CLOSE)
    assert result.time_s <= (kv.simulate(instance, "belady").time_s or 0.0)
    if result.status is Status.OPTIMAL:
        assert result.time_s == pytest.approx(optimum, rel=1e-4)


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("name", ["tiny-prefetch", "tiny-on-read", "tiny-latency", "tiny-three-exclusive"])
def test_faults_in_every_run_cost_no_schedule(
    name: str, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = kv.read_instance(name)
    optimum = solve_brute(instance).time_s
    assert optimum is not None
    monkeypatch.setattr(highs, "SilentHighs", faulty(fault, 1000))
    result = kv.solve(instance, "exact", time_limit=5)
    assert_valid(instance, result, optimum)
    relaxed = kv.solve(instance, "relax", time_limit=5).bound
    assert relaxed.status is BoundStatus.CLAIMED
    assert (relaxed.time_s or 0.0) <= optimum * (1 + CLOSE)


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_pricing_keeps_its_schedule_and_bound(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    instance = kv.read_instance("tiny-latency")
    optimum = solve_brute(instance).time_s
    assert optimum is not None
    monkeypatch.setattr(highs, "SilentHighs", faulty(fault, 1000))
    result = kv.solve(instance, "pricing", time_limit=1, gap=1e-6)
    assert_valid(instance, result, optimum)
    assert result.bound.status is BoundStatus.CERTIFIED


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_rejected_run_is_repeated(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    instance = kv.read_instance("tiny-latency")
    program = formulation(instance)
    start = program.start(kv.simulate(instance, "belady").schedule)  # type: ignore[arg-type]
    right = minimise(program.matrix, start=start, gap=1e-7)
    monkeypatch.setattr(highs, "SilentHighs", faulty(fault, 1))
    again = minimise(program.matrix, start=start, gap=1e-7)
    assert again.objective == pytest.approx(right.objective, rel=CLOSE)
    assert again.bound == pytest.approx(right.bound, rel=CLOSE)
    assert again.rejected == (fault is not _duals)  # a search has no row duals
    monkeypatch.setattr(highs, "SilentHighs", faulty(fault, 1000))
    never = minimise(program.matrix, start=start, gap=1e-7)
    if fault is not _duals:
        assert (never.termination, never.rejected, never.bound) == (FAILED, 2, -np.inf)


def test_a_bound_above_a_known_schedule_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """HiGHS reports a worse solution than the start as optimal, in a consistent way."""
    instance = kv.read_instance("tiny-latency")
    best = kv.solve(instance, "exact")
    real = highs._verified_search

    def worse(*arguments: Any, **options: Any) -> highs.Solved:
        run = real(*arguments, **options)
        return highs.Solved(run.termination, None, bound=1.1 * run.objective)

    monkeypatch.setattr(highs, "_verified_search", worse)
    result = kv.solve(instance, "exact", start=best.schedule, proof=False)
    assert result.status is Status.FEASIBLE
    assert (result.termination.limit, result.options[REJECTED]) == ("solver", 1)
    assert result.time_s == best.time_s
    assert 0 < (result.bound.time_s or 0.0) < (best.time_s or 0.0)


@pytest.mark.parametrize(("method", "limits"), [("exact", {"work": 5}), ("pricing", {"time_limit": 3})])
def test_columns_that_are_no_schedule_are_counted(
    method: str, limits: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> NoReturn:
        raise KvboundError("no schedule")

    monkeypatch.setattr(fix_and_search, "evaluate", refuse)
    found = kv.solve(kv.read_instance("tiny-prefetch"), method, gap=0.0, **limits)
    assert found.options[REJECTED] > 0
    assert found.schedule is not None


@pytest.mark.parametrize("path", KNOWN_FAILURES, ids=lambda path: path.stem)
@pytest.mark.parametrize("method", [None, "exact", "pricing"])
def test_known_failures(path: Path, method: str | None) -> None:
    instance = kv.read_instance(path)
    optimum = minimise(formulation(instance).matrix, gap=1e-9).objective * formulation(instance).unit_s
    result = kv.solve(instance, method, gap=1e-4, time_limit=5)
    assert_valid(instance, result, optimum)
    assert result.time_s == pytest.approx(optimum, rel=1e-4)


def test_the_objective_is_that_of_the_rounded_columns() -> None:
    rng = np.random.default_rng(5)
    for _ in range(30):
        matrix = formulation(tiny_instance(rng)).matrix
        answer = minimise(matrix, gap=1e-7)
        assert answer.values is not None
        noise = rng.uniform(-1e-8, 1e-8, len(answer.values))
        assert rounded_solution(matrix, answer.values + noise)[1] == pytest.approx(
            answer.objective, rel=CLOSE
        )
        integer = rng.permutation(np.flatnonzero(matrix.integer))[:1]
        for change in (0.3, 1e9):
            moved = answer.values.copy()
            moved[integer] += change
            assert rounded_solution(matrix, moved)[1] == np.inf


def test_row_duals_prove_the_relaxation_and_never_more() -> None:
    rng = np.random.default_rng(6)
    for _ in range(30):
        matrix = formulation(tiny_instance(rng)).matrix
        optimum, relaxed = minimise(matrix, gap=1e-9).objective, minimise(matrix, integer=False)
        assert relaxed.bound == pytest.approx(relaxed.objective, rel=CLOSE)
        for _ in range(10):
            assert dual_bound(matrix, rng.normal(size=len(matrix.row_lower))) <= optimum * (1 + CLOSE)


def test_row_duals_that_are_not_finite_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(highs, "SilentHighs", faulty(_nonsense, 1))
    matrix = formulation(kv.read_instance("tiny-on-read")).matrix
    assert not row_duals(matrix.cost, matrix.rows, np.ones(len(matrix.row_lower))).any()


def realistic(rng: np.random.Generator) -> Instance:
    """A few tokens of real size on two or three tiers with latencies of real memory."""
    made = tiny_instance(rng)
    tiers = made.tiers
    resources = {"hbm": 4.9e12, "down": 450e9, "up": 450e9, "dram": 500e9, "ssd_in": 12e9, "ssd_out": 12e9}
    links = [
        (["hbm"], ["hbm"], 1e-7),
        (["down", "dram"], ["up", "dram"], 8e-7),
        (["ssd_in"], ["ssd_out"], 2e-5),
    ]
    item, weights = 16384, float(rng.choice([0, 1e6, 1e8]))
    memory = {
        "name": "m",
        "resources": resources,
        "tiers": [
            {
                "name": f"t{k}", "reads": links[k][0], "writes": links[k][1], "latency": links[k][2],
                "capacity": None if k == tiers - 1
                else float(int(rng.integers(0, made.tokens)) * made.granularity * item),
            }
            for k in range(tiers)
        ],
    }  # fmt: skip
    llm = {
        "name": "l", "layers": made.layers, "kv_bytes_per_token_layer": item,
        "weight_bytes": 0, "weight_read_bytes_per_layer": weights,
    }  # fmt: skip
    return kv.make_instance("x", memory=memory, llm=llm, trace=made.trace, rules=made.rules.to_mapping())


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_small_realistic_instances_with_latencies(part: int) -> None:
    """Schedule, time and bound are valid, and brute force finds the same optimum."""
    rng = np.random.default_rng([12, part])
    for _ in range(50):
        instance = realistic(rng)
        optimum = solve_brute(instance).time_s
        assert optimum is not None
        result = kv.solve(instance, "exact", gap=1e-6, time_limit=20)
        assert_valid(instance, result, optimum)
        assert result.schedule is not None
        assert result.time_s == evaluate(instance, result.schedule).time_s
        assert result.time_s == pytest.approx(optimum, rel=1e-5)
