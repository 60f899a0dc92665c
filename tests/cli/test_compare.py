import csv
import json
from pathlib import Path

from tests.cli.conftest import READS, Run, document
from tests.instance_documents import DOCUMENT, llm, two_tiers

METHODS = "lru,static,best,relax,exact"


def test_every_result_has_the_strongest_bound(run: Run, small: Path) -> None:
    ran = run("compare", small, "--methods", METHODS, "--json")
    assert ran.code == 0
    assert ran.json["schema"] == "kvbound.compare/1"
    results = {result["method"]: result for result in ran.json["results"]}
    assert ",".join(results) == METHODS
    bounds = {name: result["bound"]["time_s"] for name, result in results.items()}
    assert bounds["best"] <= bounds["relax"] <= bounds["exact"] * (1 + 1e-9)
    assert bounds["lru"] == bounds["static"] == max(bounds.values())
    assert results["lru"]["time_s"] >= bounds["lru"]
    assert results["relax"]["time_s"] is None


def test_output_as_text(run: Run, small: Path) -> None:
    ran = run("compare", small, "--methods", METHODS)
    lines = ran.out.splitlines()
    rows = [line.split() for line in lines]
    order = [row[0] for row in rows if row and row[0] in (*METHODS.split(","), "ideal")]
    assert order[0] == "exact"
    assert set(order[-2:]) == {"relax", "ideal"}
    assert "If placement were no constraint" in lines[1]
    assert "that time lower bound" in lines[-2]
    assert "the largest gap is" in lines[-2]
    assert lines[-1].startswith("The time of exact's schedule: ")


def test_the_table_fits_a_terminal(run: Run) -> None:
    shown = run("compare", "native-r15-c25-b64-n64", "--methods", "lru,recency-window,best,static").out
    assert max(len(line) for line in shown.split("\n\n")[1].splitlines()) <= 80


def test_out(run: Run, small: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ran = run("compare", small, "--methods", METHODS, "--out", out, "--json")
    assert json.loads((out / "compare.json").read_text()) == ran.json
    with (out / "compare.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == METHODS.split(",")
    assert float(rows[0]["ratio"]) >= 1
    assert run("check", small, out / "exact").code == 0


def test_by_default_every_policy_and_a_solver(run: Run, small: Path) -> None:
    methods = [result["method"] for result in run("compare", small, "--json").json["results"]]
    assert {"static", "lru", "belady", "best", "exact"} <= set(methods)


def test_all_skips_methods_that_do_not_support_the_instance(run: Run) -> None:
    ran = run("compare", "swap-1x24-c30-b64-exclusive", "--methods", "all", "--json")
    methods = [result["method"] for result in ran.json["results"]]
    assert "relax" in methods
    assert "brute" not in methods
    assert "kvbound: brute is left out" in ran.err


def test_a_failing_method_does_not_affect_other_rows(run: Run, small: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(
        "class Mine:\n    name = 'mine'\n    def step(self, slot):\n        raise ValueError('no')\n"
    )
    ran = run("compare", small, "--methods", f"lru,{mine}:Mine,static", "--json", "--out", tmp_path / "out")
    assert ran.code == 2
    assert "policy mine: step raised ValueError: no" in ran.err
    assert [row["method"] for row in ran.json["results"]] == ["lru", "static"]
    assert (tmp_path / "out/lru/result.json").is_file()


def test_from_parts_as_from_a_file(run: Run, small: Path, tmp_path: Path) -> None:
    content = document()
    names = {name: tmp_path / f"{name}.json" for name in ("memory", "llm", "trace")}
    for name, path in names.items():
        path.write_text(json.dumps(content[name]))
    parts = [str(each) for name in names for each in (f"--{name}", names[name])]
    from_file = run("compare", small, "--methods", "lru", "--json").json["results"][0]
    from_parts = run("compare", *parts, "--methods", "lru", "--json").json["results"][0]
    assert from_parts["instance"]["sha256"] == from_file["instance"]["sha256"]
    assert from_parts["time_s"] == from_file["time_s"]
    serial = ("--rule", "timing=serial", "--rule", "granularity=2", "--capacity", "10%")
    serial_too = run("compare", *parts, *serial, "--methods", "lru", "--json").json["results"][0]
    assert serial_too["time_s"] > from_parts["time_s"]
    faster = run("compare", *parts, "--override", "memory.resources.down=1TB/s", "--methods", "lru", "--json")
    assert faster.json["results"][0]["time_s"] < from_parts["time_s"]


def test_the_published_accounting(run: Run, tmp_path: Path) -> None:
    llm = {key: value for key, value in document()["llm"].items()}
    (tmp_path / "llm.json").write_text(json.dumps(llm))
    (tmp_path / "trace.json").write_text(json.dumps({"prefill_tokens": 4, "reads": READS}))
    parts = ("--memory", "gh200-paper", "--llm", tmp_path / "llm.json", "--trace", tmp_path / "trace.json")
    ran = run("compare", *parts, "--rule", "accounting=fang2025", "--capacity", "80%")
    assert ran.code == 0
    assert "x\n" not in ran.out
    assert "best is the study's own number, no schedule." in ran.out
    assert run("compare", *parts, "--rule", "accounting=fang2025", "--methods", "exact").code == 2


def test_weights_that_do_not_fit_are_reported_once(run: Run, small: Path, tmp_path: Path) -> None:
    heavy = ("--override", "llm.weight_bytes=1GB", "--override", "memory.tiers.hbm.capacity=1MB")
    ran = run("compare", small, *heavy)
    assert (ran.code, ran.out, ran.err.count("weights")) == (4, "", 1)
    ran = run("compare", small, *heavy, "--json", "--out", tmp_path / "out")
    assert (ran.code, ran.err.count("weights")) == (4, 1)
    assert {result["status"] for result in ran.json["results"]} == {"infeasible"}
    assert json.loads((tmp_path / "out" / "compare.json").read_text()) == ran.json


def test_names_all_and_own_policies(run: Run, small: Path, tmp_path: Path) -> None:
    source = (
        "class {}:\n    def step(self, slot):\n        print('noise')\n        return slot.read_now * 1.0\n"
    )
    for folder, name in (("a", "Mine"), ("b", "Mine"), ("c", "Other")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(source.format(name))
    a, b, c = (f"{tmp_path / place}" for place in ("a/mine.py:Mine", "b/mine.py:Mine", "c/mine.py:Other"))
    ran = run("compare", small, "--methods", f"all,{a},{c}", "--json", "-q", "--time-limit", "1")
    methods = [result["method"] for result in ran.json["results"]]  # one document: prints go to stderr
    assert {"lru", "exact", "Mine", "Other"} <= set(methods)
    assert "noise" in ran.err
    ran = run("compare", small, "--methods", f"{a},{b}")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.endswith("found 'Mine' twice; give your policy another 'name'\n")
    assert "found 'lru' twice\n" in run("compare", small, "--methods", "lru,lru").err
    assert run("simulate", small, "--policy", a, "--json").json["method"] == "Mine"
    assert run("solve", small, "--method", a, "--json").json["method"] == "Mine"


def test_a_run_that_takes_no_time(run: Run, tmp_path: Path) -> None:
    memory = two_tiers(4, 1, 2)
    for tier in memory["tiers"]:
        tier["writes"] = []
    trace = {"prefill_tokens": 3, "reads": [[[]], [[]]]}
    path = tmp_path / "free.json"
    path.write_text(json.dumps(DOCUMENT | {"memory": memory, "llm": llm(), "trace": trace}))
    ran = run("compare", path, "--methods", "all", "--work", 5)
    assert ran.code == 0
    assert ran.out.endswith(" takes 0 s; the time lower bound is 0.\n")
    bounds = [result["bound"]["time_s"] for result in run("compare", path, "--json").json["results"]]
    assert set(bounds) == {0.0}
    assert run("solve", path).code == run("instance", "info", path).code == 0
