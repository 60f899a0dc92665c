"""`kvbound.bound`, and `kvbound.check` on objects and files."""

from pathlib import Path

import numpy as np
import pytest

import kvbound as kv
from kvbound.certificate import write_certificate
from kvbound.errors import InfeasibleError, InputError, UsageError
from kvbound.placement import write_placement
from kvbound.residency import Residency
from kvbound.schedule import Schedule
from tests.cost_cases import toy
from tests.instance_documents import llm

PUBLISHED = {"copies": "inclusive", "accounting": "fang2025"}


def test_a_bound_comes_with_its_proof(tmp_path: Path) -> None:
    bound = kv.bound(toy(), time_limit=1)
    assert (bound.status, bound.method) == ("certified", "dual")
    assert bound.time_s is not None
    assert bound.certificate is not None
    assert bound.time_s <= (kv.solve(toy(), "exact").time_s or 0.0)
    write_certificate(bound.certificate, tmp_path / "c.npz")
    for what in (bound, bound.certificate, tmp_path / "c.npz", str(tmp_path / "c.npz")):
        report = kv.check(toy(), what)
        assert report.ok
        assert report.bound_s == pytest.approx(bound.time_s)
    assert not kv.check(toy(), bound, claimed_s=bound.time_s * 1.01).ok
    assert not kv.check(toy(capacity=2), bound).ok


def test_an_infeasible_instance_has_no_bound() -> None:
    with pytest.raises(InfeasibleError, match="weights"):
        kv.bound(toy(llm=llm(weights=4)))


def test_schedules_are_replayed(tmp_path: Path) -> None:
    result = kv.simulate(toy(), "lru")
    assert result.schedule is not None
    place = tmp_path / "s.npz"
    write_placement(result.schedule, place, instance_sha256=toy().sha256, tokens=5)
    for what in (result, result.schedule, place):
        report = kv.check(toy(), what)
        assert report.ok
        assert report.time_s == pytest.approx(result.time_s)
    assert not kv.check(toy(), result, claimed_s=1.0).ok
    full = Schedule(np.zeros((1, 3), np.uint8), result.schedule.events)
    assert not kv.check(toy(capacity=1), full).ok
    assert "step_times_s" not in repr(kv.check(toy(), result))  # as long as the run


def test_residencies_are_replayed() -> None:
    instance = toy()
    residency = Residency(instance.timelines)
    residency.initial = np.ones((1, 3), np.uint8)
    residency.put(0, np.zeros_like(instance.trace.rows[0]))
    assert kv.check(instance, residency).ok
    assert "1 layers" in repr(residency)


def test_of_a_result_without_schedule_the_certificate_is_checked() -> None:
    assert kv.check(toy(), kv.solve(toy(), "dual", time_limit=1)).bound_s is not None


def test_there_has_to_be_something_to_check(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="this result has neither a schedule nor a certificate"):
        kv.check(toy(), kv.simulate(toy(), "ideal"))
    with pytest.raises(UsageError, match="this bound has neither"):
        kv.check(toy(), kv.simulate(toy(), "ideal").bound)
    with pytest.raises(UsageError, match=r"expected a schedule, .* result or file to check, not 3"):
        kv.check(toy(), 3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="expected a schedule or certificate file"):
        kv.check(toy(), tmp_path / "none.npz")
