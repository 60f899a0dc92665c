"""``--objective`` of all commands that make an instance, and ``kvbound pareto``."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Run, document

MIX = ("--objective", "time=1,energy=0.01")


@pytest.fixture
def powered(tmp_path: Path) -> Path:
    """The small instance, with energies."""
    content: dict[str, Any] = document()
    names = content["memory"]["resources"]
    content["memory"]["energy"] = {name: {"device": {"mid": 4.0 + n}} for n, name in enumerate(names)}
    path = tmp_path / "powered.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("method", ["exact", "pricing", "anneal", "lru", "dual"])
def test_solve_and_check(run: Run, powered: Path, tmp_path: Path, method: str) -> None:
    out = tmp_path / "out"
    limit = ("--work", "50") if method in ("pricing", "anneal", "dual") else ()
    ran = run("solve", powered, "--method", method, *limit, *MIX, "--out", out, "--json")
    assert ran.code == 0
    assert ran.json["options"]["objective"] == "time=1,energy=0.01"
    assert ran.json["bound"]["time_s"] is None
    if method != "dual":
        energy = sum(part or 0 for part in ran.json["energy_j"].values())
        assert ran.json["objective"] == pytest.approx(ran.json["time_s"] + 0.01 * energy, rel=1e-9)
    if method != "lru":
        assert ran.json["bound"]["objective"] <= ran.json.get("objective", 1e9) * (1 + 1e-9)
    assert run("check", powered, out, *MIX).code == 0
    assert run("check", powered, out).code == 6
    assert run("check", powered, out, "--objective", "energy").code == 6


def test_tables_name_the_objective(run: Run, powered: Path) -> None:
    shown = run("solve", powered, "--method", "exact", *MIX)
    for text in ("objective time=1,energy=0.01", "energy-delay product", "lower bound of the objective"):
        assert text in shown.out
    compared = run("compare", powered, "--methods", "exact,lru,dual", *MIX)
    assert compared.code == 0
    assert "No schedule has less than" in compared.out
    plain = run("solve", powered, "--method", "exact")
    assert "objective" not in plain.out


def test_a_comparison_is_checked(run: Run, powered: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ran = run(
        "compare", powered, "--methods", "exact,lru,dual", "--objective", "energy", "--out", out, "--json"
    )
    assert ran.code == 0
    rows = list(csv.DictReader((out / "compare.csv").read_text().splitlines()))
    assert all(float(row["objective"]) > 0 for row in rows if row["method"] != "dual")
    assert run("check", powered, out, "--objective", "energy").code == 0


def test_other_commands(run: Run, powered: Path, tmp_path: Path) -> None:
    assert run("simulate", powered, "--policy", "lru", *MIX, "--json").json["objective"] > 0
    proof = tmp_path / "proof.npz"
    assert run("bound", powered, "--work", "40", "--certificate", proof, *MIX).code == 0
    checked = run("check", powered, proof, *MIX)
    assert checked.code == 0
    assert "lower bound of the objective" in checked.out
    resumed = run("bound", powered, "--work", "40", "--resume", proof, *MIX)
    assert resumed.code == 0
    assert run("bound", powered, "--work", "40", "--resume", proof).code == 3
    for form in ("lp", "mps"):
        assert run("export", powered, "--format", form, "-o", tmp_path / f"p.{form}", *MIX).code == 0
    expanded = tmp_path / "expanded.json"
    assert run("instance", "expand", powered, "-o", expanded, *MIX).code == 0
    assert json.loads(expanded.read_text())["objective"]["energy"] == 0.01
    assert run("solve", expanded, "--method", "exact", "--json").json["options"]["objective"] == MIX[1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("power", "--objective: expected time, energy, or weights such as time=1,energy=0.5, not 'power'"),
        ("time=0", "--objective time=0: expected a weight of time or of energy above 0, not both 0"),
        ("energy=-1", "energy: expected a finite number from 0 to 1e+18, not -1.0"),
        ("energy,level=system", "energies known at level system, point mid"),
    ],
)
def test_mistakes(run: Run, powered: Path, text: str, message: str) -> None:
    ran = run("solve", powered, "--objective", text)
    assert ran.code == 2
    assert message in ran.err


def test_pareto(run: Run, powered: Path, tmp_path: Path) -> None:
    out = tmp_path / "front"
    ran = run("pareto", powered, "--points", "4", "--out", out, "--json")
    assert ran.code == 0
    points = ran.json["points"]
    assert 2 <= len(points) <= 4
    assert json.loads((out / "pareto.json").read_text())["schema"] == "kvbound.pareto/1"
    rows = list(csv.DictReader((out / "pareto.csv").read_text().splitlines()))
    assert [float(row["time_s"]) for row in rows] == [point["time_s"] for point in points]
    for number, point in enumerate(points, 1):
        goal = point["objective"]
        text = f"time={goal['time']},energy={goal['energy']}"
        assert run("check", powered, out / f"point-{number}", "--objective", text).code == 0
    assert run("check", powered, out).code == 0
    changed = json.loads((out / "pareto.json").read_text())
    changed["points"][0]["least_energy_j"] *= 1.01
    (out / "pareto.json").write_text(json.dumps(changed))
    rejected = run("check", powered, out, "--json")
    assert rejected.code == 6
    assert "the numbers of its points do not follow from their results" in rejected.out
    assert "pareto.csv does not follow from it" in rejected.out
    shown = run("pareto", powered, "--points", "2")
    assert shown.code == 0
    assert "certified bound" in shown.out
    assert run("pareto", powered, "--points", "1").code == 2
