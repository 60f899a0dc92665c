"""Pricing: between bound and policies under any rules; starts, rounds, interrupts, background work."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings

import kvbound as kv
from kvbound.checker import check
from kvbound.errors import UsageError
from kvbound.instance import Instance
from kvbound.progress import Progress, silent
from kvbound.residency import Residency
from kvbound.result import BoundStatus, Reason, Status, Termination
from kvbound.solvers import certify
from kvbound.solvers.eviction import balanced
from kvbound.solvers.lagrangian.bound import AscentResult, maximize_dual
from kvbound.solvers.pricing import best_response, candidates
from kvbound.solvers.pricing import solve as pricing
from kvbound.studies import Scale
from kvbound.studies.fang2025 import Cell
from tests.solvers.pricing.cases import cost
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
    arrays = result.schedule.arrays(instance_sha256=instance.sha256, tokens=instance.tokens)
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
    monkeypatch.setattr("kvbound.residency.EVENT_LIMIT", 0)
    result = kv.solve(instance, "pricing", time_limit=2)
    assert result.schedule is None
    assert isinstance(result.placement, Residency)
    assert result.gap is not None
    assert result.gap < 0.02
    bits = result.placement.arrays(instance_sha256=instance.sha256, tokens=instance.tokens)
    assert check(instance.expanded(), instance.trace.rows, bits, claimed_s=result.time_s).ok


def test_an_interrupt_of_the_check_leaves_a_claimed_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(certify, "check", interrupted)
    result = kv.solve(kv.read_instance("native-r15-c25-b64-n64"), "pricing", time_limit=2)
    assert result.termination.reason == "interrupted"
    assert result.schedule is not None
    assert result.bound.status is BoundStatus.CLAIMED


@pytest.fixture
def forever(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Make balanced eviction of large instances endless; the event is set when it is stopped."""
    ended = threading.Event()

    def endless(_: Instance, progress: Progress) -> None:
        try:
            while True:
                progress(0, 1, "balanced")
                time.sleep(0.01)
        finally:
            ended.set()

    monkeypatch.setattr("kvbound.residency.EVENT_LIMIT", 0)
    monkeypatch.setattr(candidates, "balanced_eviction", endless)
    return ended


def test_background_eviction_ends_with_the_ascent(
    forever: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: Any, **options: Any) -> AscentResult:
        return replace(maximize_dual(*args, **options), termination=Termination(Reason.INTERRUPTED))

    monkeypatch.setattr(pricing, "maximize_dual", interrupted)
    result = kv.solve(_small(), "pricing", time_limit=2)
    assert forever.is_set()
    assert (result.status, result.termination.reason) == ("unknown", "interrupted")
    assert result.bound.status is BoundStatus.CERTIFIED


@pytest.fixture
def _heeds_interrupts() -> Iterator[None]:
    """Take SIGINT as an interrupt, even where a shell started the tests in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_heeds_interrupts")
def test_an_interrupt_ends_the_wait_for_background_eviction(forever: threading.Event) -> None:
    """The bound proved by then is not lost."""
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
    ("factors", "many"),
    [
        ({"hbm": 18}, False),
        ({"variation": "actual-like"}, True),
        ({"variation": "high"}, True),
        ({"link": 64, "hbm": 25}, True),
    ],
)
def test_no_background_eviction_where_the_slow_tier_does_not_serve_new_reads(
    factors: dict[str, Any], many: bool, forever: threading.Event
) -> None:
    instance = _small(**factors)
    assert balanced.serves_new_reads(instance) != many
    if many:
        assert isinstance(kv.solve(instance, "pricing", time_limit=1).placement, Residency)
    assert not forever.is_set()


def test_the_same_seed_gives_the_same_bytes() -> None:
    instance = kv.read_instance("swap-2x48-c30-b64")

    def run(threads: int) -> str:
        document = kv.solve(instance, "pricing", time_limit=600, threads=threads).to_json()
        return json.dumps(
            {k: v for k, v in document.items() if k not in ("wall_s", "peak_rss_bytes", "kernel")}
        )

    assert run(1) == run(2)


def test_other_accountings_are_refused() -> None:
    with pytest.raises(UsageError, match="physical"):
        kv.solve(kv.read_instance("paper-low"), "pricing")


def test_infeasible_without_room_for_the_weights() -> None:
    instance = kv.read_instance("swap-2x48-c30-b64")
    heavy = kv.make_instance(
        "heavy", memory=instance.memory.to_mapping(), trace=instance.trace,
        llm=instance.llm.to_mapping() | {"weight_bytes": 1e12},
    )  # fmt: skip
    assert kv.solve(heavy, "pricing").status is Status.INFEASIBLE


def test_more_rounds_are_no_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has another seed and better multipliers; the best schedule counts, and a good one ends them."""
    monkeypatch.setattr(pricing, "maximize_dual", partial(maximize_dual, iterations=100))
    monkeypatch.setattr(pricing, "MOST_COLUMNS", 0)
    monkeypatch.setattr(pricing, "candidates", lambda *_: iter(()))
    monkeypatch.setattr(best_response, "SWEEPS", 1)
    instance = Cell(hbm=25, link=64).instance(Scale("small", 64, 32, 0.0)).with_rules(accounting="physical")
    times = []
    for rounds, gap in ((1, 0.0), (3, 0.0), (3, 0.5)):
        monkeypatch.setattr(pricing, "ROUNDS", rounds)
        found = kv.solve(instance, "pricing", time_limit=600, gap=gap).time_s
        assert found is not None
        times.append(found)
    assert times[1] < times[0]
    assert times[2] == times[0]


def test_pricing_uses_best_responses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pricing, "maximize_dual", partial(maximize_dual, iterations=300))
    monkeypatch.setattr(pricing, "MOST_COLUMNS", 0)
    monkeypatch.setattr(pricing, "ROUNDS", 1)
    case = Cell("actual-like").instance(Scale("small", 32, 16, 0.0))
    instance = case.with_rules(accounting="physical")
    result = kv.solve(instance, "pricing", time_limit=600)
    assert result.time_s is not None
    assert result.time_s < 0.998 * min(cost(instance, each) for each in balanced.schedules(instance, silent))
