"""Every figure of the study to the digits that it gives, and its cells."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kvbound.report import study_plots
from kvbound.report.sections import Figure, Section
from kvbound.solvers.portfolio import solve
from kvbound.studies import Scale, load_study
from kvbound.studies.folder import check_folder, report, write_report
from kvbound.studies.record import Settings, compare_published
from kvbound.studies.runs import run_cells
from kvbound.studies.tiered2026 import STUDY, claims, figures, sweeps
from kvbound.studies.tiered2026.cells import INSIDE, OTHER, RUN, SCALES, SMALL, Cell, entries
from kvbound.studies.tiered2026.published import LLAMA, MODELS, RUNS
from kvbound.tiered2026 import spill_all

TINY = Settings(STUDY, Scale("tiny", 512, 32, 1.0), 0, 0.5)
CELLS = [cell for cell in STUDY.cells() if isinstance(cell, Cell)]


def digits(value: float) -> int:
    """Decimal places of a published number."""
    text = repr(value)
    return len(text.partition(".")[2]) if "e" not in text and text.partition(".")[2] != "0" else 0


def known(section: Section) -> list[Figure]:
    return [figure for figure in section.figures if figure.published is not None]


@pytest.mark.parametrize("make", [figures.runs, figures.bytes_per_token, figures.predictions])
def test_published_figures_to_every_digit(make: Any) -> None:
    rows = known(make())
    assert len(rows) >= 7
    for row in rows:
        assert row.published is not None
        assert row.ours == pytest.approx(row.published, rel=0, abs=0.51 * 10.0 ** -digits(row.published)), row


def test_the_last_step() -> None:
    rows = {figure.what: figure for figure in sweeps.last_step().figures}
    for row in rows.values():
        if row.published is not None:
            assert row.ours == pytest.approx(row.published, rel=5e-4)
    for where in ("outside", "inside"):
        least, filled = (
            rows[f"{what}, weights {where}, ms"].ours for what in ("no placement takes less", "HBM first")
        )
        assert least is not None
        assert filled is not None
        assert least < filled < (rows["spill-all, ms"].ours or 0)


def test_contexts_land_where_the_study_says() -> None:
    [table] = figures.contexts().tables
    rows = {row[0]: list(row[1:]) for row in table.rows}
    assert rows["llama-2-7b, 16"] == ["hbm"] * 5 + ["dram", "far", "-"]
    assert rows["llama-2-7b, 8"] == ["hbm"] * 6 + ["far"] * 2
    assert rows["llama-2-7b, 4"] == ["hbm"] * 6 + ["dram", "far"]
    assert rows["smollm2-135m, 16"] == ["sram"] + ["hbm"] * 6 + ["dram"]


def test_measured_speeds_are_below_the_bound() -> None:
    [table] = figures.measured().tables
    assert len(table.rows) == 6
    for _, _, _, share, _ in table.rows:
        assert 0 < float(share.removesuffix(" %")) < 100
    llama = next(row for row in table.rows if row[0] == "a100-40, llama-2-7b")
    assert llama[-1] == "42.0 %"


def test_claims() -> None:
    rows = {figure.what: figure for figure in claims.claims().figures}
    assert all(row.verdict for row in rows.values())
    assert rows["longest step of Llama-2-7B, adaptive, %"].ours == pytest.approx(-46.81820639, abs=5e-9)
    assert rows["q4_0 saves of the KV, %"].ours == pytest.approx(71.9, abs=0.05)
    assert rows["4 bits save of the KV, %"].ours == 75
    assert rows["window of 512 saves of all bytes, %"].ours == pytest.approx(30, abs=0.5)
    assert rows["T4 to A100, bandwidth"].ours == pytest.approx(4.86, abs=0.005)
    assert rows["share of the A100's bandwidth, Llama-2-7B, %"].ours == pytest.approx(42, abs=0.5)
    assert (rows["over 700x: a byte from far / an operation"].ours or 0) < 700
    for name in MODELS:
        for what in ("layers", "KV per token, bytes"):
            assert rows[f"{name}: {what}"].verdict == "agrees"


def test_energy_shares_add_up() -> None:
    [table] = figures.energy().tables
    for row in table.rows:
        assert sum(float(share.removesuffix(" %")) for share in row[5:8]) == pytest.approx(100, abs=0.2)


def test_longer_contexts_and_more_users() -> None:
    contexts, users = sweeps.longer().tables
    for table in (contexts, users):
        for row in table.rows:
            spilled, first, most, first_inside, most_inside = (int(x.replace(",", "")) for x in row[1:])
            assert spilled <= most
            assert first <= most
            assert first_inside <= most_inside <= most
    assert sweeps.most(lambda n: n / 10, 2.05) == 20
    assert sweeps.most(lambda n: math.inf, 1) == 0


def test_the_bound_of_a_step_is_below_the_studys_time() -> None:
    run = RUNS[LLAMA.name].run(LLAMA)
    times, memory = spill_all(run), sweeps._memory("outside")
    for step in (1, 1000, 65_408, 65_409, 65_664):
        least = sweeps.least_s(memory, LLAMA.llm, int(run.tokens[step - 1]) - 1)
        assert least <= times[step - 1] * (1 + 1e-12)


def test_cells_have_unique_names_and_scale() -> None:
    assert len({cell.name for cell in CELLS}) == len(set(CELLS)) == 5
    assert RUN.name == "llama-2-7b"
    for cell in CELLS:
        full, quick = (cell.instance(SCALES[name]) for name in ("full", "quick"))
        assert full.layers == MODELS[cell.model].layers
        assert full.tokens == cell.context
        assert full.unit_sizes == quick.unit_sizes
        rooms = [(each.capacity_units[0] or 0) / each.layers / each.tokens for each in (full, quick)]
        assert rooms[1] == pytest.approx(rooms[0], rel=0.02)


def test_published_seconds_at_full_size() -> None:
    for cell in (RUN, SMALL):
        lines = compare_published(cell, Settings(STUDY, SCALES["full"]), dict(entries(cell, SCALES["full"])))
        assert {line["what"] for line in lines} == {"spill-all", "adaptive-spread"}
        assert all(abs(line["deviation"]) < 1e-12 for line in lines)
        assert compare_published(cell, TINY, dict(entries(cell, TINY.scale))) == []


@pytest.mark.parametrize(
    "cell",
    [INSIDE, OTHER, *(pytest.param(cell, marks=pytest.mark.slow) for cell in (RUN, SMALL))],
    ids=lambda cell: cell.name,
)
def test_gap_within_one_percent(cell: Cell) -> None:
    instance = cell.instance(SCALES["quick"])
    bound, found = solve(instance, "dual", work=3000).bound, solve(instance, "pricing", time_limit=1)
    assert str(bound.status) == "certified"
    assert bound.time_s is not None
    assert found.time_s is not None
    assert bound.time_s <= found.time_s
    assert (found.time_s - bound.time_s) / found.time_s <= 0.01
    filled = entries(cell, SCALES["quick"])["fill-first"]["time_s"]
    assert bound.time_s <= filled * (1 + 0.01)  # own writes, of one token in 1,000, are not in it


def test_the_study_runs_and_its_folder_is_checked(tmp_path: Path) -> None:
    assert load_study("tiered2026") is STUDY
    tables = ["claims", "contexts", "weights"]
    cells = [cell for name in tables for cell in STUDY.tables[name]]
    records = {record["cell"]: record for record in run_cells(cells, TINY, tmp_path)}
    assert set(records[RUN.name]["tiered2026"]) == {"spill-all", "adaptive-spread", "fill-first"}
    assert set(records[RUN.name]["physical"]) == {"static", "pricing"}
    settings = Settings(STUDY, SCALES["quick"], 0, 0.5)
    made = report(tables, {}, settings)
    assert "## claims" in made.markdown
    assert "(x fill-first)" not in made.markdown
    assert set(made.document["sections"]) == {"claims", "contexts"}
    json.dumps(made.document, allow_nan=False)
    made = report(tables, records, TINY)
    assert "(x fill-first)" in made.markdown
    assert f"{RUN.name}: the study's spill-all takes" in made.markdown
    assert list(run_cells(cells, TINY, tmp_path)) == list(records.values())


def test_a_report_without_cells_is_checked(tmp_path: Path) -> None:
    settings = Settings(STUDY, SCALES["quick"], 0, 4.0)
    write_report(report(["claims", "longer"], {}, settings), tmp_path)
    assert not any(check_folder(tmp_path).values())
    text = (tmp_path / "tables.md").read_text()
    (tmp_path / "tables.md").write_text(text.replace("71.9", "75"))
    assert check_folder(tmp_path)[tmp_path / "tables.md"]


def test_curves(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    curves = figures.runs().curves
    assert curves is not None
    assert set(curves.lines) >= {"spill-all", "adaptive-spread", "least, weights inside"}
    for x, y in curves.lines.values():
        assert len(x) == len(y)
        assert (np.diff(x) > 0).all()
    assert max(curves.lines["spill-all"][1]) == pytest.approx(1011.8218808)
    study_plots.draw_curves("policies", curves, tmp_path)
    assert b"adaptive-spread" in (tmp_path / "policies.svg").read_bytes()


def test_notes_and_headline() -> None:
    assert len(STUDY.notes(SCALES["quick"])) == len(STUDY.notes(SCALES["full"])) + 1
    assert STUDY.headlines(STUDY.headline([])) == []
