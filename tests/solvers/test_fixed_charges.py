"""Annealing as a step of pricing and of the exact method, where slots may wait for latencies."""

from __future__ import annotations

from typing import Any

import pytest

import kvbound as kv
from kvbound.errors import KvboundError
from kvbound.result import Measures, Reason, Result, Termination
from kvbound.schedule import Schedule
from kvbound.solvers import fixed_charges, portfolio
from kvbound.solvers.mip import exact
from kvbound.solvers.mip.exact import Improved, solve_exact
from kvbound.solvers.pricing.solve import solve_pricing
from tests.latency_cases import waiting
from tests.replay import problems


def time_of(result: Result) -> float:
    assert result.time_s is not None
    return result.time_s


def simple(instance: kv.Instance) -> tuple[Schedule, Measures]:
    """The schedule of a policy and its measures."""
    found = kv.simulate(instance, "belady")
    assert found.schedule is not None
    assert found.measures is not None
    return found.schedule, found.measures


@pytest.mark.parametrize(("copies", "migration"), [("exclusive", "prefetch"), ("inclusive", "on-read")])
def test_pricing_anneals_what_its_prices_lead_to(copies: str, migration: str) -> None:
    """Prices per item spread a wait over the items, and read from the late tier in nearly every slot."""
    instance = waiting(copies, migration)
    found, without = (solve_pricing(instance, work=50, anneal=each) for each in (True, False))
    assert time_of(found) < 0.7 * time_of(without)
    assert found.schedule is not None
    assert problems(instance, found.schedule) == []


def test_exact_starts_from_what_annealing_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The start alone: from that of a policy HiGHS makes little progress, as the relaxation is fractional."""
    starts = []

    def improve(_: kv.Instance, known: tuple[Schedule, Measures], **__: Any) -> Improved:
        starts.append(known[1].time_s)
        return Improved(known, 0.0, Termination())

    monkeypatch.setattr(exact, "improve", improve)
    instance = waiting("inclusive", "on-read")
    for each in (True, False):
        solve_exact(instance, work=20, proof=False, anneal=each)
    assert starts[0] < 0.7 * starts[1]


def test_a_small_program_is_not_annealed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fixed_charges, "anneal", lambda *_, **__: pytest.fail("annealed"))
    assert kv.solve(kv.read_instance("tiny-latency"), "exact").status == "optimal"


def test_only_what_may_wait_is_annealed() -> None:
    assert fixed_charges.anneals(waiting())
    assert not fixed_charges.anneals(kv.read_instance("swap-2x48-c30-b64-prefetch"))


def test_nothing_is_annealed_in_less_than_a_second() -> None:
    instance = waiting(prompt=20, steps=4)
    known = simple(instance)
    assert fixed_charges.anneal(instance, known, time_limit=0.5, gap=0.0).known is known


def test_a_failure_of_annealing_keeps_the_known_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise KvboundError("a defect")

    instance = waiting(prompt=20, steps=4)
    known = simple(instance)
    monkeypatch.setattr(fixed_charges, "solve_annealing", fails)
    assert fixed_charges.anneal(instance, known, time_limit=9.0, gap=0.0) == (known, False)


class Interrupts:
    """Progress that is interrupted in the first call by annealing."""

    def __call__(self, done: float, total: float, note: str = "") -> None:
        if note.startswith("best "):
            raise KeyboardInterrupt


@pytest.mark.parametrize("method", ["pricing", "exact"])
def test_an_interrupt_of_annealing_ends_the_run(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "improve", lambda *_, **__: pytest.fail("searched"))
    monkeypatch.setattr(exact, "FEWEST_COLUMNS", 0)
    instance = waiting(prompt=20, steps=4)
    result = kv.solve(instance, method, work=5, progress=Interrupts())
    assert result.termination.reason is Reason.INTERRUPTED
    assert result.schedule is not None


def test_where_annealing_follows_pricing_it_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portfolio, "MOST_COLUMNS", 0)
    monkeypatch.setattr(fixed_charges, "anneal", lambda *_, **__: pytest.fail("annealed within pricing"))
    assert kv.solve(waiting(prompt=20, steps=4), work=5, gap=0.0).method == "anneal"
