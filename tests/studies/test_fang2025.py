import csv
import dataclasses
from pathlib import Path

import pytest

from kvbound.fang2025 import Setting
from kvbound.instance_io import read_instance
from kvbound.solvers.portfolio import solve
from kvbound.studies.fang2025 import PAPER, PUBLISHED, SCALES, STUDY, TABLES, Cell, headline, notes, published

FULL, QUICK = SCALES["full"], SCALES["quick"]
ALL = [cell for cell in STUDY.cells() if isinstance(cell, Cell)]


def test_cells_have_unique_names() -> None:
    assert len(set(ALL)) == len(ALL) == len({cell.name for cell in ALL})
    assert set(ALL) == {cell for group in TABLES.values() for cell in group}
    assert list(STUDY.cells("capacity")) == list(TABLES["capacity"])


def test_cells_cover_every_factor() -> None:
    seen = {field.name: {getattr(cell, field.name) for cell in ALL} for field in dataclasses.fields(Cell)}
    assert seen == {
        "variation": {"low", "actual-like", "high"},
        "sparsity": {40, 50, 60, 80, 85, 90, 95},
        "hbm": {18, 20, 22, 23, 25},
        "link": {64, 128, 300, 450},
        "layers": {12, 32},
        "block": {1, 16},
        "migration": {"on-read", "prefetch"},
    }
    assert {Cell("high", hbm=25, link=64), Cell("high", hbm=18)} <= set(ALL)
    assert all(cell.hbm == 25 for cell in ALL if cell.link in (64, 300))
    assert Cell("low", 60, 23, 450, 32, 1, "on-read") == PAPER


def test_published_numbers_belong_to_cells() -> None:
    assert set(PUBLISHED) <= {cell.name for cell in ALL}
    assert published("paper")["static / sa-guided"] == pytest.approx(6.63, abs=0.005)
    assert published("actual-like")["static / best"] == pytest.approx(5.69, abs=0.005)
    assert published("high")["sa-guided / best"] == pytest.approx(2.13, abs=0.005)
    assert published("sparsity-40") == {"best": 31.90528498, "static / best": 5.95}
    assert published("hbm-18") == {}


@pytest.mark.parametrize(
    ("cell", "name"),
    [
        (PAPER, "paper-low"),
        (Cell("high"), "paper-high"),
        (Cell(sparsity=85), "paper-sparsity-85"),
        (Cell(hbm=18), "paper-hbm-18"),
        (Cell(hbm=25, link=300), "paper-nvlink3"),
        (Cell(hbm=25, link=64), "paper-pcie6"),
    ],
)
def test_at_full_size_it_is_the_librarys_instance(cell: Cell, name: str) -> None:
    ours, theirs = cell.instance(FULL), read_instance(name)
    assert ours.workload == theirs.workload
    assert ours.rules == theirs.rules
    assert Setting.from_instance(dataclasses.replace(ours, name=name)) == Setting.from_instance(theirs)


@pytest.mark.parametrize("cell", [cell for cell in ALL if cell.name in PUBLISHED], ids=lambda cell: cell.name)
def test_best_matches_all_published_digits(cell: Cell) -> None:
    assert solve(cell.instance(FULL), "best").time_s == pytest.approx(PUBLISHED[cell.name]["best"], abs=5e-9)


@pytest.mark.parametrize("cell", ALL, ids=lambda cell: cell.name)
def test_scaling_keeps_the_ratios(cell: Cell) -> None:
    full, quick = cell.instance(FULL), cell.instance(QUICK)
    for part in ("prefill_tokens", "decode_steps"):
        assert getattr(quick, part) == pytest.approx(getattr(full, part) / QUICK.tokens, abs=0.5)
    assert quick.uniform
    assert quick.unit_sizes == full.unit_sizes
    assert quick.memory.resources == full.memory.resources
    assert quick.llm.weight_reads[0] * QUICK.tokens == full.llm.weight_reads[0]
    rooms = [(each.capacity_units[0] or 0) / each.layers / each.prefill_tokens for each in (full, quick)]
    assert rooms[1] == pytest.approx(rooms[0], rel=0.02 if cell.block == 1 else 0.1)
    per_slot = [each.read_counts().mean() / each.prefill_tokens for each in (full, quick)]
    assert per_slot[1] == pytest.approx(per_slot[0], rel=0.02)


def test_ideal_over_weights_is_the_same_at_both_scales() -> None:
    times = [solve(PAPER.instance(scale), "best").time_s or 0.0 for scale in (FULL, QUICK)]
    assert times[0] / times[1] == pytest.approx(QUICK.tokens**2 * QUICK.layers, rel=0.005)


def test_fewer_layers_have_the_same_capacity_each() -> None:
    twelve, all_layers = Cell(layers=12).instance(FULL), PAPER.instance(FULL)
    assert (twelve.capacity_units[0] or 0) / 12 == pytest.approx(
        (all_layers.capacity_units[0] or 0) / 32, abs=1
    )


def test_headline() -> None:
    def record(cell: str, link: int, found: float, bound: float | None) -> dict[str, object]:
        return {
            "cell": cell,
            "factors": {"link": link},
            "static_over_best_found": found,
            "static_over_bound": bound,
        }

    found = headline([record("a", 450, 2, 3), record("b", 64, 4, 5), record("c", 450, 9, None)])
    assert found["best_found_at_450"] == {"cell": "a", "ratio": 2}
    assert found["bound"] == {"cell": "b", "ratio": 5}
    assert headline([])["bound"] is None


def test_notes_say_what_does_not_scale() -> None:
    assert "not public" in " ".join(notes(FULL))
    assert "64" in notes(QUICK)[-1]
    assert len(notes(QUICK)) > len(notes(FULL))


def test_stored_full_size_results_are_consistent() -> None:
    """Output of `tests.benchmarks.bench_full`: no bound above its schedule, and the published ideals."""
    docs = Path(__file__).parents[2] / "docs"
    page = (docs / "fang2025.md").read_text(encoding="utf-8")
    with (docs / "fang2025_full.csv").open(newline="") as file:
        kept = list(csv.DictReader(file))
    assert len(kept) >= 6
    for row in kept:
        ideal, bound, schedule = (float(row[f"{name}_s"]) for name in ("ideal", "bound", "schedule"))
        assert ideal * (1 - 1e-9) <= bound <= schedule
        assert float(row["gap"]) == pytest.approx((schedule - bound) / schedule, abs=6e-6)
        assert row["cell"] in {cell.name for cell in ALL}
        shown = [cell.strip() for cell in page.split(f"| {row['cell']} ")[-1].split("\n")[0].split("|")]
        assert shown[1:4] == [f"{seconds:.2f}" for seconds in (schedule, bound, ideal)]
        if theirs := published(row["cell"]).get("best"):
            assert ideal == pytest.approx(theirs, abs=5e-9)
