"""Schedules beside a certify bound: the ladder, starts, interrupts, every rule."""

from __future__ import annotations

import json
import signal
import threading
import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings

import kvbound as kv
from kvbound.checker import check
from kvbound.errors import UsageError
from kvbound.instance import Instance
from kvbound.progress import Progress
from kvbound.result import BoundStatus, Status, Termination
from kvbound.schedule import file_arrays
from kvbound.solvers.eviction import balanced
from kvbound.solvers.lagrangian import certify
from kvbound.solvers.lagrangian.bound import AscentResult, maximize_dual
from kvbound.solvers.pricing import candidates
from kvbound.solvers.pricing import solve as pricing
from kvbound.studies import Scale
from kvbound.studies.fang2025 import Cell
from tests.strategies import tiny_instances


def best_known(instance: Instance) -> float:
    best = kv.solve(instance, "exact", gap=1e-7).time_s
    assert best is not None
    return best


@given(tiny_instances())
@settings(max_examples=10, deadline=None)
def test_between_bound_and_policies_under_any_rules(instance: Instance) -> None:
    result = kv.solve(instance, "pricing", time_limit=0.3)
    assert result.time_s is not None
    assert result.bound.time_s is not None
    assert result.bound.status is BoundStatus.CERTIFIED
    least = best_known(instance)
    assert result.bound.time_s <= least * (1 + 1e-9)
    assert least <= result.time_s * (1 + 1e-6)
    belady = kv.simulate(instance, "belady").time_s
    assert belady is not None
    assert result.time_s <= belady
    assert result.schedule is not None
    arrays = file_arrays(result.schedule, instance_sha256=instance.sha256, decode_steps=instance.decode_steps)
    assert check(instance.expanded(), instance.trace.rows, arrays).ok


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["native-r15-c25-b64-n64", "swap-2x48-c30-b64-prefetch", "swap-2x48-c53-b450"]
)
def test_the_gap_is_closed_on_small_instances(name: str) -> None:
    result = kv.solve(kv.read_instance(name), "pricing", time_limit=30)
    assert result.status is Status.FEASIBLE
    assert result.gap is not None
    assert 0 <= result.gap <= 0.01


@pytest.mark.slow
@pytest.mark.parametrize("name", ["native-r15-c25-b64", "native-r10-c25-b64", "native-r40-c50-b450"])
def test_the_gap_is_closed_on_recorded_attention(name: str) -> None:
    result = kv.solve(kv.read_instance(name), "pricing", time_limit=90)
    assert result.gap is not None
    assert 0 <= result.gap <= 0.01


def test_a_start_is_never_made_worse() -> None:
    instance = kv.read_instance("swap-2x48-c53-b64")
    best = kv.solve(instance, "exact")
    result = kv.solve(instance, "pricing", start=best.schedule, time_limit=1)
    assert result.time_s is not None
    assert best.time_s is not None
    assert result.time_s <= best.time_s


def test_an_interrupt_keeps_the_best() -> None:
    instance = kv.read_instance("native-r15-c25-b64-n64")

    def interrupt(done: float, total: float, note: str = "") -> None:
        if "balanced" in note:
            raise KeyboardInterrupt

    result = kv.solve(instance, "pricing", progress=interrupt)
    assert result.termination.reason == "interrupted"
    assert result.schedule is not None
    assert result.bound.status is BoundStatus.NONE
    belady = kv.simulate(instance, "belady").time_s
    assert result.time_s is not None
    assert belady is not None
    assert result.time_s <= belady


def test_a_schedule_too_large_for_events_is_made_from_prices(monkeypatch: pytest.MonkeyPatch) -> None:
    instance = kv.read_instance("swap-1x200-c30-b450")
    monkeypatch.setattr("kvbound.residency.MOST", 0)
    result = kv.solve(instance, "pricing", time_limit=2)
    assert result.schedule is None
    assert result.residency is not None
    assert result.gap is not None
    assert result.gap < 0.02
    bits = result.residency.arrays(instance.sha256)
    assert check(instance.expanded(), instance.trace.rows, bits, claimed_s=result.time_s).ok


def test_an_interrupt_of_the_check_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(certify, "check", interrupted)
    result = kv.solve(kv.read_instance("native-r15-c25-b64-n64"), "pricing", time_limit=2)
    assert result.termination.reason == "interrupted"
    assert result.schedule is not None
    assert result.bound.status is BoundStatus.CLAIMED


@pytest.fixture
def forever(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Balanced eviction of a large instance that never ends by itself; set when it has ended."""
    ended = threading.Event()

    def play(_: Instance, progress: Progress) -> None:
        try:
            while True:
                progress(0, 1, "balanced")
                time.sleep(0.01)
        finally:
            ended.set()

    monkeypatch.setattr("kvbound.residency.MOST", 0)
    monkeypatch.setattr(candidates, "balanced_eviction", play)
    return ended


def test_what_runs_beside_ends_with_the_tuning(
    forever: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: Any, **options: Any) -> AscentResult:
        return replace(maximize_dual(*args, **options), termination=Termination("interrupted"))

    monkeypatch.setattr(pricing, "maximize_dual", interrupted)
    result = kv.solve(_small(), "pricing", time_limit=2)
    assert forever.is_set()
    assert (result.status, result.termination.reason) == ("unknown", "interrupted")
    assert result.bound.status is BoundStatus.CERTIFIED


def test_an_interrupt_ends_waiting_for_what_runs_beside(forever: threading.Event) -> None:
    """It would take for ever; the bound that is there by then is not lost."""
    main, waited = threading.get_ident(), threading.Event()

    def interrupt(done: float, total: float, note: str = "") -> None:
        if note == "balanced" and not waited.is_set():
            waited.set()
            signal.pthread_kill(main, signal.SIGINT)

    result = kv.solve(_small(), "pricing", time_limit=2, progress=interrupt)
    assert forever.is_set()
    assert result.termination.reason == "interrupted"
    assert result.bound.status is BoundStatus.CLAIMED
    assert result.certificate is not None


def _small(**factors: Any) -> Instance:
    return Cell(**factors).instance(Scale("small", 64, 16, 0.0)).with_rules(accounting="physical")


@pytest.mark.parametrize(
    ("factors", "much"),
    [
        ({"hbm": 18}, False),
        ({"variation": "actual-like"}, True),
        ({"variation": "high"}, True),
        ({"link": 64, "hbm": 25}, True),
    ],
)
def test_nothing_is_played_beside_where_more_is_new_than_the_slow_tier_serves(
    factors: dict[str, Any], much: bool, forever: threading.Event
) -> None:
    instance = _small(**factors)
    assert balanced.serves_new_reads(instance) != much
    if much:
        assert kv.solve(instance, "pricing", time_limit=1).residency is not None
    assert not forever.is_set()


def test_the_same_seed_gives_the_same_bytes() -> None:
    instance = kv.read_instance("swap-2x48-c30-b64")

    def run(threads: int) -> str:
        document = kv.solve(instance, "pricing", time_limit=600, threads=threads).to_json()
        return json.dumps(
            {k: v for k, v in document.items() if k not in ("wall_s", "peak_rss_bytes", "kernel")}
        )

    assert run(1) == run(2)


def test_what_it_refuses() -> None:
    with pytest.raises(UsageError, match="physical"):
        kv.solve(kv.read_instance("paper-low"), "pricing")


def test_no_room_for_the_weights() -> None:
    instance = kv.read_instance("swap-2x48-c30-b64")
    heavy = kv.make_instance(
        "heavy", memory=instance.memory.to_mapping(), trace=instance.trace,
        llm=instance.llm.to_mapping() | {"weight_bytes": 1e12},
    )  # fmt: skip
    assert kv.solve(heavy, "pricing").status is Status.INFEASIBLE
