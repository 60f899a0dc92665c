"""Mechanisms of pricing: each test fails without the one it names."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import kvbound as kv
from kvbound.bitsets.two_tier import TwoTierSchedule
from kvbound.cost.evaluate import evaluate, evaluate_traffic
from kvbound.instance import Instance
from kvbound.library import best_known
from kvbound.progress import Progress
from kvbound.result import BoundStatus, Result
from kvbound.schedule import Schedule
from kvbound.solvers import portfolio
from kvbound.solvers.annealing import solve as annealing
from kvbound.solvers.incumbent import Incumbent, evaluate_placement
from kvbound.solvers.lagrangian.bound import maximize_dual
from kvbound.solvers.lagrangian.evaluation import prove
from kvbound.solvers.pricing import solve as pricing
from kvbound.solvers.pricing.best_response import best_responses
from kvbound.solvers.pricing.repair import repair
from kvbound.solvers.pricing.responses.tiers import TierResponses

Words = NDArray[np.uint64]


def time_of(result: Result) -> float:
    assert result.time_s is not None
    return result.time_s


def optimum(name: str) -> float:
    best = best_known()[name].time_s
    assert best is not None
    return best


# Best responses


def test_sweeps_of_best_responses_improve_the_multipliers() -> None:
    """Small groups respond, sweep after sweep, to prices that depend on the loads. The penalties of loads
    fade, and the multipliers that are left prove a higher bound than those of the ascent.
    """
    instance = kv.read_instance("swap-2x48-c30-b450")
    tuned = maximize_dual(instance, work=200)
    assert tuned.multipliers is not None
    learnt = prove(instance, best_responses(instance, tuned.multipliers).multipliers)
    assert learnt.bound_s > 1.003 * tuned.certificate.bound_s


def test_pricing_proves_the_bound_of_improved_multipliers(monkeypatch: pytest.MonkeyPatch) -> None:
    instance = kv.read_instance("swap-2x48-c30-b450")
    poor = maximize_dual(instance, work=60)
    monkeypatch.setattr(pricing, "maximize_dual", lambda *_, **__: poor)
    result = kv.solve(instance, "pricing", work=200)
    assert result.bound.status is BoundStatus.CERTIFIED
    assert result.bound.time_s is not None
    assert result.bound.time_s > 1.003 * poor.certificate.bound_s


def test_best_responses_make_a_schedule_close_to_the_bound() -> None:
    instance = kv.read_instance("swap-2x48-c30-b64")
    tuned = maximize_dual(instance, work=200)
    assert tuned.multipliers is not None
    found = best_responses(instance, tuned.multipliers).schedule()
    assert isinstance(found, TwoTierSchedule)
    time_s = evaluate_traffic(instance, found.traffic(instance)).time_s
    assert time_s < 1.016 * tuned.certificate.bound_s


# Repair


def single(
    prompt: int,
    reads: Sequence[Sequence[int]],
    room: int,
    *,
    births: Sequence[int] | None = None,
    ends: Sequence[int | None] | None = None,
    **rules: Any,
) -> Instance:
    """One layer of tokens of a byte, and a fast tier with capacity for `room` of them."""
    memory = {
        "name": "plain",
        "resources": {"fast": 4, "slow": 1},
        "tiers": [
            {"name": "near", "capacity": room, "reads": ["fast"], "writes": ["fast"]},
            {"name": "far", "capacity": None, "reads": ["slow"], "writes": ["slow"]},
        ],
    }  # fmt: skip
    llm = {
        "name": "toy", "layers": 1, "kv_bytes_per_token_layer": 1, "weight_bytes": 0,
        "weight_read_bytes_per_layer": 0,
    }  # fmt: skip
    lists = [[list(step)] for step in reads]
    trace = kv.Trace.from_lists(prompt, lists, births=births, ends=ends)
    return kv.make_instance("single", memory=memory, llm=llm, trace=trace, rules=rules)


def repaired(
    instance: Instance, start: Iterable[int], after: Sequence[Iterable[int]], spare: Sequence[int]
) -> tuple[list[int], list[list[int]]]:
    """Repair a schedule, given and returned as the tokens in tier 0 at the start and after every slot."""
    inside = np.zeros((1, 64), np.bool_)
    inside[0, list(start)] = True
    bits: Words = np.array([[[sum(1 << token for token in tokens)] for tokens in after]], np.uint64)
    repair(instance, inside, bits, np.array(spare)[:, None])
    lanes = np.unpackbits(bits[0].view(np.uint8), axis=1, bitorder="little")
    return np.flatnonzero(inside[0]).tolist(), [np.flatnonzero(row).tolist() for row in lanes]


def test_an_overfull_start_loses_what_is_read_last() -> None:
    instance = single(3, [[], [0], [1], [2]], room=2)
    start, after = repaired(instance, [0, 1, 2], [[0, 1, 2], [1, 2], [2], []], [0, 0, 0, 0])
    assert (start, after) == ([0, 1], [[0, 1], [1], [], []])


def test_what_is_read_last_is_evicted_after_what_misses_for_free() -> None:
    instance = single(3, [[0, 1, 2], [0], [1], [2]], room=2)
    wanted = [[0, 1, 2], [1, 2], [2], []]
    assert repaired(instance, [], wanted, [0, 0, 0, 0]) == ([], [[0, 1], [1], [], []])
    assert repaired(instance, [], wanted, [0, 1, 0, 0]) == ([], [[1, 2], [1, 2], [2], []])


def test_useless_hits_after_the_longest_stays_are_given_up_first() -> None:
    instance = single(2, [[0], [1], [0, 1]], room=2)
    wanted = [[0], [0, 1], []]
    assert repaired(instance, [], wanted, [0, 0, 1]) == ([], [[], [1], []])
    assert repaired(instance, [], wanted, [0, 0, 0]) == ([], wanted)


def test_a_useless_hit_is_given_up_from_the_birth_on() -> None:
    """Of tokens born together, the one that has been in tier 0 for longer without a read goes first."""
    instance = single(1, [[], [3], [2, 3]], room=2, births=[3, 0, 0])
    wanted = [[2, 3], [2, 3], []]
    assert repaired(instance, [], wanted, [0, 0, 1]) == ([], [[3], [3], []])
    assert repaired(instance, [], wanted, [0, 1, 2]) == ([], [[3], [], []])


def test_stays_until_slots_with_too_many_misses_are_extended_the_shortest_first() -> None:
    instance = single(2, [[0, 1], [], [1], [], [0]], room=1)
    nobody: list[list[int]] = [[]] * 5
    assert repaired(instance, [], nobody, [0, 0, -1, 0, -1]) == ([], [[1], [1], [], [], []])
    assert repaired(instance, [], nobody, [0, 0, 0, 0, -1]) == ([], [[0], [0], [0], [0], []])
    assert repaired(instance, [], nobody, [0, 0, 0, 0, 0]) == ([], nobody)


def replayed(instance: Instance, first: Sequence[int], plan: Sequence[Sequence[int]]) -> NDArray[np.uint8]:
    """Replay a plan, as tiers of the prompt's tokens; return their tiers in fact, (1 + steps, tokens)."""
    state = TierResponses.empty(instance, 1, "numpy", 1)
    state.first[0, : len(first)] = first
    for step, tiers in enumerate(plan):
        state.plan[step, 0, : len(first)] = tiers
        state.plan[step, 0, len(first) : len(first) + step + 1] = 1  # births, in the far tier
    schedule = state.repaired()
    assert evaluate(instance, schedule).time_s > 0
    tier = np.tile(schedule.initial[0], (1 + len(plan), 1))
    for step, token, to in zip(
        *(getattr(schedule.events[0], n) for n in ("step", "token", "tier")), strict=True
    ):
        if token < len(first):
            tier[step + 1 :, token] = to
    return tier


def test_where_a_plan_exceeds_the_capacity_the_longest_stay_waits() -> None:
    instance = single(2, [[0, 1], [0, 1], [0], []], room=1, copies="exclusive")
    tier = replayed(instance, [1, 1], [[0, 0], [0, 1], [0, 1], [1, 1]])
    # the first token waits until there is room
    assert tier.tolist() == [[1, 1], [1, 0], [0, 1], [0, 1], [1, 1]]


def test_evictions_make_room_for_promotions_in_the_same_slot() -> None:
    instance = single(2, [[0], [0]], room=1, copies="exclusive")
    assert replayed(instance, [1, 0], [[0, 1], [0, 1]]).tolist() == [[1, 0], [0, 1], [0, 1]]


def planned(instance: Instance, first: Sequence[int], plan: Sequence[Sequence[int]]) -> list[list[int]]:
    """Replay a plan given for all blocks; return their tiers in fact at the start and after every slot."""
    state = TierResponses.empty(instance, 1, "numpy", 1)
    state.first[0, : len(first)] = first
    state.plan[:, 0, : instance.blocks] = plan
    assert evaluate(instance, state.repaired()).time_s > 0
    return [list(first), *state.plan[:, 0, : instance.blocks].tolist()]


NONE = 2
"""Tier of a block that does not exist, where there are two tiers."""


def test_blocks_that_end_leave_their_room_to_others_in_the_same_slot() -> None:
    instance = single(2, [[0, 1], [1]], room=1, births=[0, 1], ends=[0, 1, None], copies="exclusive")
    plan = [[NONE, 0, NONE], [NONE, NONE, 0]]
    assert planned(instance, [0, 1], plan) == [[0, 1], *plan]


def test_blocks_that_begin_together_take_the_room_there_is() -> None:
    """One that ends in the step of its birth needs none; the others that exceed it go to the next tier."""
    instance = single(1, [[0], []], room=2, births=[4, 0], ends=[0, 0, None, None, None], copies="exclusive")
    plan = [[NONE, 0, 0, 0, 0], [NONE, NONE, 0, 0, 0]]
    assert planned(instance, [0], plan)[1:] == [[NONE, 0, 0, 0, 1], [NONE, NONE, 0, 0, 1]]


def test_blocks_of_a_sequence_move_when_one_of_their_own_tokens_is_read() -> None:
    instance = single(4, [[2], [3], [1]], room=2, granularity=2, copies="exclusive")
    trace = kv.Trace.from_lists(4, [[[2]], [[3]], [[1]]], births=0, sequence=[0, 1, 0, 1])
    instance = dataclasses.replace(instance, workload=trace)
    assert planned(instance, [1, 1], [[0, 0], [1, 0], [0, 1]]) == [[1, 1], [0, 1], [1, 0], [1, 1]]


# The best schedule and the search


def test_the_incumbent_is_the_fastest_schedule_also_of_those_without_prefetch() -> None:
    instance = kv.read_instance("tiny-prefetch")
    found: dict[str, Any] = {
        policy: evaluate_placement(instance, schedule)
        for policy in ("lru", "belady", "static")
        if (schedule := kv.simulate(instance, policy).schedule) is not None
    }
    times = sorted(measures.time_s for measures, _ in found.values())
    assert times[0] < times[-1]
    for order in (1, -1):
        best = Incumbent.of(instance)
        best.update_all(sorted(found.values(), key=lambda costed: order * costed[0].time_s))
        assert best.measures is not None
        assert best.measures.time_s == times[0]
        assert best.within(0.1, 0.95 * times[0])
        assert not best.within(0.1, 0.85 * times[0])
    best = Incumbent.of(instance)
    assert best.without_prefetch is not None
    best.update(max(found.values(), key=lambda costed: costed[0].time_s))
    best.without_prefetch.update(min(found.values(), key=lambda costed: costed[0].time_s))
    best.adopt()
    assert best.measures is not None
    assert best.measures.time_s == times[0]


def until(words: str) -> Progress:
    """Interrupt at the first note that begins with some words."""

    def report(done: float, total: float, note: str = "") -> None:
        if note.startswith(words):
            raise KeyboardInterrupt

    return report


def test_the_best_pass_of_balanced_eviction_is_a_candidate() -> None:
    """Its last pass is optimal; only candidates are known when the ascent is interrupted."""
    name = "swap-2x48-c30-b64-prefetch"
    result = kv.solve(kv.read_instance(name), "pricing", work=50, progress=until("tuned"))
    assert result.termination.reason == "interrupted"
    assert time_of(result) == pytest.approx(optimum(name), rel=1e-4)


def test_policies_are_candidates() -> None:
    """Where they are faster than balanced eviction, and where that is not supported."""
    for name in ("swap-2x48-c53-b450", "three-1x24"):
        instance = kv.read_instance(name)
        result = kv.solve(instance, "pricing", work=50, progress=until("tuned"))
        for policy in ("belady", "keep-last"):
            assert time_of(result) <= time_of(kv.simulate(instance, policy))


def test_a_start_is_a_candidate() -> None:
    instance = kv.read_instance("swap-2x48-c30-b450")
    best = kv.solve(instance, "exact", work=1, gap=1e-3)
    given, alone = (
        kv.solve(instance, "pricing", work=1, gap=1e-4, start=start) for start in (best.schedule, None)
    )
    assert time_of(given) <= time_of(best) * (1 + 1e-9)
    assert time_of(alone) > 1.002 * time_of(best)


def test_a_search_of_the_program_closes_the_gap_that_prices_leave() -> None:
    """But not where work is limited."""
    instance = kv.read_instance("tiny-exclusive-prefetch")
    best = time_of(kv.solve(instance, "brute"))
    counted = kv.solve(instance, "pricing", work=20)
    searched = kv.solve(instance, "pricing", time_limit=600, gap=1e-3)
    assert time_of(counted) > 1.01 * best
    assert time_of(searched) == pytest.approx(best, rel=1e-6)


def test_annealing_starts_from_the_schedule_and_the_bound_of_pricing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The result keeps the certificate."""
    calls: list[dict[str, Any]] = []
    plain = annealing.solve_annealing

    @functools.wraps(plain)
    def spy(instance: Instance, **options: Any) -> Result:
        calls.append(options)
        return plain(instance, **options)

    monkeypatch.setattr(portfolio, "MOST_COLUMNS", 0)
    monkeypatch.setattr(annealing, "solve_annealing", spy)
    name = "swap-2x48-c30-b64-prefetch"
    result = kv.solve(kv.read_instance(name), work=2, gap=1e-4)
    (options,) = calls
    assert isinstance(options["start"], Schedule)
    assert options["bound_s"] == result.bound.time_s
    assert result.method == "anneal"
    assert time_of(result) == pytest.approx(optimum(name), rel=1e-4)
    assert result.bound.status is BoundStatus.CERTIFIED
    assert result.certificate is not None
