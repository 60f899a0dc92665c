"""What `solve` does without a method: nothing that fails costs what is in hand."""

from __future__ import annotations

import functools
from typing import Any

import pytest

import kvbound as kv
from kvbound.errors import KvboundError, UsageError
from kvbound.result import BoundStatus
from kvbound.solvers import portfolio
from kvbound.solvers.annealing import solve as annealing


@pytest.mark.parametrize("failure", [UsageError("too large for it"), KvboundError("a defect")])
def test_a_refusal_of_annealing_keeps_the_schedule_of_pricing(
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
