import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run, document
from tests.paths import DATA


def test_options_are_typed_by_their_defaults(run: Run, small: Path) -> None:
    ran = run("simulate", small, "--policy", "sa-guided", "--set", "window=2", "--set", "topk=50%", "--json")
    assert ran.code == 0
    assert ran.json["options"] == {"window": 2, "topk": 0.5}
    assert isinstance(ran.json["options"]["window"], int)


def test_comma_lists_run_every_combination_once(run: Run, small: Path) -> None:
    argv = ("simulate", small, "--policy", "sa-guided", "--set", "window=1,3", "--set", "topk=0.5,1,50%")
    results = run(*argv, "--json").json["results"]
    found = [(each["options"]["window"], each["options"]["topk"]) for each in results]
    assert found == [(1, 0.5), (1, 1.0), (3, 0.5), (3, 1.0)]
    table = run(*argv).out
    assert "window" in table
    assert table.count("sa-guided") == 4


def test_the_result_is_that_of_solve(run: Run, small: Path) -> None:
    simulated = run("simulate", small, "--policy", "lru", "--json").json
    solved = run("solve", small, "--method", "lru", "--json").json
    assert simulated["time_s"] == solved["time_s"]


def test_the_checker_accepts_the_output_folder(run: Run, small: Path, tmp_path: Path) -> None:
    assert run("simulate", small, "--policy", "page", "--set", "size=2", "--out", tmp_path / "o").code == 0
    assert run("check", small, tmp_path / "o").code == 0


@pytest.mark.parametrize(
    ("name", "published"),
    [("paper-low", 24.59210623), ("paper-actual-lengths", 24.59591295), ("paper-high", 24.61097011)],
)
def test_the_published_best_needs_no_trace(name: str, published: float, run: Run) -> None:
    ran = run("simulate", name, "--policy", "best", "--json")
    assert f"{ran.json['time_s']:.8f}" == f"{published:.8f}"
    assert ran.json["instance"]["sha256"] is None


def test_the_kernel_is_named(run: Run, small: Path) -> None:
    ran = run("simulate", small, "--policy", "lru", "--kernel", "numpy", "--json")
    assert ran.json["kernel"] == "numpy"


@pytest.fixture
def published(run: Run, tmp_path: Path) -> Path:
    """An instance of the study under its own accounting."""
    llm = document()["llm"] | {"weight_read_bytes_per_layer": 1_000_000}
    (tmp_path / "llm.json").write_text(json.dumps(llm))
    trace = DATA / "fang2025" / "t1_L2_p128_n128_s60_low.csv"
    parts = ("--memory", "gh200-paper", "--llm", tmp_path / "llm.json", "--trace", trace)
    made = run(
        "instance", "make", *parts, "--rule", "accounting=fang2025", "--capacity", "50%",
        "-o", tmp_path / "published.json",
    )  # fmt: skip
    assert made.code == 0
    return tmp_path / "published.json"


@pytest.mark.parametrize("policy", ["static", "reactive", "page", "lookahead-one", "sa-guided"])
def test_the_checker_accepts_logs_of_published_policies(
    policy: str, run: Run, published: Path, tmp_path: Path
) -> None:
    ran = run("simulate", published, "--policy", policy, "--out", tmp_path / "o", "--json")
    assert ran.code == 0
    report = run("check", published, tmp_path / "o", "--json")
    assert report.code == 0
    assert report.json["time_s"] == pytest.approx(ran.json["time_s"], rel=1e-9)


def test_the_default_is_a_schedule_not_the_published_best(run: Run, published: Path, tmp_path: Path) -> None:
    ran = run("solve", published, "--out", tmp_path / "o", "--json")
    assert ran.json["status"] == "feasible"
    assert ran.json["method"] != "best"
    assert run("check", published, tmp_path / "o").code == 0


def test_a_policy_from_a_file(run: Run, small: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "class Mine:\n    def __init__(self, keep=1, odd=None): self.keep = keep\n"
        "    def step(self, slot): return [self.keep] * (slot.tokens + 1)\n"
    )
    ran = run("simulate", small, "--policy", f"{file}:Mine", "--set", "keep=1,2", "--set", "odd=x", "--json")
    assert [each["options"] for each in ran.json["results"]] == [{"keep": k, "odd": "x"} for k in (1, 2)]
    ran = run("compare", small, "--methods", f"lru,{file}:Mine,exact", "--out", tmp_path / "out", "--json")
    assert [each["method"] for each in ran.json["results"]] == ["lru", "Mine", "exact"]
    assert run("check", small, tmp_path / "out" / "Mine").code == 0
    assert run("solve", small, "--method", f"{file}:Mine").out.startswith("small: Mine: feasible")
    for wrong in (f"{file}:Mind", f"{file}:", "none.py:Mine"):
        ran = run("compare", small, "--methods", wrong)
        assert (ran.code, ran.out) == (2, "")
        assert ran.err.startswith(f"kvbound: policy {wrong}: ")
    assert run("compare", small, "--methods", f"lru,lru,{file}:Mine").code == 2
