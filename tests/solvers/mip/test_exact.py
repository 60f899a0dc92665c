"""The exact method: valid schedules, sound limits and starts, and the relations between instances."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import kvbound as kv
from kvbound.checker import check
from kvbound.cost.ideal import ideal
from kvbound.errors import InputError
from kvbound.instance import Instance
from kvbound.result import Status
from kvbound.solvers.reference.brute_force import solve_brute
from tests.strategies import tiny_instance

CLOSE = 1e-7


def test_the_checker_accepts_the_schedules() -> None:
    rng = np.random.default_rng(11)
    for _ in range(25):
        instance = tiny_instance(rng)
        result = kv.solve(instance, "exact")
        assert result.schedule is not None
        sha256, tokens = instance.sha256, instance.tokens
        arrays = result.schedule.arrays(instance_sha256=sha256, tokens=tokens)
        report = check(instance.expanded(), instance.trace.rows, arrays, claimed_s=result.time_s)
        assert report.ok, report.problems


def small(seed: int = 0, **rules: object) -> Instance:
    """24 + 12 tokens, 2 layers, a slow link."""
    spec = {"kind": "random-swap", "layers": 2, "prefill_tokens": 24, "decode_steps": 12, "seed": seed}
    return kv.make_instance(
        "small",
        memory="gh200-144",
        llm={
            "name": "small", "layers": 2, "kv_bytes_per_token_layer": 16384,
            "weight_bytes": 0, "weight_read_bytes_per_layer": 150_000,
        },
        trace={"synthetic": spec},
        rules=rules,
        overrides={"memory.resources.c2c_down": "64GB/s"},
        capacity="30%",
    )  # fmt: skip


def test_a_start_never_gets_slower() -> None:
    instance = small()
    start = kv.simulate(instance, "belady")
    result = kv.solve(instance, "exact", start=start.schedule, time_limit=0.1)
    assert result.time_s is not None
    assert start.time_s is not None
    assert result.time_s <= start.time_s
    assert result.bound.time_s is not None
    assert result.bound.time_s <= result.time_s


def test_a_start_that_breaks_the_rules_is_refused() -> None:
    start = kv.simulate(small(), "lru").schedule
    assert start is not None
    everything = dataclasses.replace(start, initial=np.zeros_like(start.initial))
    with pytest.raises(InputError, match="start: expected a schedule that keeps the instance's rules"):
        kv.solve(small(), "exact", start=everything)
    with pytest.raises(InputError, match="start"):
        kv.solve(small(migration="none"), "exact", start=start)


def test_same_seed_same_schedule() -> None:
    instance = small()
    first, second = (kv.solve(instance, "exact", seed=3).schedule for _ in range(2))
    assert first is not None
    assert second is not None
    for one, other in zip(first.events, second.events, strict=True):
        assert np.array_equal(one.token, other.token)
        assert np.array_equal(one.tier, other.tier)


def test_more_threads_after_fewer() -> None:
    instance = small()
    times = [kv.solve(instance, "exact", threads=threads).time_s for threads in (1, 2, 1)]
    assert times[0] == pytest.approx(times[1], rel=2e-4)
    assert times[0] == pytest.approx(times[2], rel=2e-4)


def test_an_instance_that_does_not_fit_is_infeasible() -> None:
    instance = kv.make_instance(
        "heavy",
        memory="gh200-144",
        llm="llama-3.1-70b",
        trace={"synthetic": {"kind": "random-swap", "layers": 80, "prefill_tokens": 4, "decode_steps": 2}},
        capacity="23GiB",
    )
    for method in ("exact", "relax", "belady"):
        assert kv.solve(instance, method).status is Status.INFEASIBLE


def test_more_capacity_or_bandwidth_is_never_slower() -> None:
    base = small()
    optimum = kv.solve(base, "exact", gap=1e-6).time_s
    assert optimum is not None
    trace = base.workload
    for change in ({"memory.tiers.hbm.capacity": "45%"}, {"memory.resources.c2c_down": "128GB/s"}):
        overrides = {"memory.resources.c2c_down": "64GB/s", "memory.tiers.hbm.capacity": "30%", **change}
        better = kv.make_instance("x", memory="gh200-144", llm=base.llm, trace=trace, overrides=overrides)
        time = kv.solve(better, "exact", gap=1e-6).time_s
        assert time is not None
        assert time <= optimum * (1 + 1e-6)


def test_a_prefix_never_costs_more_and_permuting_the_prompt_changes_nothing() -> None:
    rng = np.random.default_rng(2)
    for _ in range(20):
        whole = tiny_instance(rng, initial="free")
        optimum = solve_brute(whole).time_s
        assert optimum is not None
        lists = [
            [whole.trace.reads(j, n).tolist() for n in range(whole.layers)] for j in range(whole.decode_steps)
        ]
        if whole.granularity == 1:
            order = rng.permutation(whole.prefill_tokens)
            renamed = [
                [[int(order[i]) if i < len(order) else i for i in ids] for ids in step] for step in lists
            ]
            assert _with_reads(whole, renamed) == pytest.approx(optimum, rel=CLOSE)
        if len(lists) > 1:
            assert _with_reads(whole, lists[:-1]) <= optimum * (1 + CLOSE)


def _with_reads(instance: Instance, lists: list[list[list[int]]]) -> float:
    changed = Instance(
        "changed",
        instance.memory,
        instance.llm,
        instance.rules,
        kv.Trace.from_lists(instance.prefill_tokens, lists),
    )
    time = kv.solve(changed, "exact", gap=1e-7).time_s
    assert time is not None
    return time


def test_an_interrupt_while_the_program_is_built_keeps_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: Instance) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kvbound.solvers.mip.exact.formulation", interrupt)
    instance = kv.read_instance("swap-2x48-c53-b64")
    result = kv.solve(instance, "exact")
    assert result.termination.reason == "interrupted"
    assert result.time_s == kv.simulate(instance, "belady").time_s
    assert result.bound.time_s == pytest.approx(ideal(instance))
