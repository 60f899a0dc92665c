"""The default method: a failure of annealing does not lose the schedule of pricing."""

from __future__ import annotations

import functools
from typing import Any

import pytest

import kvbound as kv
from kvbound.errors import KvboundError, UsageError
from kvbound.result import BoundStatus
from kvbound.solvers import portfolio
from kvbound.solvers.annealing import solve as annealing


def test_annealing_follows_pricing_whatever_the_clock_where_work_is_limited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(portfolio, "MOST_COLUMNS", 0)
    result = kv.solve(kv.read_instance("tiny-on-read"), work=3, gap=0.0, time_limit=0.0)
    assert result.method == "anneal"


def test_an_option_of_a_method_without_a_method_is_refused() -> None:
    with pytest.raises(UsageError, match="sample is an option of some methods: name one of them"):
        kv.solve(kv.read_instance("tiny-on-read"), sample=0.5)


@pytest.mark.parametrize("failure", [UsageError("too large for it"), KvboundError("a defect")])
def test_a_failure_of_annealing_keeps_the_schedule_of_pricing(
    failure: KvboundError, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = kv.read_instance("swap-2x48-c30-b64")

    @functools.wraps(annealing.solve_annealing)
    def fails(*_: Any, **__: Any) -> Any:
        raise failure

    monkeypatch.setattr(portfolio, "MOST_COLUMNS", 0)
    monkeypatch.setattr(annealing, "solve_annealing", fails)
    result = kv.solve(instance, work=50, gap=1e-9)
    assert result.method == "pricing"
    assert result.schedule is not None
    assert result.bound.status is BoundStatus.CERTIFIED
    assert result.options["anneal"] == str(failure)
