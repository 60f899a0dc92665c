"""Mechanisms of the Lagrangian bound: each test fails without the one it names."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

import kvbound as kv
from kvbound.certificate import FULL, Certificate
from kvbound.cost.ideal import ideal
from kvbound.instance import Instance
from kvbound.result import Termination
from kvbound.solvers import certify
from kvbound.solvers.lagrangian import rounding
from kvbound.solvers.lagrangian.ascent import DualAscent
from kvbound.solvers.lagrangian.bound import maximize_dual
from kvbound.solvers.lagrangian.evaluation import prove
from kvbound.solvers.lagrangian.slots.minorants import SlotMinorants
from kvbound.solvers.reference.brute_force import solve_brute
from tests.solvers.lagrangian.cases import bound, swaps


def optimum(instance: Instance) -> float:
    found = solve_brute(instance).time_s
    assert found is not None
    return found


# The ascent


def test_few_iterations_come_close_to_what_many_prove() -> None:
    """Adam with both moments and their correction, a step size that falls to zero, a start at the facets
    that bind, and the best point kept: without any one of them it is further away.
    """
    instance = swaps(100, 12)
    few, many = bound(instance, work=150), bound(instance, work=2000)
    assert 0.985 * many < few <= many


@pytest.mark.parametrize(("sample", "power"), [(None, 1), (0.1, 2)])
def test_steps_fall_to_zero_with_samples_faster(
    sample: float | None, power: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares: list[float] = []
    step = DualAscent._step

    def noted(self: DualAscent, share: float) -> None:
        shares.append(share)
        step(self, share)

    monkeypatch.setattr(DualAscent, "_step", noted)
    bound(swaps(1500, 5), iterations=10, sample=sample)
    assert shares == pytest.approx([(1 - n / 10) ** power for n in range(10)])


def test_new_samples_in_every_iteration() -> None:
    """One sample, however often it is seen, says less of all items than samples that change."""
    instance = swaps(1500, 20)
    found = bound(instance, work=150, sample=0.1)
    assert found > 0.97 * bound(instance, work=150)


def test_an_ascent_ends_at_its_target() -> None:
    instance, done = swaps(100, 12), list[float]()

    def note(share: float, total: float, text: str = "") -> None:
        if text.startswith("tuned"):
            done.append(share)

    outcome = maximize_dual(instance, work=1000, incumbent_s=1.7 * ideal(instance), gap=0.1, progress=note)
    assert outcome.termination == Termination()
    assert outcome.certificate.bound_s >= 0.9 * 1.7 * ideal(instance)
    assert len(done) < 100


# Minorants and items


@pytest.mark.parametrize("name", ["tiny-on-read", "tiny-prefetch", "tiny-exclusive-prefetch"])
def test_whole_counts_prove_more_than_the_plain_relaxation_can(name: str) -> None:
    instance = kv.read_instance(name)
    relaxed = kv.solve(instance, "relax", cuts=False, work=100).bound.time_s
    assert relaxed is not None
    assert bound(instance, work=400) > 1.005 * relaxed
    assert bound(instance, work=400, integer_counts=False) <= relaxed * (1 + 1e-7)


def test_whole_writes_prove_more_than_whole_reads_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """With exclusive copies on a slow link, where every birth or eviction takes as long as several slots."""
    recorded = kv.read_instance("native-r15-c25-b64-n64-exclusive")
    instance = dataclasses.replace(recorded, workload=recorded.trace.head(8))
    both, of = bound(instance, work=400), SlotMinorants.of

    def reads_alone(instance: Instance, integer_counts: bool = True) -> SlotMinorants:
        made = of(instance, integer_counts)
        reads = {key: getattr(made, key)[:1] for key in ("counted", "chord", "others", "breakpoints", "ends")}
        return dataclasses.replace(made, alpha=made.alpha[: 1 + len(made.beta)], **reads)

    monkeypatch.setattr(SlotMinorants, "of", reads_alone)
    assert bound(instance, work=400) < 0.95 * both


def test_latencies_that_no_placement_avoids_are_part_of_every_slot() -> None:
    """Weights are read from the fast tier; that tokens are written through to the slow one does not wait."""
    instance = kv.read_instance("tiny-latency")
    tiers = tuple(dataclasses.replace(tier, latency=0.0) for tier in instance.memory.tiers)
    none = dataclasses.replace(instance, memory=dataclasses.replace(instance.memory, tiers=tiers))
    with_, without = (SlotMinorants.of(each, False) for each in (instance, none))
    used = np.zeros((3 * instance.tiers, *with_.chord.shape[1:]))
    assert np.all(with_.at(used).max(axis=0) > without.at(used).max(axis=0) + 0.1)
    assert 0.8 * optimum(instance) < bound(instance, work=200) <= optimum(instance)
    serial = kv.read_instance("tiny-latency-serial")
    assert 0.95 * optimum(serial) < bound(serial, work=200) <= optimum(serial)


@pytest.mark.parametrize("name", ["tiny-prefill-first", "tiny-fill-3"])
def test_a_forced_fill_is_known(name: str) -> None:
    """Of tokens between two tiers, and of any tiers."""
    instance = kv.read_instance(name)
    free = instance.with_rules(initial="free")
    assert optimum(free) < 0.99 * optimum(instance)
    assert optimum(free) < bound(instance, work=200) <= optimum(instance)


# Certificates


@pytest.mark.parametrize("name", ["tiny-three-exclusive", "tiny-prefill-first"])
def test_the_bound_is_at_least_the_ideal_time(name: str) -> None:
    instance = kv.read_instance(name)
    first = maximize_dual(instance, work=1)
    assert bound(instance, work=1) == pytest.approx(ideal(instance))
    assert first.multipliers is not None
    assert prove(instance, first.multipliers).bound_s < 0.99 * ideal(instance)


def test_resource_weights_are_repaired_to_at_most_one() -> None:
    """Rounded one by one, four that add up to one can be a unit too many; the checker rejects that."""
    instance = swaps(20, 3)
    theta = np.random.default_rng(0).dirichlet(np.ones(4), size=(2, 3, 2)).transpose(0, 3, 1, 2)
    rounded = rounding._integer_theta(instance, theta)
    assert np.all(rounded.sum(axis=1) <= FULL)
    assert rounded == pytest.approx(theta * FULL, abs=2)
    many = rounding._integer_theta(instance, 1.5 * theta)
    assert np.all(many.sum(axis=1) <= FULL)
    assert many == pytest.approx(theta * FULL, abs=2)
    serial = rounding._integer_theta(instance.with_rules(timing="serial"), theta)
    assert np.all(serial == FULL)


def test_an_ascent_goes_on_where_a_certificate_ended() -> None:
    instance = swaps(100, 12)
    first = maximize_dual(instance, work=300).certificate
    again = maximize_dual(instance, work=1, resume=first).certificate
    fresh = maximize_dual(instance, work=1).certificate
    assert again.bound_s == pytest.approx(first.bound_s, rel=1e-5)
    assert fresh.bound_s < 0.9 * first.bound_s


def test_what_is_resumed_is_never_made_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    instance = kv.read_instance("tiny-three")
    first = maximize_dual(instance, work=200).certificate

    def forget(*_: Any) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        raise KeyboardInterrupt

    monkeypatch.setattr("kvbound.solvers.lagrangian.bound.recover_multipliers", forget)
    result = certify.solve_certified(instance, work=1, resume=first)
    assert result.bound.time_s == first.bound_s > 1.1 * ideal(instance)
    assert isinstance(result.certificate, Certificate)
