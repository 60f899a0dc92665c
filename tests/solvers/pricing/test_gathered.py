"""Reads at late tiers gathered in few slots."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from kvbound.cost.traffic import schedule_traffic
from kvbound.instance import Instance
from kvbound.progress import Progress, silent
from kvbound.result import Limit, Reason, Termination
from kvbound.solvers.incumbent import CostedPlacement, Incumbent, evaluate_placement
from kvbound.solvers.lagrangian.ascent import Multipliers
from kvbound.solvers.lagrangian.bound import maximize_dual
from kvbound.solvers.pricing import best_response, gathered, prices
from kvbound.solvers.pricing.best_response import best_responses
from kvbound.solvers.pricing.gathered import NEVER, gather, gathers, serving, waiting_tiers
from kvbound.solvers.pricing.responses.tiers import TierResponses
from kvbound.solvers.pricing.solve import solve_pricing
from tests.latency_cases import four_tiers, seldom_waiting, waiting
from tests.replay import problems

SSD = 2
"""The tier of `waiting` that lets slots wait."""


def multipliers(instance: Instance) -> Multipliers:
    found = maximize_dual(instance, iterations=200).multipliers
    assert found is not None
    return found


def touched(instance: Instance, found: CostedPlacement) -> int:
    """Return the number of slots that read, or move, anything at the SSD."""
    schedule: Any = found[1]
    traffic = schedule_traffic(instance, schedule).traffic  # (steps, layers, 3K)
    return int(np.count_nonzero(traffic[..., SSD] + traffic[..., instance.tiers + SSD]))


def test_where_waits_are_longer_than_slots_and_blocks_move_ahead_of_reads() -> None:
    assert gathers(waiting())
    assert waiting_tiers(waiting()) == [SSD]
    assert waiting_tiers(seldom_waiting(40, 16, 0.1)) == [2, 3]
    for other in (waiting("inclusive", "on-read"), four_tiers("exclusive", "prefetch")):
        assert not gathers(other)


def test_a_tier_serves_every_nth_slot_of_a_layer_with_one_layer_after_the_other() -> None:
    instance = waiting(prompt=20, steps=12)
    served = serving(instance, {SSD: 4})
    assert served.shape == (3, 12, 2)
    assert served[:SSD].all()
    assert np.flatnonzero(served[SSD, :, 0]).tolist() == [0, 4, 8]
    assert np.flatnonzero(served[SSD, :, 1]).tolist() == [2, 6, 10]
    assert not serving(instance, {SSD: NEVER})[SSD].any()
    assert serving(instance, {SSD: 1}).all()
    by_step = serving(instance.with_rules(overlap="step"), {SSD: 4})
    assert np.flatnonzero(by_step[SSD, :, 0]).tolist() == [0, 4, 8]


@pytest.mark.parametrize("kernel", ["numpy", "numba"])
@pytest.mark.parametrize("rules", [{}, {"overlap": "step"}])
def test_blocks_neither_are_read_nor_leave_where_a_tier_is_closed(kernel: str, rules: dict[str, Any]) -> None:
    if kernel == "numba":
        pytest.importorskip("numba")
    instance = waiting().with_rules(**rules)
    served = serving(instance, {SSD: 4})
    found = best_responses(instance, multipliers(instance), serving=served, sweeps=1, kernel=kernel)
    assert isinstance(found.responses, TierResponses)
    counts = found.responses.counts  # before the repair, whose blocks may wait for room
    used = instance.timed(counts[..., SSD] + counts[..., instance.tiers + SSD])
    assert not used[~served[SSD]].any()
    assert used[served[SSD]].any()


def test_pricing_gathers_reads_that_best_responses_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    instance = waiting()
    found = solve_pricing(instance, work=100, anneal=False)
    monkeypatch.setattr(gathered, "gathers", lambda _: False)
    spread = solve_pricing(instance, work=100, anneal=False)
    assert found.time_s is not None
    assert spread.time_s is not None
    assert found.time_s < 0.6 * spread.time_s
    assert found.schedule is not None
    assert problems(instance, found.schedule) == []


def test_room_is_left_so_that_no_block_that_finds_none_makes_a_slot_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    instance = waiting()
    start, served, slots = multipliers(instance), serving(instance, {SSD: 16}), []
    for spare in (prices._SPARE, 0.0):
        monkeypatch.setattr(prices, "_SPARE", spare)
        schedule = best_responses(instance, start, serving=served, group=0.01).schedule()
        assert schedule is not None
        slots.append(touched(instance, evaluate_placement(instance, schedule)))
    assert slots[0] < 0.7 * slots[1]


def found_by(instance: Instance, **options: Any) -> tuple[list[CostedPlacement], Termination]:
    kept: list[CostedPlacement] = []
    return kept, gather(instance, multipliers(instance), kept.append, sweeps=1, **options)


def test_the_search_finds_the_best_interval_of_those_it_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    """From 8 on in both directions, none twice; here 3 is best."""
    instance, tried = waiting(prompt=20, steps=40), []

    def costs(_: Instance, __: Multipliers, *, serving: Any, **___: Any) -> Any:
        interval = int(np.diff(np.flatnonzero(serving[SSD, :, 0]))[0]) if serving[SSD].any() else NEVER
        tried.append(interval)
        return type("Found", (), {"schedule": lambda *_: interval, "termination": Termination()})()

    def value(_: Instance, interval: int) -> Any:
        return type("Measures", (), {"value": abs((interval or 1000) - 3)}), interval

    monkeypatch.setattr(best_response, "best_responses", costs)
    monkeypatch.setattr(gathered, "evaluate_placement", value)
    kept: list[Any] = []
    gather(instance, multipliers(instance), kept.append, sweeps=1)
    assert min(kept, key=lambda each: each[0].value)[1] == 3
    assert len(tried) == len(set(tried))


@pytest.mark.parametrize("steps", [1, 2, 40, 100_000])
def test_intervals_are_shorter_than_the_run(steps: int) -> None:
    choices = gathered._choices(steps)
    assert choices[-1] == NEVER
    assert choices[:-1] == sorted(set(choices[:-1]))
    assert all(1 <= n < steps for n in choices[:-1])
    assert steps < 3 or 2 * choices[-2] >= steps - 1


def test_it_ends_when_time_is_up_or_it_is_interrupted() -> None:
    instance = waiting(prompt=20, steps=12)
    assert found_by(instance, end=time.perf_counter()) == ([], Termination(Reason.LIMIT, Limit.TIME))

    def interrupts(after: int) -> Progress:
        calls = iter(range(after))

        def report(done: float, total: float, note: str = "") -> None:
            if note == "best responses" and next(calls, None) is None:
                raise KeyboardInterrupt

        return report

    everything, ended = found_by(instance, progress=silent)
    assert ended == Termination()
    assert len(everything) > 2
    kept, ended = found_by(instance, progress=interrupts(100))
    assert ended.reason is Reason.INTERRUPTED
    assert len(kept) < len(everything)


def test_what_it_finds_obeys_the_rules_and_is_the_same_with_both_kernels() -> None:
    pytest.importorskip("numba")
    instance, times = waiting(prompt=40, steps=12), []
    for kernel in ("numpy", "numba"):
        best = Incumbent.of(instance)
        gather(instance, multipliers(instance), best.update, sweeps=1, kernel=kernel)
        assert best.measures is not None
        schedule: Any = best.placement
        assert problems(instance, schedule) == []
        times.append(best.measures.time_s)
    assert times[0] == times[1]
