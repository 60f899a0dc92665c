"""The limit of decoding against threads with measured numbers, its own primal, and optimal schedules."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from kvbound import catalog
from kvbound.errors import InfeasibleError, UsageError
from kvbound.limit import (
    Decoding,
    all_in_first_s,
    decode_limit,
    layers_first_s,
    layers_that_fit,
    sequences_that_fit,
    sequential_s,
    weights_first_s,
)
from kvbound.llm.model import Llm
from kvbound.memory import Memory, Tier
from kvbound.policies.llamacpp import RESERVE
from kvbound.solvers.reference.brute_force import solve_brute
from kvbound.trace import Trace
from tests.strategies import tiny_instance

CARD = Memory(
    "card",
    {"gpu": 624e9, "host": 60e9},
    (Tier("gpu", 16e9, ("gpu",), ("gpu",)), Tier("host", None, ("host",), ("host",))),
)
QWQ = Llm("qwq-32b", 64, 4096, 14e9, 14e9 / 64)
seeds = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize(
    ("context", "on_host", "layers"),
    [
        (5_000, 22.6, 5.36),
        (10_000, 15.1, 4.93),
        (20_000, 9.1, 4.26),
        (50_000, 4.2, 3.03),
        (100_000, 2.2, 2.04),
    ],
)
def test_layers_or_kv_first(context: int, on_host: float, layers: float) -> None:
    """ollama issue 9750: a 32B model at 14 GB on a card of 16 GB, with 131,072 tokens allocated."""
    setting = Decoding(CARD, QWQ, context, allocated=131_072)
    kv, found = weights_first_s(setting), layers_first_s(setting)
    assert kv is not None
    assert found is not None
    assert 1 / kv == pytest.approx(on_host, abs=0.05)
    assert 1 / found == pytest.approx(layers, abs=0.005)
    assert layers_that_fit(setting) == 19
    best = sequential_s(setting)
    assert decode_limit(setting).time_s <= best * (1 + 1e-12)
    assert best <= min(kv, found) * (1 + 1e-9)


def test_the_best_split_of_layers_and_kv() -> None:
    setting = Decoding(CARD, QWQ, 10_000)
    assert 1 / sequential_s(setting) == pytest.approx(27.8, abs=0.05)
    found = decode_limit(setting)
    # 16.62 GB at 624 + 60 GB/s, and 2.62 MB of births among them
    assert found.time_s == pytest.approx((14e9 + 10_001 * 262_144) / 684e9, rel=1e-9)
    assert found.resources == {"gpu": pytest.approx(624 / 684), "host": pytest.approx(60 / 684)}


def test_a_70b_model_on_a_gh200() -> None:
    """vLLM 6317: 59.0 GB of the weights are read over a link measured at 342 GB/s: 4.6 tokens/s."""
    memory, llm = catalog.memory("gh200-96-measured-memcpy"), catalog.llm("llama-3.1-70b")
    near = dataclasses.replace(memory.tiers[0], capacity=llm.weight_bytes - 59.0e9)
    every = dataclasses.replace(llm, weight_read_bytes_per_layer=llm.weight_bytes / 80)
    setting = Decoding(dataclasses.replace(memory, tiers=(near, memory.tiers[1])), every, 0)
    assert 1 / decode_limit(setting).time_s == pytest.approx(5.8, abs=0.05)
    assert 1 / sequential_s(setting) == pytest.approx(5.1, abs=0.05)


def random_setting(rng: np.random.Generator) -> Decoding:
    tiers = int(rng.integers(2, 5))
    rates = {f"bus{k}": float(rng.integers(1, 50)) for k in range(tiers)}
    rates |= {"down": float(rng.integers(1, 50)), "up": float(rng.integers(1, 50))}
    made = []
    for k in range(tiers):
        link = k > 0 and rng.random() < 0.6
        reads, writes = (f"bus{k}", *["down"] * link), (f"bus{k}", *["up"] * link)
        capacity = None if k == tiers - 1 else float(rng.integers(0, 60))
        made.append(Tier(f"t{k}", capacity, reads, () if rng.random() < 0.2 else writes))
    layers = int(rng.integers(1, 4))
    weights = tuple(float(each) for each in rng.integers(0, 20, layers))
    llm = Llm("l", layers, int(rng.integers(1, 4)), sum(weights) + float(rng.integers(0, 3)), weights)
    batch, share = int(rng.integers(1, 4)), float(rng.choice([0.25, 1.0]))
    return Decoding(Memory("m", rates, tuple(made)), llm, int(rng.integers(0, 12)), batch, share)


@given(seeds)
@settings(max_examples=150, deadline=None)
def test_the_bytes_read_at_the_limit_take_that_long_and_fit(seed: int) -> None:
    """So the limit, proved as a dual bound, is attained by the primal."""
    setting = random_setting(np.random.default_rng(seed))
    found, memory = decode_limit(setting), setting.memory
    read = np.array(list(found.reads.values()))
    assert read.min() >= -1e-9
    assert read.sum() == pytest.approx(float(setting.reads))
    for k, tier in enumerate(memory.tiers):
        assert tier.capacity is None or read[k] <= tier.capacity + 1e-6  # these models read weights once
    busy = read @ memory.read_load / memory.bandwidths
    assert busy.max() <= found.time_s * (1 + 1e-9) + 1e-12
    # births, wherever they are written, add what is left
    assert found.time_s <= min(
        (busy + memory.write_load[k] * float(setting.births) / memory.bandwidths).max()
        for k in range(len(memory.tiers))
    ) * (1 + 1e-9)
    if found.time_s:
        assert sum(found.resources.values()) == pytest.approx(1)


@given(seeds)
@settings(max_examples=80, deadline=None)
def test_the_limit_is_the_optimum_of_the_linear_program(seed: int) -> None:
    setting = random_setting(np.random.default_rng(seed))
    memory, count = setting.memory, len(setting.memory.tiers)
    spread = np.kron(np.eye(2), np.ones(count))  # bytes read and written, by tier
    rows = [
        [(name in tier.reads) / rate for tier in memory.tiers]
        + [(name in tier.writes) / rate for tier in memory.tiers]
        for name, rate in memory.resources.items()
    ]
    found = linprog(
        [0] * 2 * count + [1],
        np.column_stack([rows, -np.ones(len(rows))]), np.zeros(len(rows)),
        np.column_stack([spread, [0, 0]]), [float(setting.reads), float(setting.births)],
        [(0, tier.capacity) for tier in memory.tiers] + [(0, None)] * (count + 1),
        method="highs-ipm",
    )  # fmt: skip
    assert found.fun is not None
    assert decode_limit(setting).time_s == pytest.approx(found.fun, rel=1e-6, abs=1e-12)


def test_a_tier_that_would_load_what_binds_twice_is_not_read() -> None:
    tiers = (Tier("a", 100, ("a",), ()), Tier("b", 100, ("b",), ()), Tier("c", None, ("a", "b"), ()))
    found = decode_limit(Decoding(Memory("m", {"a": 2.0, "b": 1.0}, tiers), Llm("l", 1, 1, 3, 3.0), 0))
    assert found.time_s == pytest.approx(1)
    assert list(found.reads.values()) == pytest.approx([2, 1, 0])


@pytest.mark.parametrize("rate", [3.0, 7e9, 0.1, 450e9])
def test_the_limit_is_rounded_down(rate: float) -> None:
    """One resource for everything: the least time is a fraction, here of no finite binary form."""
    tiers = (Tier("a", 100, ("bus",), ("bus",)), Tier("b", None, ("bus",), ("bus",)))
    setting = Decoding(Memory("m", {"bus": rate}, tiers), Llm("l", 1, 5, 17, 17.0), 3)
    exact = Fraction(17 + 3 * 5 + 5) / Fraction(rate)
    found = decode_limit(setting).time_s
    assert Fraction(found) <= exact
    assert found == pytest.approx(float(exact), rel=1e-15)


def test_what_fits_to_the_byte_fits() -> None:
    tiers = (Tier("a", 17 + 15, ("a",), ("a",)), Tier("b", 15, ("b",), ("b",)))
    setting = Decoding(Memory("m", {"a": 2.0, "b": 1.0}, tiers), Llm("l", 1, 5, 17, 17.0), 3)
    near, kv = all_in_first_s(setting), weights_first_s(setting)
    assert near is not None
    assert kv is not None
    assert near == (17 + 15 + 5) / 2
    assert kv == 17 / 2 + 15 + 5
    assert sequences_that_fit(setting) == 1
    assert all_in_first_s(dataclasses.replace(setting, context=4)) is None


def test_layers_without_weights_are_placed_by_their_kv() -> None:
    tiers = (Tier("a", 10 + RESERVE, ("a",), ("a",)), Tier("b", None, ("b",), ("b",)))
    setting = Decoding(Memory("m", {"a": 2.0, "b": 1.0}, tiers), Llm("l", 4, 2, 0, 0.0), 2)
    found = layers_first_s(setting)
    assert found is not None
    assert layers_that_fit(setting) == 2
    assert found == (2 * 4 + 2 * 2) / 2 + 2 * 4 + 2 * 2


@given(seeds)
@settings(max_examples=40, deadline=None)
def test_no_schedule_of_dense_reads_is_faster(seed: int) -> None:
    instance = tiny_instance(np.random.default_rng(seed), granularity=1)
    reads = [
        [np.arange(instance.prefill_tokens + step)] * instance.layers for step in range(instance.decode_steps)
    ]
    dense = dataclasses.replace(instance, workload=Trace.from_lists(instance.prefill_tokens, reads))
    optimum = solve_brute(dense).time_s
    assert optimum is not None
    steps = (
        decode_limit(Decoding(dense.memory, dense.llm, dense.prefill_tokens + step)).time_s
        for step in range(dense.decode_steps)
    )
    assert sum(steps) <= optimum * (1 + 1e-12)


@given(seeds)
@settings(max_examples=60, deadline=None)
def test_no_static_placement_beats_the_limit(seed: int) -> None:
    setting = random_setting(np.random.default_rng(seed))
    limit, found = (
        decode_limit(setting),
        (weights_first_s(setting), all_in_first_s(setting), layers_first_s(setting)),
    )
    for time in [sequential_s(setting), *(each for each in found if each is not None)]:
        assert time >= limit.time_s * (1 - 1e-9)


def test_the_last_layers_that_fit_are_placed() -> None:
    llm = Llm("two", 2, 1024, 3 * 2**30, (2.0**30, 2.0**31))
    near = Tier("a", 3.5 * 2**30, ("a",), ("a",))
    memory = Memory("m", {"a": 2.0**30, "b": 2.0**29}, (near, Tier("b", None, ("b",), ("b",))))
    some = Decoding(memory, llm, 0)
    assert layers_that_fit(some) == 1  # 2 GiB of the last layer, 1 GiB stays free
    assert layers_first_s(some) == pytest.approx(2 + 2, rel=1e-5)
    whole = dataclasses.replace(near, capacity=3 * 2**30 + RESERVE)
    every = dataclasses.replace(some, memory=dataclasses.replace(memory, tiers=(whole, memory.tiers[1])))
    assert layers_that_fit(every) == 2
    assert layers_first_s(every) == pytest.approx(3, rel=1e-5)
    small = dataclasses.replace(memory.tiers[1], capacity=2**30 - 1)
    less = dataclasses.replace(some, memory=dataclasses.replace(memory, tiers=(near, small)))
    assert layers_first_s(less) is None


@pytest.mark.parametrize(
    ("context", "allocated", "fit"), [(1_000, None, 7), (1_000, 2_000, 3), (8_000, None, 0)]
)
def test_the_sequences_that_fit(context: int, allocated: int | None, fit: int) -> None:
    assert sequences_that_fit(Decoding(CARD, QWQ, context, allocated=allocated)) == fit
    assert (all_in_first_s(Decoding(CARD, QWQ, context, max(fit, 1), allocated=allocated)) is not None) == (
        fit > 0
    )
    assert all_in_first_s(Decoding(CARD, QWQ, context, fit + 1, allocated=allocated)) is None


@pytest.mark.parametrize(
    "changes", [{"context": -1}, {"batch": 0}, {"share": 1.5}, {"share": float("nan")}, {"allocated": 5}]
)
def test_settings_that_make_no_sense(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        dataclasses.replace(Decoding(CARD, QWQ, 10), **changes)


def test_what_fits_nowhere_is_infeasible() -> None:
    memory = dataclasses.replace(
        CARD, tiers=(CARD.tiers[0], dataclasses.replace(CARD.tiers[1], capacity=1e9))
    )
    Decoding(memory, QWQ, 10_000)
    with pytest.raises(InfeasibleError, match=r"14 GB of weights and 5\.243 GB of KV do not fit into card"):
        Decoding(memory, QWQ, 20_000)


def test_experts_that_no_token_reads_need_not_be_in_the_first_tier() -> None:
    """Mixtral on 40 GB: the experts of a token fit, so at best the link is not the limit."""
    setting = Decoding(catalog.memory("a100-40-pcie4"), catalog.llm("mixtral-8x7b"), 1000)
    read = float(setting.reads)
    assert decode_limit(setting).time_s == pytest.approx(read / (1555e9 + 32e9), rel=1e-3)


def test_layers_with_a_sliding_window_keep_and_read_no_more() -> None:
    windows = (None, *(1024,) * 63)
    setting = Decoding(CARD, dataclasses.replace(QWQ, windows=windows), 100_000, batch=2, share=0.5)
    assert setting.kv_bytes == 2 * 4096 * (100_000 + 63 * 1023)
    assert setting.kv_reads == 4096 * (100_000 + 63 * 1023)
    assert dataclasses.replace(setting, context=10).kv_bytes == 2 * 4096 * 64 * 10


def test_births_take_their_time_in_every_placement() -> None:
    setting = Decoding(CARD, QWQ, 0, batch=1000)
    new = 1000 * 64 * 4096
    near, kv = all_in_first_s(setting), weights_first_s(setting)
    assert near is not None
    assert kv is not None
    assert near == pytest.approx((14e9 + new) / 624e9)
    assert kv == pytest.approx(14e9 / 624e9 + new / 60e9)
    assert sequential_s(setting) == pytest.approx(near)
