"""The certified bound reports its termination, and keeps what an interrupted ascent found."""

from typing import Any

import pytest

from kvbound.cost.ideal import ideal
from kvbound.errors import KvboundError
from kvbound.instance import Instance
from kvbound.instance_io import read_instance
from kvbound.result import BoundStatus, Limit, Reason, Termination
from kvbound.solvers import certify
from kvbound.solvers.certify import solve_certified


@pytest.fixture(scope="module")
def instance() -> Instance:
    return read_instance("swap-2x48-c30-b64")


def test_done(instance: Instance) -> None:
    result = solve_certified(instance)
    assert result.termination == Termination()
    assert result.bound.status is BoundStatus.CERTIFIED
    assert result.bound.time_s is not None
    assert 0.99 * 4.352e-5 < result.bound.time_s <= 4.352e-5  # the optimum


def test_out_of_time(instance: Instance) -> None:
    result = solve_certified(instance, time_limit=0.01)
    assert result.termination == Termination(Reason.LIMIT, Limit.TIME)
    assert result.bound.status is BoundStatus.CERTIFIED


def test_interrupted_while_tuning(instance: Instance) -> None:
    def interrupt(done: float, total: float, note: str = "") -> None:
        if note.startswith("tuned") and done > 0.1:
            raise KeyboardInterrupt

    result = solve_certified(instance, progress=interrupt)
    assert result.termination == Termination(Reason.INTERRUPTED)
    assert result.bound.status is BoundStatus.CERTIFIED
    assert result.bound.time_s is not None
    assert result.bound.time_s > 1.2 * ideal(instance)
    assert result.certificate is not None


def test_interrupted_while_checking(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*given: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(certify, "check", interrupt)
    result = solve_certified(instance, time_limit=0.1)
    assert result.termination == Termination(Reason.INTERRUPTED)
    assert result.bound.status is BoundStatus.CLAIMED
    assert result.certificate is not None


def test_a_rejected_certificate_is_a_defect(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    from kvbound.checker import Report

    monkeypatch.setattr(certify, "check", lambda *given: Report("", ("wrong",)))
    with pytest.raises(KvboundError, match="rejects the certificate: wrong"):
        solve_certified(instance, time_limit=0.1)
