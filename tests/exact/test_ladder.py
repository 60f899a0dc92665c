"""Without any tolerance: certificate <= rational linear program <= optimum in fractions."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

import kvbound as kv
from kvbound.checker import check
from kvbound.instance import Instance
from kvbound.solvers.lagrangian.bound import solve_dual
from kvbound.solvers.reference.brute_force import find_optimum
from tests.exact.placement import relaxation, slot_times
from tests.exact.simplex import Program
from tests.strategies import rule_combinations, tiny_instance, with_formats, with_layers, with_overlap


def proved(instance: Instance, *, whole: bool) -> Fraction:
    """Return what a certificate proves, to the last digit."""
    certificate = solve_dual(instance, integer_counts=whole, work=150)[1]
    report = check(instance.expanded(), instance.token_trace.arrays, certificate.arrays())
    assert report.problems == ()
    assert report.bound_s is not None
    return Fraction(report.bound_s)


def drawn(number: int) -> Instance:
    """Return an instance with at most four blocks, under each combination of rules in turn."""
    rng, rules = np.random.default_rng([20, number]), rule_combinations()[number]
    while True:
        made = with_overlap(rng, tiny_instance(rng, batch=bool(rng.integers(2)), **rules))
        if made.layers > 1 and rng.random() < 0.5:
            made = with_layers(rng, made)
        elif rng.random() < 0.3:
            made = with_formats(rng, made)
        if made.layers * made.blocks <= 4 and made.decode_steps <= 3:
            return made


@pytest.mark.parametrize("number", range(96))
def test_each_rung_is_below_the_next(number: int) -> None:
    instance = drawn(number)
    optimum = find_optimum(instance, slot_times).time_s
    assert isinstance(optimum, Fraction)
    assert float(optimum) == pytest.approx(find_optimum(instance).time_s, rel=1e-9)
    assert proved(instance, whole=True) <= optimum
    exact = kv.solve(instance, "exact")
    assert exact.bound.time_s is not None
    assert exact.time_s is not None
    if exact.bound.status == "certified":
        assert Fraction(exact.bound.time_s) <= optimum
    tiers = tuple(replace(tier, latency=0.0) for tier in instance.memory.tiers)
    at_once = replace(instance, memory=replace(instance.memory, tiers=tiers))
    relaxed, fastest = relaxation(at_once), find_optimum(at_once, slot_times).time_s
    assert relaxed is not None
    assert proved(at_once, whole=False) <= relaxed <= fastest <= optimum
    solved = kv.solve(at_once, "relax", cuts=False).bound.time_s
    assert solved == pytest.approx(float(relaxed), rel=1e-6, abs=1e-9)


def test_the_simplex_method_finds_the_optimum() -> None:
    """Minimise -x - y with x + 3 y <= 4, 3 x + y <= 4, x == y: at x = y = 1; without a solution None."""
    program, one = Program(), Fraction(1)
    x, y = program.column(-one), program.column(-one)
    program.at_most({x: one, y: 3 * one}, 4 * one)
    program.at_most({x: 3 * one, y: one}, 4 * one)
    program.equal({x: one, y: -one}, 0 * one)
    assert program.minimum() == -2
    program.at_most({x: -one}, -2 * one)
    assert program.minimum() is None
