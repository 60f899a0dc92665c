"""``--work``: a count of work instead of a time limit."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.solvers.test_work import contents


@pytest.mark.parametrize("command", ["solve", "bound", "compare"])
def test_not_together_with_a_time_limit(run: Run, small: Path, command: str) -> None:
    ran = run(command, small, "--work", "3", "--time-limit", "60")
    assert ran.code == 2
    assert "--work takes the place of --time-limit: give one of them" in ran.err
    assert run(command, small, "--work", "0").code == 2


@pytest.mark.parametrize(
    "options",
    [
        ("solve", "--method", "pricing", "--seed", "1"),
        ("solve", "--method", "exact"),
        ("solve", "--method", "relax"),
        ("compare", "--methods", "lru,best,pricing,anneal"),
    ],
)
def test_two_runs_give_the_same_files(
    run: Run, small: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    command, *rest = options
    for name in ("one", "two"):
        assert run(command, small, *rest, "--work", "5", "--out", tmp_path / name).code == 0
    first, second = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert first == second
    assert any(file.endswith("result.json") for file in first)


def test_the_result_states_it(run: Run, small: Path, tmp_path: Path) -> None:
    proof = tmp_path / "certificate.npz"
    ran = run("bound", small, "--work", "7", "--certificate", proof, "--json")
    assert ran.json["options"]["work"] == 7
    again = run("bound", small, "--work", "7", "--resume", proof, "--json")
    assert json.loads(again.out)["bound"]["time_s"] >= ran.json["bound"]["time_s"]
