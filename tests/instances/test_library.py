"""The library is what its scripts make, and its best known values hold."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

import kvbound as kv
from kvbound.checker import check
from kvbound.instance_io import LIBRARY, library
from kvbound.library import BestKnown, best_known
from kvbound.policies import POLICIES
from kvbound.result import Result, Status
from kvbound.solvers.registry import METHODS
from kvbound.trace import read_trace
from kvbound.workloads import Synthetic
from tests.instances.build import build

SETS = ("tiny", "small", "real", "batch", "tiers", "weights", "paper")
LEAST = 12
"""Instances per set."""
PROVED = 1e-4
"""Relative gap at which a small instance counts as solved."""
EXACT = 1e-12
"""The same computation again, on another machine."""
ROUNDED = 1e-9
"""What a certificate's whole numbers may cost."""

KNOWN = best_known()


def rows(name: str) -> list[BestKnown]:
    return [row for row in KNOWN.values() if row.set == name]


def by_name(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("row", rows(name), ids=lambda row: row.name)


# --- the files


def test_the_table_has_every_instance_and_no_other() -> None:
    assert {(row.set, row.name) for row in KNOWN.values()} == {
        (path.parent.name, name) for name, path in library().items()
    }


@pytest.mark.parametrize("name", SETS)
def test_a_set_is_large_enough_and_its_readme_tells_of_it(name: str) -> None:
    assert len(rows(name)) >= (4 if name == "weights" else LEAST)
    readme = (LIBRARY / name / "README.md").read_text()
    assert readme.startswith(f"# {name}\n")
    assert f"tests/instances/{name}.py" in readme


def test_the_scripts_write_the_library_as_it_is(tmp_path: Path) -> None:
    build(tmp_path)
    made = {path.relative_to(tmp_path) for path in tmp_path.glob("*/*")}
    shipped = {path.relative_to(LIBRARY) for name in SETS for path in (LIBRARY / name).iterdir()}
    readmes_and_schedules = {path for path in shipped if path.suffix in (".md", ".npz")}
    assert made == shipped - readmes_and_schedules
    for file in made:
        if file.suffix == ".json":
            assert (tmp_path / file).read_bytes() == (LIBRARY / file).read_bytes()
        else:
            same_trace(tmp_path / file, LIBRARY / file)


def same_trace(one: Path, other: Path) -> None:
    """The same up to what another BLAS may round otherwise: reads of almost equal attention, last bits."""
    a, b = read_trace(one), read_trace(other)
    assert (a.source, a.licence, a.rows[0].shape) == (b.source, b.licence, b.rows[0].shape)
    assert a.timeline.to_mapping() == b.timeline.to_mapping()
    assert np.array_equal(a.counts(), b.counts())
    for layer in range(a.layers):
        differing = int(np.bitwise_count(a.words(layer) ^ b.words(layer)).sum())
        assert differing <= 1e-4 * a.counts()[:, layer].sum()
        if not differing:
            mass = a.mass[layer], b.mass[layer]
            assert (mass[0] is None) == (mass[1] is None)
            if mass[0] is not None and mass[1] is not None:
                assert np.allclose(mass[0], mass[1], rtol=2e-3, atol=1e-7)


def test_recorded_traces_name_their_origin_and_licence() -> None:
    for folder in LIBRARY.glob("*/*.trace"):
        trace = read_trace(folder)
        assert "stories260K" in trace.source
        assert "MIT" in trace.licence
        assert "Apache-2.0" in trace.licence


def test_weights_read_are_in_the_stated_proportion() -> None:
    for name, path in library().items():
        if path.parent.name in ("small", "real"):
            instance = kv.read_instance(name)
            ratio = instance.llm.weight_reads.mean() / (instance.read_counts() * instance.item_bytes).mean()
            assert (instance.llm.weight_bytes, ratio) == (0, pytest.approx(0.68, rel=1e-4))


# --- the values


@by_name("tiny")
def test_tiny_optima_by_enumeration(row: BestKnown) -> None:
    result = kv.solve(kv.read_instance(row.name), "brute")
    assert result.time_s == pytest.approx(row.time_s, rel=EXACT)
    assert (row.bound_s, row.status) == (row.time_s, "optimal")


@pytest.mark.parametrize("room", range(5))
def test_more_room_can_be_slower_where_the_fill_is_forced(room: int) -> None:
    assert KNOWN[f"tiny-fill-{room}"].time_s == (12, 9, 6, 9, 12)[room]


@by_name("tiny")
def test_the_exact_model_agrees_with_enumeration(row: BestKnown) -> None:
    result = kv.solve(kv.read_instance(row.name), "exact", gap=0.0)
    assert result.status is Status.OPTIMAL
    assert result.time_s == pytest.approx(row.time_s, rel=1e-6)


@by_name("small")
def test_small_schedules_are_proved_optimal(row: BestKnown) -> None:
    accepted(row)
    assert row.status == "optimal"
    assert row.bound_s is not None
    assert row.time_s - row.bound_s <= PROVED * row.time_s


def accepted(row: BestKnown) -> None:
    """Have the independent checker replay the schedule that is beside the instance."""
    instance = kv.read_instance(row.name)
    rows_of = instance.token_trace.arrays
    report = check(instance.expanded(), rows_of, schedule_file(row), claimed_s=row.time_s)
    assert report.ok, report.problems


def certificate_file(row: BestKnown) -> Path:
    return LIBRARY / row.set / f"{row.name}.certificate.npz"


def schedule_file(row: BestKnown) -> Path:
    return LIBRARY / row.set / f"{row.name}.schedule.npz"


def test_every_schedule_and_certificate_has_its_row() -> None:
    files = {path.relative_to(LIBRARY) for path in LIBRARY.glob("*/*.npz")}
    schedules = {schedule_file(row) for row in KNOWN.values() if row.method in METHODS and row.set != "tiny"}
    certificates = {certificate_file(row) for row in KNOWN.values() if row.bound_by == "dual"}
    assert files == {path.relative_to(LIBRARY) for path in schedules | certificates}


QUICK = (
    "native-r10-c10-b64-n24",
    "native-r15-c25-b64-n16",
    "swap-1x200-c53-b64",
    "swap-2x48-c30-b64",
    "three-1x24",
)


@by_name("small")
@pytest.mark.slow
def test_small_optima_are_proved_again(row: BestKnown) -> None:
    prove(row)


@pytest.mark.parametrize("name", QUICK)
def test_some_small_optima_are_proved_again(name: str) -> None:
    prove(KNOWN[name])


def prove(row: BestKnown) -> None:
    result = again(row)
    assert result.status is Status.OPTIMAL
    assert result.bound.time_s is not None
    assert row.bound_s is not None
    assert result.bound.time_s <= row.time_s * (1 + EXACT)
    assert result.time_s == pytest.approx(row.time_s, rel=PROVED)


SOLVED = [*rows("real"), *rows("batch"), *rows("weights")]
recorded = pytest.mark.parametrize("row", [*SOLVED, *rows("tiers")], ids=lambda row: row.name)


@recorded
def test_real_schedules_take_the_time_stated(row: BestKnown) -> None:
    instance = kv.read_instance(row.name)
    if row.method in METHODS:
        accepted(row)
    else:
        assert kv.simulate(instance, row.method).time_s == pytest.approx(row.time_s, rel=EXACT)
    assert row.bound_s is not None
    assert kv.ideal(instance) * (1 - ROUNDED) <= row.bound_s <= row.time_s * (1 + EXACT)


@pytest.mark.parametrize("row", SOLVED, ids=lambda row: row.name)
def test_real_gaps_are_small(row: BestKnown) -> None:
    assert row.bound_s is not None
    assert row.time_s - row.bound_s <= 0.01 * row.time_s


def test_most_gaps_of_hierarchies_are_small() -> None:
    gaps = [1 - row.bound_s / row.time_s for row in rows("tiers") if row.bound_s]
    assert len(gaps) >= 16
    assert np.median(gaps) < 0.006
    assert max(gaps) < 0.02


@recorded
def test_certificates_prove_their_bound(row: BestKnown) -> None:
    if row.bound_by == "dual":
        instance = kv.read_instance(row.name)
        rows_of = instance.token_trace.arrays
        report = check(instance.expanded(), rows_of, certificate_file(row), claimed_s=row.bound_s)
        assert report.ok, report.problems
    else:
        assert row.bound_by in ("exact", "relax", "ideal")


@recorded
def test_no_policy_beats_a_best_known_value(row: BestKnown) -> None:
    instance = kv.read_instance(row.name)
    for policy in ("belady", "sa-guided", "lru"):
        time = kv.simulate(instance, policy).time_s
        assert time is not None
        assert time >= row.time_s * (1 - EXACT)


def test_where_placement_provably_does_not_matter_all_policies_are_within_a_percent() -> None:
    instance = kv.read_instance("b2-70b-gh200-c10")
    for policy in POLICIES:
        assert (kv.simulate(instance, policy).time_s or math.inf) <= 1.01 * kv.ideal(instance)


@pytest.mark.parametrize(
    "row", [row for row in rows("paper") if row.method == "best"], ids=lambda row: row.name
)
def test_the_studys_best_needs_no_trace(row: BestKnown, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a trace of 1.7 GB is made")

    monkeypatch.setattr("kvbound.workloads.make", refuse)
    instance = kv.read_instance(row.name)
    assert isinstance(instance.workload, Synthetic)
    assert kv.simulate(instance, "best").time_s == pytest.approx(row.time_s, rel=EXACT)
    assert (row.bound_s, row.status) == (None, "unknown")


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("paper-low", 24.59210623),
        ("paper-actual-lengths", 24.59591295),
        ("paper-high", 24.61097011),
        ("paper-sparsity-40", 31.90528498),
        ("paper-sparsity-50", 28.25044844),
    ],
)
def test_published_totals_come_out_to_every_digit(name: str, published: float) -> None:
    assert round(KNOWN[name].time_s, 8) == published


def again(row: BestKnown) -> Result:
    """Run the row's own command: its method and options."""
    words = row.command.split()
    assert words[:3] == ["kvbound", "solve", row.name]
    options = dict(zip(words[3::2], words[4::2], strict=True))
    limit = float(options.get("--time-limit", math.inf))
    return kv.solve(kv.read_instance(row.name), options["--method"], time_limit=limit)
