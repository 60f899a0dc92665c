"""The checker's energies agree with the cost model's, and it names every false claim about them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import kvbound as kv
from kvbound.checker import Malformed, Report, check, check_result
from kvbound.checker.energy import read_energies
from kvbound.cost.evaluate import evaluate
from kvbound.cost.traffic import schedule_traffic
from kvbound.instance import Instance
from kvbound.result import Result, Status
from kvbound.schedule import Schedule
from tests.cost.test_energy import any_instance, any_schedule
from tests.dense_cases import dense_instance, feasible
from tests.energy_cases import with_any_energy, with_energy
from tests.strategies import tiny_instance, with_placeable_weights

PARTS = ("weights", "kv", "moves")


def problems(instance: Instance, document: object, schedule: Report | None) -> tuple[str, ...]:
    rows, labels = instance.token_trace.arrays, instance.workload.timeline.sequence
    return check_result(instance.expanded(), rows, document, labels=labels, schedule=schedule).problems


def result_of(instance: Instance, schedule: Schedule) -> Result:
    like = kv.simulate(instance, "lru")
    return replace(like, status=Status.FEASIBLE, measures=evaluate(instance, schedule), placement=schedule)


def unique(instance: Instance) -> bool:
    """Whether the checker knows the split of reads of the fastest slots."""
    latencies = any(tier.latency for tier in instance.memory.tiers)
    return not instance.inclusive or (instance.tiers == 2 and not latencies)


@pytest.mark.parametrize("seed", range(150))
def test_any_schedule_takes_as_much_energy_in_the_checker(seed: int) -> None:
    rng = np.random.default_rng(seed)
    instance = with_any_energy(rng, any_instance(rng), unknown=0.15 * (seed % 3 == 0))
    schedule = any_schedule(rng, instance)
    report = kv.check(instance, schedule)
    assert report.problems == ()
    result = result_of(instance, schedule)
    assert result.measures is not None
    claim = result.measures.energy_j
    if claim is None:
        assert report.energy is None or not unique(instance)
        return
    assert report.energy is not None
    total = sum(claim[part] or 0.0 for part in PARTS)
    for part, (least, most) in report.energy.parts.items():
        assert least - 1e-9 * total <= (claim[part] or 0.0) <= most + 1e-9 * total
    assert (report.energy.transfers is not None) == unique(instance)
    if report.energy.transfers is not None:
        assert report.energy.transfers == pytest.approx(total, rel=1e-9)
    document = result.to_json()
    assert problems(instance, document, report) == ()
    found = problems(instance, document | {"energy_j": None}, report)  # early results have none
    expected = [] if result.energy_per_token_j is None else ["energy_per_token_j"]
    assert [problem.split(" is ")[0] for problem in found] == expected


@pytest.mark.parametrize("seed", range(60))
def test_nothing_is_known_without_energies(seed: int) -> None:
    rng = np.random.default_rng(seed)
    instance = any_instance(rng)
    schedule = any_schedule(rng, instance)
    report = kv.check(instance, schedule)
    traffic = schedule_traffic(instance, schedule).traffic
    if report.energy is None:
        return
    assert report.energy.transfers in (0, None)
    read, extra, written = np.split(traffic.sum(axis=(0, 1)), 3)
    loads = (read + extra) @ instance.memory.read_load + written @ instance.memory.write_load
    assert not loads.any()


@pytest.mark.parametrize("seed", range(30))
def test_dense_reads_and_residencies(seed: int) -> None:
    rng = np.random.default_rng(seed)
    instance = with_any_energy(rng, dense_instance(rng, weights=True))
    if not feasible(instance):
        return
    result = kv.simulate(instance, "static")
    if result.placement is None:
        return
    assert problems(instance, result.to_json(), kv.check(instance, result)) == ()


@pytest.mark.parametrize("seed", range(20))
def test_bits_have_the_energy_of_events(seed: int) -> None:
    from kvbound.bitsets.two_tier import TwoTierSchedule

    rng = np.random.default_rng(seed)
    made = tiny_instance(rng, tiers=2, copies="inclusive", granularity=1, batch=bool(rng.integers(2)))
    instance = with_any_energy(rng, made)
    result = kv.simulate(instance, "lru")
    if result.schedule is None:
        return
    counted = TwoTierSchedule.replayed(instance, result.schedule)
    sha256, tokens = instance.sha256, instance.tokens
    arrays = counted.residency.arrays(instance_sha256=sha256, tokens=tokens)
    report = check(instance.expanded(), instance.token_trace.arrays, arrays)
    assert report.energy == kv.check(instance, result).energy
    assert problems(instance, result.to_json(), report) == ()


@pytest.fixture(scope="module")
def case() -> tuple[Instance, dict[str, Any], Report]:
    instance = kv.read_instance("swap-2x48-c30-b64", overrides={"rules.migration": "prefetch"})
    rng = np.random.default_rng(1)
    instance = with_any_energy(rng, instance)
    result = kv.simulate(instance, "lookahead-one")
    return instance, result.to_json(), kv.check(instance, result)


@pytest.mark.parametrize("factor", [0.999, 1.001])
@pytest.mark.parametrize("part", [*PARTS, "compute", "static"])
def test_a_changed_part_is_named(case: Any, part: str, factor: float) -> None:
    instance, document, report = case
    assert problems(instance, document, report) == ()
    changed = copy.deepcopy(document)
    changed["energy_j"][part] *= factor
    total = sum(changed["energy_j"].values())
    changed["energy_per_token_j"] = total / instance.decode_steps
    assert document["energy_j"][part] > 0
    found = problems(instance, changed, report)
    assert found[0].startswith(f"energy_j.{part} is claimed to be ")


def test_energy_moved_from_one_part_to_another_is_named(case: Any) -> None:
    instance, document, report = case
    energy = dict(document["energy_j"])
    energy["weights"], energy["kv"] = energy["weights"] * 0.99, energy["kv"] + energy["weights"] * 0.01
    found = problems(instance, document | {"energy_j": energy}, report)
    assert [problem.split(" is ")[0] for problem in found] == ["energy_j.weights", "energy_j.kv"]


def test_the_energy_per_token_follows_from_the_parts(case: Any) -> None:
    instance, document, report = case
    for wrong in (document["energy_per_token_j"] * 1.001, None):
        (found,) = problems(instance, document | {"energy_per_token_j": wrong}, report)
        assert found.startswith("energy_per_token_j is claimed to be ")
    early = {key: value for key, value in document.items() if key != "energy_per_token_j"}
    assert problems(instance, early, report) == ()


def test_an_energy_that_nobody_knows_is_refused(case: Any) -> None:
    instance, document, _ = case
    for names in ([], list(instance.memory.resources)[1:]):
        plain = with_energy(instance, dict.fromkeys(names, 1.0))
        report = kv.check(plain, kv.simulate(plain, "lookahead-one"))
        assert report.energy is None
        (found,) = problems(plain, document, report)
        assert found == "energy_j is given, but the energy of what the schedule transfers is unknown"


def test_other_energies_are_refused(case: Any) -> None:
    instance, document, _ = case
    other = with_energy(instance, dict.fromkeys(instance.memory.resources, 1.0))
    assert other.sha256 == instance.sha256
    found = problems(other, document, kv.check(other, kv.simulate(other, "lookahead-one")))
    assert {problem.split(" ")[0] for problem in found} >= {"energy_j.weights", "energy_j.kv"}


def test_energies_without_a_schedule_are_refused(case: Any) -> None:
    instance, document, _ = case
    assert "energy_j is given, but there is no schedule" in problems(instance, document, None)


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"weights": 1.0, "kv": 1.0, "moves": 0.0},
        {"weights": 1.0, "kv": None, "moves": 0.0, "compute": None},
        {"weights": 1.0, "kv": -1.0, "moves": 0.0, "compute": None},
        {"weights": 1.0, "kv": 1.0, "moves": 0.0, "compute": None, "static": None},
        {"weights": 1.0, "kv": 1.0, "moves": 0.0, "compute": None, "more": 1.0},
        {"weights": 1.0, "kv": float("nan"), "moves": 0.0, "compute": None},
        3.0,
    ],
)
def test_what_is_no_table_of_energies_is_malformed(case: Any, wrong: Any) -> None:
    instance, document, report = case
    with pytest.raises(Malformed) as refused:
        problems(instance, document | {"energy_j": wrong}, report)
    assert refused.value.field == "energy_j"


@pytest.mark.parametrize(
    ("table", "fields"),
    [
        ("memory", {"energy": {"another": {}}}),
        ("memory", {"energy": {"hbm": {"device": {"mid": -1}}}}),
        ("memory", {"energy": {"hbm": {"device": {"mid": "1"}}}}),
        ("memory", {"energy": []}),
        ("memory", {"mac_energy": {"device": {"mid": float("inf")}}}),
        ("memory", {"static_watts": -1}),
        ("memory", {"static_watts": True}),
        ("llm", {"parameters": 1.5}),
        ("llm", {"parameters": -1}),
    ],
)
def test_malformed_energies_of_an_instance_are_named(
    case: Any, table: str, fields: Mapping[str, Any]
) -> None:
    instance = case[0]
    expanded = instance.expanded()
    expanded[table] = expanded[table] | fields
    report = check(expanded, instance.token_trace.arrays, {"schema": "kvbound.schedule/1"})
    assert len(report.problems) == 1
    assert report.problems[0].startswith("the expanded instance is malformed")


def test_a_token_does_not_use_all_experts(case: Any) -> None:
    expanded = case[0].expanded()
    assert read_energies(expanded).per_output == pytest.approx(1.5e-12 * expanded["llm"]["parameters"])
    for experts in (8, [0, 8]):
        expanded["llm"]["experts"] = experts
        assert read_energies(expanded).per_output is None


def test_the_hash_leaves_energies_out(case: Any) -> None:
    instance, _, report = case
    assert report.instance_sha256 == instance.sha256
    plain = kv.read_instance("swap-2x48-c30-b64", overrides={"rules.migration": "prefetch"})
    assert plain.sha256 == instance.sha256


@pytest.mark.parametrize("seed", range(12))
def test_weights_that_either_copy_may_serve_are_verified_together_with_kv(seed: int) -> None:
    rng = np.random.default_rng(seed)
    made = tiny_instance(rng, tiers=2, copies="inclusive", timing="parallel", initial="free")
    instance = with_any_energy(rng, with_placeable_weights(rng, made))
    result = kv.solve(instance, "exact", gap=1e-7)
    report = kv.check(instance, result)
    document = result.to_json() | {"bound": {"time_s": None, "status": "none", "method": None}}
    document |= {"status": "feasible", "gap": None, "share_of_bound": None, "tokens_per_s_bound": None}
    assert problems(instance, document, report) == ()
    energy = document["energy_j"]
    more = energy | {"kv": energy["kv"] * 1.001 + energy["weights"] * 0.001}
    changed = document | {"energy_j": more, "energy_per_token_j": sum(more.values()) / instance.decode_steps}
    assert bool(problems(instance, changed, report)) == (more["kv"] > energy["kv"])
