import csv
import json
from pathlib import Path
from typing import Any

import pytest

from kvbound.cli import reproduce
from kvbound.errors import install_command
from kvbound.report import study_plots
from kvbound.studies import Scale, runs
from kvbound.studies.cells import run_cell
from kvbound.studies.fang2025 import SCALES, TABLES, Cell
from kvbound.studies.record import CellRun, digest
from tests.cli.conftest import Run, contents

QUICK = ("--time-limit", "0.2s", "--table", "layers")


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scale that runs quickly."""
    monkeypatch.setitem(SCALES, "quick", Scale("quick", 512, 16, 1.0))


def test_tables_on_stdout(run: Run) -> None:
    ran = run("reproduce", "fang2025", *QUICK)
    assert ran.code == 0
    assert "## layers" in ran.out
    assert "## capacity" not in ran.out
    rows = [line.split("|")[1].strip() for line in ran.out.splitlines() if line.startswith("| ")]
    assert {"layers-12", "paper"} <= set(rows)
    assert "the study says up to 5.87x" in ran.out
    assert "2/2 paper: gap" in ran.err


def test_sections_need_no_cells(run: Run, tmp_path: Path) -> None:
    ran = run("reproduce", "tiered2026", "--table", "claims", "--out", tmp_path, "--no-figures")
    assert (ran.code, ran.err) == (0, "")
    assert "| contradicted: it stays slow |" in " ".join(ran.out.split())
    assert "## weights" not in ran.out
    document = run("reproduce", "tiered2026", "--table", "contexts", "--json").json
    assert (document["cells"], list(document["sections"])) == ([], ["contexts"])
    assert run("check", "tiered2026", tmp_path).code == 0


def test_json(run: Run) -> None:
    ran = run("reproduce", "fang2025", *QUICK, "--json", "-q")
    assert ran.json["schema"] == "kvbound.study/1"
    assert [record["cell"] for record in ran.json["cells"]] == ["layers-12", "paper"]
    assert ran.json["tables"] == {"layers": ["layers-12", "paper"]}
    assert ran.json["headline"]["published"] == 5.87
    assert ran.err == ""


def test_out_and_resumption(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    first = run("reproduce", "fang2025", *QUICK, "--out", out)
    files = contents(out)
    names = {str(Path(name).relative_to(out)) for name in files}
    assert {"tables.md", "cells.csv", "study.json", "cells/paper.json", "cells/layers-12.json"} <= names
    assert (out / "tables.md").read_text() == first.out
    with (out / "cells.csv").open() as file:
        rows = {row["cell"]: row for row in csv.DictReader(file)}
    assert float(rows["paper"]["bound_s"]) <= float(rows["paper"]["physical_static_time_s"])
    monkeypatch.setattr(runs, "run_cell", _must_not_run)
    again = run("reproduce", "fang2025", *QUICK, "--out", out)
    assert (again.code, again.out) == (0, first.out)
    assert contents(out) == files


def test_other_settings_need_another_folder(run: Run, tmp_path: Path) -> None:
    assert run("reproduce", "fang2025", *QUICK, "--out", tmp_path).code == 0
    ran = run("reproduce", "fang2025", *QUICK, "--seed", 1, "--out", tmp_path)
    assert (ran.code, ran.out) == (2, "")
    assert "other settings" in ran.err


def test_an_interrupted_run_keeps_complete_cells(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def second_stops(cell: Cell, *rest: Any) -> CellRun:
        if cell == TABLES["layers"][1]:
            raise KeyboardInterrupt
        return run_cell(cell, *rest)

    monkeypatch.setattr(runs, "run_cell", second_stops)
    ran = run("reproduce", "fang2025", *QUICK, "--out", tmp_path, "--json")
    assert ran.code == 130
    assert [record["cell"] for record in ran.json["cells"]] == ["layers-12"]
    assert json.loads((tmp_path / "cells" / "layers-12.json").read_text()) == ran.json["cells"][0]


def test_figures(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert run("reproduce", "fang2025", *QUICK, "--out", tmp_path, "--figures").code == 0
    assert (tmp_path / "figures" / "layers.png").read_bytes()[:4] == b"\x89PNG"
    drawn = (tmp_path / "figures" / "layers.svg").read_bytes()
    assert b"layers-12" in drawn
    assert run("reproduce", "fang2025", *QUICK, "--out", tmp_path, "--figures").code == 0
    assert (tmp_path / "figures" / "layers.svg").read_bytes() == drawn


def test_without_matplotlib(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_plots, "available", lambda: False)
    ran = run("reproduce", "fang2025", *QUICK, "--out", tmp_path, "--figures")
    assert (ran.code, ran.err) == (7, f"kvbound: {install_command('plots')}\n")
    ran = run("reproduce", "fang2025", *QUICK, "--out", tmp_path)
    assert ran.code == 0
    assert "no figures without matplotlib" in ran.err
    assert not (tmp_path / "figures").exists()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["fang2024"], "fang2025"),
        (["tiered2025"], "tiered2026"),
        (["tiered2026", "--table", "claim"], "claims"),
        (["fang2025", "--table", "capacities"], "capacity"),
        (["fang2025", "--figures"], "--out"),
        (["fang2025", "--time-limit", "soon"], "--time-limit"),
        (["fang2025", "--scale", "half"], "quick"),
    ],
)
def test_mistakes(run: Run, argv: list[str], said: str) -> None:
    ran = run("reproduce", *argv)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err


def _must_not_run(cell: Cell, *rest: Any) -> dict[str, Any]:
    raise AssertionError(cell.name)


def test_scales_are_those_of_the_study() -> None:
    assert {str(name) for name in reproduce.ScaleName} == set(SCALES)


@pytest.fixture
def out(run: Run, tmp_path: Path) -> Path:
    assert run("reproduce", "fang2025", *QUICK, "--out", tmp_path / "out", "--no-figures").code == 0
    return tmp_path / "out"


def test_the_folder_is_checked(run: Run, out: Path) -> None:
    ran = run("check", "fang2025", out)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.count("accepted\n") == 5
    report = run("check", "fang2025", out, "--json").json
    assert report["ok"] is True
    assert not any(report["problems"].values())


@pytest.mark.parametrize("name", ["tables.md", "cells.csv", "study.json"])
def test_tables_that_do_not_follow_from_the_cells_are_rejected(run: Run, out: Path, name: str) -> None:
    text = (out / name).read_text()
    bound = json.loads((out / "cells" / "paper.json").read_text())["bound_s"]
    (out / name).write_text(
        text.replace("paper", "other", 1) if name == "tables.md" else text.replace(str(bound), "99")
    )
    ran = run("check", "fang2025", out)
    assert ran.code == 6
    assert f"{name}: rejected\n- it does not follow from the cells" in ran.out
    assert run("check", "fang2025", out, "--json").json["ok"] is False
    (out / name).unlink()
    assert run("check", "fang2025", out).code == 3


def test_a_forged_cell_is_never_printed(run: Run, out: Path) -> None:
    place = out / "cells" / "paper.json"
    record = json.loads(place.read_text())
    record["physical"]["static"]["time_s"] *= 99
    for forged in (record, record | {"sha256": digest(record)}):
        place.write_text(json.dumps(forged))
        for argv in (("reproduce", "fang2025", *QUICK, "--out", out), ("check", "fang2025", out)):
            ran = run(*argv)
            assert ran.code in (3, 6)
            assert "x the best" not in ran.out


@pytest.mark.parametrize(
    "text", ["{}", "[]", '{"schema": "kvbound.study/1", "tables": {"\\ud800": 1}}', "", "{"]
)
def test_other_documents_are_malformed(run: Run, out: Path, text: str) -> None:
    (out / "study.json").write_text(text)
    assert run("check", "fang2025", out).code == 3
    assert run("check", "fang2025", out / "none").code == 3


def test_on_a_full_disk_the_tables_are_still_printed(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "paper.json")

    monkeypatch.setattr(runs, "store", full)
    ran = run("reproduce", "fang2025", *QUICK, "--out", tmp_path, "-q")
    assert (ran.code, ran.err) == (2, "kvbound: paper.json: No space left on device\n")
    assert "| layers-12" in ran.out
