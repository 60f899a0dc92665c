"""Schedules without prefetch are valid with it: no method returns a slower one than it finds there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import kvbound as kv
from kvbound.instance import Instance
from kvbound.result import BoundStatus, Limit, Reason, Termination
from kvbound.rules import Migration
from kvbound.solvers.eviction import balanced
from kvbound.solvers.mip import exact
from kvbound.solvers.mip.exact import Improved
from kvbound.solvers.pricing import best_response
from kvbound.solvers.pricing import solve as pricing
from kvbound.solvers.warm_start import without_prefetch
from tests.strategies import rule_combinations, tiny_instance


def prefetch(instance: Instance) -> bool:
    return instance.rules.migration is Migration.PREFETCH


SEARCHES = (exact, "improve"), (pricing, "improve_in_core")
"""The searches of the program in both methods."""


def time_of(instance: Instance, method: str | None, **options: Any) -> float:
    time = kv.solve(instance, method, **options).time_s
    assert time is not None
    return time


def both(name: str) -> tuple[Instance, Instance]:
    instance = kv.read_instance(name)
    plain = without_prefetch(instance)
    assert plain is not None
    return instance, plain


@pytest.fixture
def _only_policies_prefetch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let only the policies find schedules with prefetch."""

    for module, name in SEARCHES:
        search = getattr(module, name)

        def only_without(
            instance: Instance, known: Any, *more: Any, search: Any = search, **options: Any
        ) -> Improved:
            if prefetch(instance):
                return Improved(known, 0.0, Termination(Reason.LIMIT, Limit.TIME))
            found: Improved = search(instance, known, *more, **options)
            return found

        monkeypatch.setattr(module, name, only_without)
    for module in (best_response, balanced):
        known = module.supports
        monkeypatch.setattr(module, "supports", lambda i, known=known: not prefetch(i) and known(i))


def test_without_prefetch_there_is_nothing_to_restrict() -> None:
    assert without_prefetch(kv.read_instance("tiny-on-read")) is None
    assert without_prefetch(kv.read_instance("tiny-none")) is None


@pytest.mark.usefixtures("_only_policies_prefetch")
@pytest.mark.parametrize("method", ["exact", "pricing", None])
@pytest.mark.parametrize("name", ["swap-2x48-c30-b64-prefetch", "swap-1x24-c30-b64-exclusive-prefetch"])
def test_a_fruitless_search_returns_what_is_found_without_prefetch(name: str, method: str | None) -> None:
    instance, plain = both(name)
    # counted work leaves out the program by which pricing finds the best schedule with exclusive copies
    timed = method == "pricing" and "exclusive" in name
    short, long = ({"time_limit": 5}, {"time_limit": 10}) if timed else ({"work": 20}, {"work": 20})
    least = time_of(plain, method, **short)
    assert least < time_of(instance, "belady")
    assert time_of(instance, method, **long) <= least


@pytest.mark.parametrize("method", ["exact", "pricing"])
def test_an_interrupt_of_the_restricted_search_ends_the_run(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(instance: Instance, known: Any, *_: Any, **__: Any) -> Improved:
        assert not prefetch(instance)
        return Improved(known, 0.0, Termination(Reason.INTERRUPTED))

    for module, name in SEARCHES:
        monkeypatch.setattr(module, name, interrupted)
    instance, plain = both("swap-2x48-c30-b64-prefetch")
    result = kv.solve(instance, method, gap=0.0, time_limit=6)
    assert result.termination.reason == "interrupted"
    assert result.instance.sha256 == instance.sha256 != plain.sha256
    assert (result.time_s or 0.0) <= time_of(instance, "belady")
    assert result.bound.status is (BoundStatus.CLAIMED if method == "exact" else BoundStatus.CERTIFIED)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["exact", "pricing", None])
def test_under_any_rules(method: str | None) -> None:
    rng = np.random.default_rng(8)
    prefetching = [rules for rules in rule_combinations() if rules["migration"] is Migration.PREFETCH]
    for rules in prefetching[::3]:
        instance = tiny_instance(rng, **rules)
        plain = without_prefetch(instance)
        assert plain is not None
        least = time_of(plain, method, time_limit=5)
        assert time_of(instance, method, time_limit=5) <= least * (1 + 1e-9)
