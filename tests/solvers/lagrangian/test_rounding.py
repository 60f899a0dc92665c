"""Rounding: multipliers come back from a certificate, and the ideal time has one."""

from typing import Any

import pytest
from hypothesis import given, settings

from kvbound.checker import check
from kvbound.cost.ideal import ideal
from kvbound.instance import Instance
from kvbound.solvers.lagrangian.ascent import Multipliers
from kvbound.solvers.lagrangian.bound import maximize_dual, prove
from kvbound.solvers.lagrangian.minorants import SlotMinorants
from kvbound.solvers.lagrangian.rounding import ideal_certificate, recover_multipliers
from tests.solvers.lagrangian.cases import swaps
from tests.strategies import tiny_instances


@pytest.mark.parametrize(
    "rules", [{}, {"migration": "prefetch", "copies": "exclusive"}, {"timing": "serial"}]
)
def test_multipliers_are_recovered_from_a_certificate(rules: dict[str, Any]) -> None:
    instance = swaps(100, 12, **rules)
    first = maximize_dual(instance, iterations=100).certificate
    again = prove(instance, Multipliers(*recover_multipliers(instance, SlotMinorants.of(instance), first)))
    assert again.bound_s == pytest.approx(first.bound_s, rel=1e-6)


@given(tiny_instances())
@settings(max_examples=25)
def test_the_ideal_certificate_proves_the_ideal_time(instance: Instance) -> None:
    certificate = ideal_certificate(instance)
    assert certificate.bound_s == pytest.approx(ideal(instance), rel=1e-9)
    assert check(instance.expanded(), instance.trace.rows, certificate.arrays()).ok
