"""The instance, the checks of schedules and those of certificates agree on how many blocks fit."""

import dataclasses
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kvbound.checker import Report, check
from kvbound.instance import Instance
from kvbound.instance_io import make_instance
from kvbound.schedule import Schedule
from kvbound.solvers.lagrangian.bound import solve_dual
from kvbound.solvers.reference.brute_force import find_optimum
from kvbound.units import parse_bytes
from tests.checker.test_certificate import any_multipliers
from tests.cost_cases import checked
from tests.instance_documents import Size, llm, tier
from tests.strategies import rule_combinations, tiny_instance

PROMPT = 6


def instance_of(weights: Size, capacity: Size, kv: Size = 1, size: int = 1, **rules: str) -> Instance:
    """One layer, six prompt tokens, four steps that read the first two."""
    return make_instance(
        "small",
        memory={
            "name": "m",
            "resources": {"fast": 1000, "slow": 1},
            "tiers": [tier("t0", capacity, "fast"), tier("t1", None, "slow", "fast")],
        },
        llm=llm(item=kv, weights=weights),
        trace={"reads": [[[0, 1]]] * 4, "prefill_tokens": PROMPT},
        rules={"granularity": size} | rules,
    )  # fmt: skip


def report_on(instance: Instance, blocks: int, claim: str | None = None) -> Report:
    """The checker's report on keeping the prompt's first blocks in tier 0."""
    size, steps = instance.granularity, np.arange(4)
    initial = (np.arange(PROMPT) // size >= blocks).astype(np.uint8)[None]
    birth = (PROMPT + steps) // size
    of_prompt = birth <= (PROMPT - 1) // size  # born into the block of earlier tokens
    tier = np.where(of_prompt & (birth < blocks), 0, 1).astype(np.uint8)
    file = {
        "schema": np.array("kvbound.schedule/1"), "instance_sha256": np.array(claim or instance.sha256),
        "initial": initial, "slot": steps, "item": PROMPT + steps, "tier": tier,
    }  # fmt: skip
    return check(instance.expanded(), instance.trace.rows, file)


def certified_capacity(instance: Instance, expanded: dict[str, Any], sha256: str) -> int:
    """Tier 0's capacity in blocks as certificates are checked with, from a bound with only its price."""
    slots = (instance.decode_steps, instance.layers)
    capacity = np.zeros((2, 1 + math.prod(slots)), np.int64)
    capacity[0, 0] = 1
    arrays = {
        "schema": np.array("kvbound.certificate/1"), "instance_sha256": np.array(sha256),
        "bound_s": np.float64(-np.inf), "scale": np.int64(0), "tier": np.int64(0), "capacity": capacity,
        "prices": np.zeros((6, *slots), np.int64), "whole": np.zeros(slots, np.int64),
        "theta": np.zeros((2, 2, *slots), np.int64),
    }  # fmt: skip
    bound = check(expanded, instance.trace.rows, arrays).bound_s
    assert bound is not None
    return -int(bound)


sizes = st.one_of(
    st.integers(0, 40).map(lambda tenths: tenths / 10),
    st.integers(0, 400).map(lambda tenths: f"{tenths / 10}B"),
    st.integers(2**53, 2**56),
    st.integers(0, 5000).map(lambda n: f"{n / 1000}GiB"),
)


@given(sizes, sizes, st.sampled_from([1, 3, 2**20, 2**40]), st.sampled_from([1, 2, 3]))
@example(0.3, 2.3, 1, 1)
@example(2**54, 2**54, 1, 1)
@example("0.1GiB", "4.1GiB", 2**30, 1)
@settings(max_examples=200, deadline=None)
def test_every_part_sees_the_same_capacity(weights: Size, more: Size, kv: int, size: int) -> None:
    """Capacities and weights are rounded to whole bytes, exactly."""
    exact = parse_bytes(weights) + parse_bytes(more)
    capacity = f"{float(exact)}B" if exact.denominator > 1 else int(exact)
    instance = instance_of(weights, capacity, kv, size)
    free = Fraction(math.floor(parse_bytes(capacity)) - math.ceil(parse_bytes(weights)))
    if free < 0:
        return
    blocks = free // (kv * size)
    assert instance.capacity_units == (blocks, None)
    for n in range(PROMPT // size + 1):
        assert report_on(instance, n).ok == (n <= blocks)
    if blocks < 2**53:  # the bound is a double
        assert certified_capacity(instance, instance.expanded(), instance.sha256) == blocks


@given(st.floats(0, 9), st.floats(0, 9))
@example(0.3, 2.3)
@settings(deadline=None)
def test_the_checker_rounds_by_itself(weights: float, capacity: float) -> None:
    """A mapping made by hand may hold fractions: capacities are rounded down and weights up."""
    instance = instance_of(0, 9)
    expanded = instance.expanded()
    expanded["llm"]["weight_bytes"] = weights
    expanded["memory"]["tiers"][0]["capacity"] = capacity
    room = math.floor(capacity) - math.ceil(weights)
    file = {
        "schema": np.array("kvbound.schedule/1"),
        "instance_sha256": np.array("x"),
        "initial": np.zeros(0),
    }
    sha256 = check(expanded, instance.trace.rows, file).instance_sha256
    assert sha256 is not None
    assert certified_capacity(instance, expanded, sha256) == room
    for n in range(PROMPT + 1):
        found = [p for p in dataclasses.replace(_checked(instance, expanded, n)).problems if "capacity" in p]
        assert bool(found) == (n > room)


def _checked(instance: Instance, expanded: dict[str, Any], blocks: int) -> Report:
    steps = np.arange(4)
    file = {
        "schema": np.array("kvbound.schedule/1"), "instance_sha256": np.array("x"),
        "initial": (np.arange(PROMPT) >= blocks).astype(np.uint8)[None], "slot": steps,
        "item": PROMPT + steps, "tier": np.ones(4, np.uint8),
    }  # fmt: skip
    return check(expanded, instance.trace.rows, file)


@pytest.mark.parametrize(
    ("weights", "capacity", "kv", "inside"),
    [(0.3, 2.3, 1, 2), (2**54, 2**54, 1, 1), ("0.1GiB", "4.1GiB", "1GiB", 4)],
)
def test_no_accepted_schedule_is_faster_than_an_accepted_bound(
    weights: Size, capacity: Size, kv: Size, inside: int
) -> None:
    """Regression: with floats a schedule could hold one block more than the bound assumed."""
    instance = instance_of(weights, capacity, kv)
    bound = check(
        instance.expanded(),
        instance.trace.rows,
        solve_dual(instance, iterations=50, kernel="numpy")[1].arrays(),
    )
    assert bound.ok
    assert bound.bound_s is not None
    for blocks in range(PROMPT + 1):
        report = report_on(instance, blocks)
        assert report.time_s is not None
        assert not report.ok or report.time_s >= bound.bound_s
    assert not report_on(instance, inside).ok or instance.capacity_units[0] == inside


@pytest.mark.parametrize("capacity", [2**54 + 1, "18014398509481985B", "18014398509481985.9"])
def test_prefill_first_fills_the_same_capacity(capacity: Size) -> None:
    """One block beside the weights; 1 + 2**54 is 2**54 in doubles."""
    instance = instance_of(2**54, capacity, initial="prefill-first")
    assert instance.capacity_units == (1, None)
    assert report_on(instance, 1).ok
    assert not report_on(instance, 0).ok
    assert not report_on(instance, 2).ok


def awkward(rng: np.random.Generator, instance: Instance) -> Instance:
    """The same instance with weights and capacities that are fractional, huge, or percentages."""
    memory, model = instance.memory.to_mapping(), instance.llm.to_mapping()
    block = instance.granularity * instance.unit_sizes[0]
    weights = Fraction(int(rng.integers(0, 50)), 10) + int(rng.choice([0, 2**53 + 1, 2**55 - 3]))
    model["weight_bytes"] = _written(rng, weights)
    for k, (each, blocks) in enumerate(zip(memory["tiers"], instance.capacity_units, strict=True)):
        if blocks is not None:
            spare = Fraction(int(rng.integers(0, 10 * block)), 10)
            base = math.ceil(weights) if k == 0 else 0
            each["capacity"] = _written(rng, base + blocks * block + spare)
    if rng.random() < 0.2:
        memory["tiers"][0]["capacity"] = f"{rng.integers(0, 101)}%"
    return make_instance("awkward", memory=memory, llm=model, rules=instance.rules, trace=instance.trace)


def _written(rng: np.random.Generator, size: Fraction) -> Size:
    whole, tenth = divmod(size.numerator * 10 // size.denominator, 10)
    text = f"{whole}.{tenth}"
    forms: list[Size] = [f"{text}B", f"{text} B"]
    return forms[int(rng.integers(2))] if tenth or rng.random() < 0.5 else whole


def roomier(instance: Instance) -> Instance:
    """The same instance with room for one more block in every limited tier."""
    block = instance.granularity * instance.unit_sizes[0]
    tiers = tuple(
        t if t.capacity is None else dataclasses.replace(t, capacity=t.capacity + block)
        for t in instance.memory.tiers
    )
    return dataclasses.replace(instance, memory=dataclasses.replace(instance.memory, tiers=tiers))


def _check_soundness(seed: int, rules: dict[str, Any]) -> None:
    rng = np.random.default_rng(seed)
    instance = awkward(rng, tiny_instance(rng, **rules))
    optimum, larger = find_optimum(instance), find_optimum(roomier(instance))
    times = [_accepted(instance, optimum.schedule), _accepted(instance, larger.schedule)]
    assert times[0] == pytest.approx(optimum.time_s, rel=1e-9)
    for _ in range(4):
        report = check(instance.expanded(), instance.trace.rows, any_multipliers(instance, rng))
        assert report.bound_s is not None
        assert all(report.bound_s <= time * (1 + 1e-12) for time in times)


def _accepted(instance: Instance, schedule: Schedule) -> float:
    report = checked(instance, schedule)
    return report.time_s if report.ok and report.time_s is not None else math.inf


@given(st.integers(0, 2**32 - 1), st.sampled_from(rule_combinations()))
@settings(max_examples=60, deadline=None)
def test_bounds_stay_below_schedules_under_awkward_capacities(seed: int, rules: dict[str, Any]) -> None:
    _check_soundness(seed, rules)


@pytest.mark.slow
@given(st.integers(0, 2**32 - 1), st.sampled_from(rule_combinations()))
@settings(max_examples=2000, deadline=None)
def test_bounds_stay_below_many_schedules(seed: int, rules: dict[str, Any]) -> None:
    _check_soundness(seed, rules)


def test_peaks_are_exact() -> None:
    instance = instance_of(2**54 + 1, 2**54 + 3)
    report = report_on(instance, 2)
    assert report.ok
    assert report.peak_bytes == (2**54 + 3, PROMPT + 4)
    assert report.to_mapping()["peak_bytes"][0] == 2**54 + 3


@pytest.mark.parametrize("size", [2**61, 10**400])
def test_sizes_beyond_all_memory_are_refused(size: int) -> None:
    instance = instance_of(0, 9)
    for path in (("llm", "kv_bytes_per_token_layer"), ("rules", "granularity")):
        expanded = instance.expanded()
        expanded[path[0]][path[1]] = size
        assert "malformed" in _checked(instance, expanded, 0).problems[0]
    expanded = instance.expanded()
    expanded["memory"]["tiers"][0]["capacity"] = size  # of any size, as long as it is finite
    assert "malformed" not in _checked(instance, expanded, 0).problems[0]
