from pathlib import Path

import pytest

from kvbound.cli.source import Parts, assemble, literal, pairs
from kvbound.errors import UsageError
from tests.cli.conftest import Run


def test_pairs() -> None:
    assert pairs("--set", ["a=1", "b=x=y"]) == [("a", "1"), ("b", "x=y")]
    for wrong in (["a"], ["=1"], ["a="], ["a=1", "a=2"]):
        with pytest.raises(UsageError, match="--set"):
            pairs("--set", wrong)


def test_literals() -> None:
    assert [literal(text) for text in ("1", "0.5", "null", "[1]", "23GiB", "30%", "on-read")] == [
        1, 0.5, None, [1], "23GiB", "30%", "on-read",
    ]  # fmt: skip


def test_missing_parts_are_named() -> None:
    with pytest.raises(UsageError, match=r"missing: --llm, --trace"):
        assemble(Parts(memory="gh200-144"))


NAME = "native-r15-c25-b64-n64"
SLOW = ("--override", "memory.resources.pcie_down=32GB/s")


def test_library_names_take_overrides_in_every_command(run: Run, tmp_path: Path) -> None:
    expanded, found = tmp_path / "e.json", tmp_path / "found"
    assert run("instance", "validate", NAME, *SLOW).code == 0
    assert "pcie_down 32 GB/s" in run("instance", "info", NAME, *SLOW).out
    assert run("instance", "expand", NAME, *SLOW, "-o", expanded, "-q").code == 0
    sha256 = run("instance", "info", expanded, "--json").json["sha256"]
    runs = [
        run("solve", NAME, "--method", "lru", *SLOW, "--out", found, "--json").json,
        run("simulate", NAME, "--policy", "lru", *SLOW, "--json").json,
        run("compare", NAME, "--methods", "lru", *SLOW, "--json").json["results"][0],
        run("bound", NAME, "--time-limit", "0", *SLOW, "--json").json,
    ]
    assert {each["instance"]["sha256"] for each in runs} == {sha256}
    assert run("check", NAME, found, *SLOW).code == 0
    assert run("check", expanded, found).code == 0
    assert run("check", NAME, found).code == 6  # without them it is another instance
    assert run("export", NAME, *SLOW, "-o", tmp_path / "a.mps", "-q").code == 0


def test_an_instance_takes_capacity_and_rules(run: Run) -> None:
    info = run("instance", "info", NAME, "--json").json
    base = run("simulate", NAME, "--policy", "lru", "--json").json
    wide = run("simulate", NAME, "--policy", "lru", "--capacity", "50%", "--json").json
    assert wide["peak_bytes"]["hbm"] == 2 * info["tiers"][0]["room_for_kv_bytes"]
    assert wide["time_s"] < base["time_s"]
    ran = run("simulate", NAME, "--policy", "lru", "--rule", "timing=serial", "--json")
    assert ran.json["time_s"] > base["time_s"]
    assert run("compare", NAME, "--memory", "gh200-144").code == 2


def test_a_capacity_above_the_catalog_s_causes_one_remark(run: Run) -> None:
    ran = run("compare", NAME, "--methods", "lru,lfu", "--capacity", "200GB", "--json")
    assert ran.err == "kvbound: hbm of pcie6-paper holds 26.84 GB; this instance gives it 200 GB\n"
    assert run("compare", NAME, "--methods", "lru", "--capacity", "200GB", "--json", "-q").err == ""


def test_a_capacity_without_unit_comes_with_a_hint(run: Run) -> None:
    ran = run("compare", NAME, "--capacity", "0.3")
    assert "expected a share such as 30%, or a size with its unit such as 0.3GB" in ran.err


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--override", "memory.tiers.hbm=3", "--override memory.tiers.hbm: memory.tiers.0: expected a table"),
        ("--override", "llm=llama-3.1-8b", "--override llm: trace.layers: expected 32 layers"),
        (
            "--override",
            'memory.resources={"a":1}',
            "--override memory.resources: memory.energy.hbm: expected",
        ),
        (
            "--override",
            "memory={}",
            "--override memory: memory.tiers.hbm.capacity: expected a path that exists",
        ),
        ("--capacity", "9e30GB", "--capacity 9e30GB: memory.tiers.hbm.capacity: expected a size of at most"),
        (
            "--capacity",
            "200%",
            "expected a share from 0% to 100%, or a size such as 23GiB, 144GB or a number",
        ),
        ("--capacity", "1gb", "not '1gb'"),
    ],
)
def test_errors_that_options_cause_are_usage_errors(run: Run, option: str, value: str, words: str) -> None:
    ran = run("simulate", NAME, "--policy", "lru", option, value)
    assert (ran.code, ran.out) == (2, "")
    assert words in ran.err
    assert ".json" not in ran.err


def test_errors_in_the_file_are_input_errors(run: Run, small: Path) -> None:
    small.write_text(small.read_text().replace('"rules"', '"rulse"'))
    ran = run("simulate", small, "--policy", "lru", "--override", "memory.resources.hbm=1GB/s")
    assert ran.code == 3
    assert str(small) in ran.err
