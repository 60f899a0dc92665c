"""Placements in every form: what they have in common, written, checked and read back."""

from pathlib import Path

import numpy as np
import pytest

import kvbound as kv
from kvbound.checker import check
from kvbound.errors import InputError
from kvbound.instance import Instance
from kvbound.placement import PhysicalPlacement, Placement, read_placement, write_placement
from kvbound.progress import silent
from kvbound.residency import Residency
from kvbound.schedule import Schedule
from kvbound.solvers.eviction import balanced
from tests.cost_cases import same, schedule_of


@pytest.fixture(scope="module")
def instance() -> Instance:
    return kv.read_instance("swap-1x200-c30-b450")


@pytest.fixture(scope="module")
def residency(instance: Instance) -> Residency:
    return next(balanced.schedules(instance, silent)).residency


def write(placement: Placement, path: Path, instance: Instance) -> None:
    write_placement(placement, path, instance_sha256=instance.sha256, tokens=instance.tokens)


def test_events_and_bits_are_the_same_placement(instance: Instance, residency: Residency) -> None:
    schedule, timeline = residency.to_schedule(), instance.timeline
    for placement in (schedule, residency):
        assert isinstance(placement, PhysicalPlacement)
        assert same(placement.to_schedule(), schedule)
        assert np.array_equal(placement.initial, residency.initial)
        for layer in range(instance.layers):
            assert np.array_equal(placement.tier0_rows(layer, timeline), residency.after(layer))


def test_rows_of_a_schedule_are_its_events_replayed() -> None:
    instance = kv.read_instance("native-r15-c25-b64-n64")
    schedule, steps = schedule_of(kv.simulate(instance, "lru")), instance.decode_steps
    for layer, events in enumerate(schedule.events):
        rows = np.unpackbits(schedule.tier0_rows(layer, instance.timeline), axis=1, bitorder="little")
        tier = np.full(rows.shape[1], 1)
        tier[: instance.prefill_tokens] = schedule.initial[layer]
        for step in range(steps):
            tier[events.token[events.step == step]] = events.tier[events.step == step]
            assert np.array_equal(rows[step], tier == 0)


@pytest.mark.parametrize("kind", [Schedule, Residency])
def test_what_is_written_is_accepted_and_read_back(
    instance: Instance, residency: Residency, tmp_path: Path, kind: type
) -> None:
    placement = residency if kind is Residency else residency.to_schedule()
    write(placement, tmp_path / "schedule.npz", instance)
    report = check(instance.expanded(), instance.trace.rows, tmp_path / "schedule.npz")
    assert report.problems == ()
    back = read_placement(tmp_path / "schedule.npz", instance)
    assert isinstance(back, kind)
    assert same(back.to_schedule(), placement.to_schedule())


def test_a_result_holds_its_placement_whatever_its_form(monkeypatch: pytest.MonkeyPatch) -> None:
    instance = kv.read_instance("swap-1x200-c30-b450")
    events = kv.simulate(instance, "lru")
    assert events.schedule is events.placement is not None
    monkeypatch.setattr("kvbound.residency.EVENT_LIMIT", 0)
    bits = kv.solve(instance, "pricing", time_limit=1)
    assert isinstance(bits.placement, Residency)
    assert bits.schedule is None
    study = kv.read_instance("tiny-on-read").with_rules(accounting="fang2025", granularity=1)
    assert kv.simulate(study, "page").placement is None
    logged = kv.simulate(study, "page", record=True)
    assert isinstance(logged.placement, Placement)
    assert not isinstance(logged.placement, PhysicalPlacement)
    assert logged.schedule is None
    for case, found in ((instance, events), (instance, bits), (study, logged)):
        assert kv.check(case, found).ok


def test_a_study_log_is_no_start_under_physical_accounting() -> None:
    instance = kv.read_instance("tiny-on-read")
    study = instance.with_rules(accounting="fang2025", granularity=1)
    log = kv.simulate(study, "page", record=True).placement
    with pytest.raises(InputError, match="a schedule that keeps the instance's rules"):
        kv.solve(instance, "exact", start=log)
