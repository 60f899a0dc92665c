import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run, contents, document

VOLATILE = ("wall_s", "peak_rss_bytes", "kernel")
FIELDS = {
    "schema", "kvbound_version", "instance", "method", "seed", "options", "status", "termination", "time_s",
    "bound", "gap", "share_of_bound", "tokens_per_s", "tokens_per_s_bound", "tpot_s", "hit_rate",
    "hit_rate_with_weights", "moved_bytes", "utilisation", "energy_j",
    "energy_per_token_j", "peak_bytes", "wall_s",
    "peak_rss_bytes", "kernel",
}  # fmt: skip


def test_json_has_every_field(run: Run, small: Path) -> None:
    ran = run("solve", small, "--method", "lru", "--json")
    assert (ran.code, ran.err) == (0, "")
    assert set(ran.json) == FIELDS
    assert ran.json["instance"]["name"] == "small"
    assert ran.json["tokens_per_s"] == 4 / ran.json["time_s"]


def test_exact_is_proved_and_no_policy_beats_it(run: Run, small: Path) -> None:
    exact = run("solve", small, "--gap", "0", "--require-gap", "--json").json
    assert exact["status"] == "optimal"
    assert exact["gap"] <= 1e-9
    for policy in ("static", "lru", "belady", "sa-guided"):
        assert run("solve", small, "--method", policy, "--json").json["time_s"] >= exact["time_s"] * (
            1 - 1e-9
        )


def test_any_gap_is_accepted(run: Run, small: Path) -> None:
    ran = run("solve", small, "--method", "exact", "--gap", "100%", "--json")
    assert ran.code == 0
    assert ran.json["status"] in ("feasible", "optimal")


def test_the_checker_accepts_the_output_folder(run: Run, small: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    ran = run("solve", small, "--method", "belady", "--out", out, "--json")
    assert json.loads((out / "result.json").read_text()) == ran.json
    assert run("check", small, out).code == 0
    better = run("solve", small, "--method", "exact", "--start", out / "schedule.npz", "--json")
    assert better.json["time_s"] <= ran.json["time_s"]


def test_a_bound_removes_an_older_schedule(run: Run, small: Path, tmp_path: Path) -> None:
    assert run("solve", small, "--method", "lru", "--out", tmp_path / "out").code == 0
    assert run("solve", small, "--method", "relax", "--out", tmp_path / "out").code == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["result.json"]


@pytest.mark.parametrize("method", ["lru", "heavy-hitter", "exact"])
def test_same_seed_same_bytes(method: str, run: Run, small: Path, tmp_path: Path) -> None:
    def once(folder: Path) -> tuple[dict[str, object], bytes]:
        out = run("solve", small, "--method", method, "--seed", "7", "--out", folder, "--json").json
        return {key: out[key] for key in out if key not in VOLATILE}, (folder / "schedule.npz").read_bytes()

    assert once(tmp_path / "a") == once(tmp_path / "b")


def test_output_as_text(run: Run, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = run("solve", small, "--method", "exact")
    assert ran.out.startswith("small: exact")
    for words in ("time per output token", "hit rate", "time lower bound", "(exact, certified)"):
        assert words in ran.out
    monkeypatch.setenv("COLUMNS", "70")
    assert max(map(len, run("solve", small, "--method", "best").out.splitlines())) <= 70


def test_weights_that_do_not_fit_are_infeasible(run: Run, tmp_path: Path) -> None:
    heavy = document(overrides={"llm.weight_bytes": "1GB", "memory.tiers.hbm.capacity": "1MB"})
    path = tmp_path / "heavy.json"
    path.write_text(json.dumps(heavy))
    for argv in (
        ("solve", path),
        ("simulate", path, "--policy", "lru"),
        ("solve", path, "--method", "exact"),
    ):
        ran = run(*argv, "--json")
        assert ran.code == 4
        assert ran.json["status"] == "infeasible"
        assert "weights" in ran.err
    assert run("solve", path, "--method", "lru", "--out", tmp_path / "out").code == 4
    assert list(contents(tmp_path / "out")) == [str(tmp_path / "out" / "result.json")]
    assert run("instance", "validate", path).code == 4


def test_a_gap_that_is_not_reached(run: Run, small: Path) -> None:
    argv = ("--method", "exact", "--time-limit", "10ms", "--gap", "0", "--require-gap", "--json")
    ran = run("solve", "swap-4x64-c30-b64", *argv)
    assert ran.code == 5
    assert ran.json["gap"] > 0
    assert "above the required" in ran.err


def test_an_impossible_gap_is_refused(run: Run, small: Path) -> None:
    assert run("solve", small, "--method", "relax", "--gap", "1%").code == 2


def test_own_token_reads_cause_a_remark(run: Run) -> None:
    ran = run("solve", "tiny-own-reads", "--method", "lru", "--json")
    assert ran.err.startswith("kvbound: 4 of 16 reads are of the token being made")
    assert run("solve", "tiny-own-reads", "--method", "lru", "--json", "-q").err == ""
