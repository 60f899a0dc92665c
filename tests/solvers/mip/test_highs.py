"""What HiGHS says counts for what its columns and prices show: a solver that errs costs time, no schedule."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import highspy
import numpy as np
import pytest

import kvbound as kv
from kvbound.checker import check
from kvbound.cost.evaluate import evaluate
from kvbound.instance import Instance
from kvbound.models import formulation
from kvbound.result import BoundStatus, Result, Status
from kvbound.solvers.mip import highs
from kvbound.solvers.mip.exact import REJECTED
from kvbound.solvers.mip.highs import FAILED, Quiet, minimise, prices, proved, worth
from kvbound.solvers.reference.brute_force import solve_brute
from tests.paths import DATA
from tests.strategies import tiny_instance

FAILED_IN_USE = sorted((DATA / "solver").glob("*.json"))
CLOSE = 1e-6

Told = SimpleNamespace
Lie = Callable[[Told], None]


def _lower(told: Told) -> None:
    told.objective *= 0.9
    told.bound *= 0.9


def _higher(told: Told) -> None:
    told.objective *= 2
    told.bound *= 2
    told.columns *= 2


def _bound(told: Told) -> None:
    told.bound = 1.5 * told.objective


def _columns(told: Told) -> None:
    told.columns[:] = 0


def _nonsense(told: Told) -> None:
    told.columns[:] = told.prices[:] = np.nan


def _prices(told: Told) -> None:
    told.prices *= 3


def _infeasible(told: Told) -> None:
    told.status = highspy.HighsModelStatus.kInfeasible
    told.found = highspy.SolutionStatus.kSolutionStatusNone
    told.bound = np.inf


def _error(told: Told) -> None:
    told.status = highspy.HighsModelStatus.kSolveError


LIES: dict[str, Lie] = {
    lie.__name__: lie for lie in (_lower, _higher, _bound, _columns, _nonsense, _prices, _infeasible, _error)
}


def lying(lie: Lie, times: int) -> type:
    """Return HiGHS, lying about a number of runs of whole programs and of relaxations."""
    runs: list[object] = []

    class Liar(Quiet):
        def _told(self) -> Told:
            info, solution = super().getInfo(), super().getSolution()
            told = Told(
                status=super().getModelStatus(),
                found=info.primal_solution_status,
                objective=info.objective_function_value,
                bound=info.mip_dual_bound,
                columns=np.array(solution.col_value),
                prices=np.array(solution.row_dual),
            )
            if not any(run is self for run in runs):
                runs.append(self)
            if len(runs) <= times:
                lie(told)
            return told

        def getModelStatus(self) -> Any:
            return self._told().status

        def getInfo(self) -> Told:
            told = self._told()
            return Told(
                primal_solution_status=told.found,
                objective_function_value=told.objective,
                mip_dual_bound=told.bound,
            )

        def getSolution(self) -> Told:
            told = self._told()
            return Told(col_value=told.columns.tolist(), row_dual=told.prices.tolist())

    return Liar


def vouched(instance: Instance, result: Result, optimum: float) -> None:
    """The checker accepts the schedule, and nothing contradicts the optimum."""
    assert result.schedule is not None
    sha256, steps = instance.sha256, instance.decode_steps
    arrays = result.schedule.arrays(instance_sha256=sha256, decode_steps=steps)
    report = check(instance.expanded(), instance.trace.rows, arrays, claimed_s=result.time_s)
    assert report.ok, report.problems
    assert result.time_s is not None
    assert result.bound.time_s is not None
    assert result.bound.time_s <= optimum * (1 + CLOSE)
    assert optimum <= result.time_s * (1 + CLOSE)
    assert result.time_s <= (kv.simulate(instance, "belady").time_s or 0.0)
    if result.status is Status.OPTIMAL:
        assert result.time_s == pytest.approx(optimum, rel=1e-4)


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
@pytest.mark.parametrize("name", ["tiny-prefetch", "tiny-on-read", "tiny-latency", "tiny-three-exclusive"])
def test_a_solver_that_always_errs_costs_no_schedule(
    name: str, lie: Lie, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = kv.read_instance(name)
    optimum = solve_brute(instance).time_s
    assert optimum is not None
    monkeypatch.setattr(highs, "Quiet", lying(lie, 1000))
    result = kv.solve(instance, "exact", time_limit=5)
    vouched(instance, result, optimum)
    relaxed = kv.solve(instance, "relax", time_limit=5).bound
    assert relaxed.status is BoundStatus.CLAIMED
    assert (relaxed.time_s or 0.0) <= optimum * (1 + CLOSE)


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_pricing_keeps_its_schedule_and_bound(lie: Lie, monkeypatch: pytest.MonkeyPatch) -> None:
    instance = kv.read_instance("tiny-latency")
    optimum = solve_brute(instance).time_s
    assert optimum is not None
    monkeypatch.setattr(highs, "Quiet", lying(lie, 1000))
    result = kv.solve(instance, "pricing", time_limit=1, gap=1e-6)
    vouched(instance, result, optimum)
    assert result.bound.status is BoundStatus.CERTIFIED


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_an_answer_not_to_be_trusted_is_asked_for_again(lie: Lie, monkeypatch: pytest.MonkeyPatch) -> None:
    instance = kv.read_instance("tiny-latency")
    program = formulation(instance)
    start = program.start(kv.simulate(instance, "belady").schedule)  # type: ignore[arg-type]
    right = minimise(program.matrix, start=start, gap=1e-7)
    monkeypatch.setattr(highs, "Quiet", lying(lie, 1))
    again = minimise(program.matrix, start=start, gap=1e-7)
    assert again.objective == pytest.approx(right.objective, rel=CLOSE)
    assert again.bound == pytest.approx(right.bound, rel=CLOSE)
    assert again.rejected == (lie is not _prices)  # a search has none
    monkeypatch.setattr(highs, "Quiet", lying(lie, 1000))
    never = minimise(program.matrix, start=start, gap=1e-7)
    if lie is not _prices:
        assert (never.termination, never.rejected, never.bound) == (FAILED, 2, -np.inf)


def test_a_bound_that_a_schedule_refutes_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """HiGHS calls a worse point than the start optimal, and nothing in its answer is inconsistent."""
    instance = kv.read_instance("tiny-latency")
    best = kv.solve(instance, "exact")
    real = highs._searched

    def worse(*arguments: Any, **options: Any) -> highs.Answer:
        answer = real(*arguments, **options)
        return highs.Answer(answer.termination, None, bound=1.1 * answer.objective)

    monkeypatch.setattr(highs, "_searched", worse)
    result = kv.solve(instance, "exact", start=best.schedule)
    assert result.status is Status.FEASIBLE
    assert (result.termination.limit, result.options[REJECTED]) == ("solver", 1)
    assert result.time_s == best.time_s
    assert 0 < (result.bound.time_s or 0.0) < (best.time_s or 0.0)


@pytest.mark.parametrize("path", FAILED_IN_USE, ids=lambda path: path.stem)
@pytest.mark.parametrize("method", [None, "exact", "pricing"])
def test_what_failed_in_use(path: Path, method: str | None) -> None:
    instance = kv.read_instance(path)
    optimum = minimise(formulation(instance).matrix, gap=1e-9).objective * formulation(instance).unit_s
    result = kv.solve(instance, method, time_limit=5)
    vouched(instance, result, optimum)
    assert result.time_s == pytest.approx(optimum, rel=1e-4)


def test_columns_are_worth_what_they_are() -> None:
    rng = np.random.default_rng(5)
    for _ in range(30):
        matrix = formulation(tiny_instance(rng)).matrix
        answer = minimise(matrix, gap=1e-7)
        assert answer.values is not None
        noise = rng.uniform(-1e-8, 1e-8, len(answer.values))
        assert worth(matrix, answer.values + noise)[1] == pytest.approx(answer.objective, rel=CLOSE)
        whole = rng.permutation(np.flatnonzero(matrix.integer))[:1]
        for change in (0.3, 1e9):
            moved = answer.values.copy()
            moved[whole] += change
            assert worth(matrix, moved)[1] == np.inf


def test_row_prices_prove_the_relaxation_and_never_more() -> None:
    rng = np.random.default_rng(6)
    for _ in range(30):
        matrix = formulation(tiny_instance(rng)).matrix
        optimum, relaxed = minimise(matrix, gap=1e-9).objective, minimise(matrix, whole=False)
        assert relaxed.bound == pytest.approx(relaxed.objective, rel=CLOSE)
        for _ in range(10):
            assert proved(matrix, rng.normal(size=len(matrix.row_lower))) <= optimum * (1 + CLOSE)


def test_prices_that_are_no_numbers_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(highs, "Quiet", lying(_nonsense, 1))
    matrix = formulation(kv.read_instance("tiny-on-read")).matrix
    assert not prices(matrix.cost, matrix.rows, np.ones(len(matrix.row_lower))).any()


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
    """Of 200: the schedule takes what is claimed, the bound is below it, and enumeration agrees."""
    rng = np.random.default_rng([12, part])
    for _ in range(50):
        instance = realistic(rng)
        optimum = solve_brute(instance).time_s
        assert optimum is not None
        result = kv.solve(instance, "exact", gap=1e-6, time_limit=20)
        vouched(instance, result, optimum)
        assert result.schedule is not None
        assert result.time_s == evaluate(instance, result.schedule).time_s
        assert result.time_s == pytest.approx(optimum, rel=1e-5)
