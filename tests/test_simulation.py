"""Every policy under every rule: legal schedules, the checker's times, reproducible results."""

import dataclasses
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import kvbound as kv
from kvbound.placement import write_placement
from kvbound.policies import POLICIES, Birth, MoveRequest, Slot, make_policy
from kvbound.policies.view import InstanceView
from kvbound.rules import Copies, Initial, Migration, Timing
from kvbound.simulation import simulate
from tests.cost_cases import assert_sound, same, schedule_of
from tests.policies.cases import medium_instance
from tests.strategies import tiny_instance

seeds = st.integers(0, 2**32 - 1)
policies = st.sampled_from(sorted(POLICIES))


@pytest.mark.parametrize("policy", POLICIES)
def test_every_rule_combination(policy: str) -> None:
    for n, words in enumerate(product(Copies, Migration, Timing, Initial, (1, 2, 3))):
        names = ("copies", "migration", "timing", "initial", "granularity")
        rules: dict[str, Any] = dict(zip(names, words, strict=True))
        instance = tiny_instance(np.random.default_rng([n, len(policy)]), tiers=2 + n % 3, **rules)
        assert_sound(instance, simulate(instance, policy))


@given(seeds, policies)
@settings(max_examples=100, deadline=None)
def test_larger_instances(seed: int, policy: str) -> None:
    instance = medium_instance(np.random.default_rng(seed))
    assert_sound(instance, simulate(instance, policy))


class Random:
    """Returns random scores and requests."""

    name = "random"

    def start(self, instance: InstanceView, rng: np.random.Generator) -> NDArray[np.float64]:
        self.rng = rng
        return rng.random((instance.layers, instance.prefill_tokens))

    def step(self, slot: Slot) -> MoveRequest | NDArray[np.float64]:
        if self.rng.random() < 0.3:
            return self.rng.integers(0, 3, slot.tokens + 1).astype(np.float64)
        up, out = (self.rng.integers(0, max(slot.tokens, 1), self.rng.integers(6)) for _ in range(2))
        if not slot.tokens:
            up = out = up[:0]
        births = list(Birth)
        return MoveRequest(up, out, bool(self.rng.random() < 0.5), births[self.rng.integers(len(births))])


@given(seeds, st.integers(0, 9))
@settings(max_examples=100, deadline=None)
def test_whatever_a_policy_wants_the_rules_are_kept(seed: int, policy_seed: int) -> None:
    instance = medium_instance(np.random.default_rng(seed))
    assert_sound(instance, simulate(instance, Random(), seed=policy_seed))


@given(seeds, policies)
@settings(max_examples=40, deadline=None)
def test_without_migration_nothing_moves(seed: int, policy: str) -> None:
    instance = medium_instance(np.random.default_rng(seed), migration=Migration.NONE)
    result = simulate(instance, policy)
    assert result.measures is not None
    assert result.measures.moved_bytes == {"up": 0, "down": 0}
    assert all(schedule_of(result).births(layer).all() for layer in range(instance.layers))


@given(seeds, st.sampled_from(sorted(set(POLICIES) - {"page"})))
@settings(max_examples=40, deadline=None)
def test_only_page_makes_use_of_prefetching(seed: int, policy: str) -> None:
    on_read = medium_instance(np.random.default_rng(seed), migration=Migration.ON_READ)
    prefetch = on_read.with_rules(migration=Migration.PREFETCH)
    assert same(schedule_of(simulate(on_read, policy)), schedule_of(simulate(prefetch, policy)))


@given(seeds, policies, st.sampled_from([0.25, 8.0]))
@settings(max_examples=40, deadline=None)
def test_bandwidth_scales_time_and_changes_no_placement(seed: int, policy: str, factor: float) -> None:
    instance = medium_instance(np.random.default_rng(seed))
    tiers = tuple(dataclasses.replace(tier, latency=0.0) for tier in instance.memory.tiers)
    one, other = (
        dataclasses.replace(
            instance,
            memory=dataclasses.replace(
                instance.memory, tiers=tiers,
                resources={name: scale * rate for name, rate in instance.memory.resources.items()},
            ),
        )
        for scale in (1.0, factor)
    )  # fmt: skip
    mine, theirs = simulate(one, policy), simulate(other, policy)
    assert same(schedule_of(mine), schedule_of(theirs))
    assert mine.time_s == pytest.approx(factor * (theirs.time_s or 0), rel=1e-12)


@given(seeds, policies)
@settings(max_examples=40, deadline=None)
def test_online_policies_do_not_depend_on_later_reads(seed: int, policy: str) -> None:
    """What an online policy does in the first steps does not change with what is read after them."""
    instance = medium_instance(np.random.default_rng(seed), initial=Initial.FREE)
    rule: Any = make_policy(policy)
    steps = instance.decode_steps // 2
    if rule.oracle or not steps:
        return
    # the same tokens, but nothing is read in the second half
    reads: Any = [
        [instance.trace.listed(j, layer) if j < steps else [] for layer in range(instance.layers)]
        for j in range(instance.decode_steps)
    ]
    mass: Any = None
    if instance.trace.mass[0] is not None:
        mass = [
            [instance.trace.listed_mass(j, layer) if j < steps else [] for layer in range(instance.layers)]
            for j in range(instance.decode_steps)
        ]
    blind: Any = kv.Trace.from_lists(instance.prefill_tokens, reads, mass=mass)
    one = schedule_of(simulate(instance, policy))
    other = schedule_of(simulate(dataclasses.replace(instance, workload=blind), policy))
    assert np.array_equal(one.initial, other.initial)
    for mine, theirs in zip(one.events, other.events, strict=True):
        early, same_early = mine.step < steps, theirs.step < steps
        assert np.array_equal(mine.token[early], theirs.token[same_early])
        assert np.array_equal(mine.tier[early], theirs.tier[same_early])


@given(seeds, policies)
@settings(max_examples=30, deadline=None)
def test_runs_are_the_same_even_with_the_same_object(seed: int, policy: str) -> None:
    instance = medium_instance(np.random.default_rng(seed))
    rule = make_policy(policy)
    first, again = simulate(instance, rule), simulate(instance, rule)
    assert same(schedule_of(first), schedule_of(again))
    assert first.measures == again.measures == simulate(instance, policy).measures


@pytest.mark.parametrize("policy", POLICIES)
def test_runs_write_the_same_bytes(policy: str, tmp_path: Path) -> None:
    written = []
    for name in ("a.npz", "b.npz"):
        instance = tiny_instance(np.random.default_rng(7))
        schedule = schedule_of(simulate(instance, policy))
        write_placement(schedule, tmp_path / name, instance_sha256=instance.sha256, tokens=instance.tokens)
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]


def test_seeds_reach_the_policy() -> None:
    instance = medium_instance(np.random.default_rng(3), migration=Migration.PREFETCH)
    one, again, other = (simulate(instance, Random(), seed=seed) for seed in (0, 0, 1))
    assert same(schedule_of(one), schedule_of(again))
    assert not same(schedule_of(one), schedule_of(other))
    assert other.seed == 1
