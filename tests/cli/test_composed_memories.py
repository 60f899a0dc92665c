"""Composed memories on the command line, in files, and in completion."""

import json
from pathlib import Path

import pytest

from kvbound import catalog
from kvbound.cli import complete
from kvbound.memory import Memory
from tests.cli.conftest import READS, Run, document

STACK = "h100+ddr5+nvme5+400gbe"


def test_the_list_of_memories_has_what_they_are_composed_of(run: Run) -> None:
    text = run("catalog", "memory").out
    lines = [line.split()[0] for line in text.splitlines() if line.strip()]
    assert set(catalog.accelerators()) <= set(lines)
    assert set(catalog.parts()) <= set(lines)
    assert "nvme5_read 13, nvme5_write 6.6" in text
    assert f"'kvbound catalog memory {STACK}'" in " ".join(text.split())


def test_the_overview_says_that_memories_are_composed(run: Run) -> None:
    assert "composed by name, such as h100+ddr5+nvme5" in run("catalog").out
    assert set(run("catalog", "--json").json) == {"memory", "llm", "gpu", "policy", "method"}


def test_a_composed_memory_is_an_entry(run: Run) -> None:
    shown = run("catalog", "memory", STACK, "--json").json
    assert shown == catalog.entry(catalog.Kind.MEMORY, STACK)
    assert Memory.from_mapping(shown) == catalog.memory(STACK)


@pytest.mark.parametrize("name", [STACK, "gh200-96-measured+nvme4+s3", "dgx-spark+nvme5+100gbe"])
def test_every_number_comes_with_its_source(name: str, run: Run) -> None:
    text = " ".join(run("catalog", "memory", name).out.split())
    assert text.startswith(f"{name}: ")
    for source in catalog.memory(name).sources.values():
        assert " ".join(source.split()) in text


def test_a_tier_that_is_faster_than_the_one_before_is_remarked_on(run: Run) -> None:
    assert "400gbe is read faster than nvme5 (50 GB/s and 13 GB/s)" in run("catalog", "memory", STACK).out
    assert "faster" not in run("catalog", "memory", "h100+ddr5+400gbe+nvme5").out
    assert "faster" not in run("catalog", "memory", "h100-pcie5").out


def test_a_typo_is_a_usage_error_on_the_command_line_and_an_input_error_in_a_file(
    run: Run, tmp_path: Path
) -> None:
    for argv in (
        ("catalog", "memory", "h100+ddr5+nvm5"),
        ("limit", "--llm", "gpt2", "--memory", "h100+ddr5+nvm5", "--context", "10"),
    ):
        ran = run(*argv)
        assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
        assert "expected a part after '+', not 'nvm5'; did you mean 'nvme5'?" in ran.err
    path = tmp_path / "x.json"
    path.write_text(json.dumps(document(memory="h100+ddr5+nvm5")))
    ran = run("solve", path)
    assert (ran.code, ran.out, ran.err.count("\n")) == (3, "", 1)
    assert "x.json: memory: expected in 'h100+ddr5+nvm5' a part" in ran.err
    ran = run("solve", "swap-1x24-c30-b64-exclusive", "--override", "memory=h100+ddr5+nvm5")
    assert ran.code == 2
    assert "'nvme5'" in ran.err


def test_parts_are_completed_after_a_plus() -> None:
    assert complete.memories("rtx-4") == ["rtx-4090+", "rtx-4060-laptop+"]
    assert complete.memories("h100-m") == ["h100-measured+"]
    assert complete.memories("h100+nv") == ["h100+nvme4", "h100+nvme5"]
    assert complete.memories("h100+ddr5+") == [
        f"h100+ddr5+{part}" for part in catalog.parts() if not part.startswith(("ddr", "lpddr"))
    ]
    assert complete.memories("h100+ddr5+nvme5+nv") == ["h100+ddr5+nvme5+nvme4"]
    assert complete.memories("gh200-144+d") == []
    assert complete.memories("h100+s3+") == []
    for wrong in ("x+", "+", "h100+x+", "h100-pcie5+"):
        assert complete.memories(wrong) == []
    for name in complete.memories("m4-max+"):
        assert len(catalog.memory(name).tiers) == 2


@pytest.mark.parametrize("copies", ["inclusive", "exclusive"])
def test_instances_over_composed_memories_are_solved(copies: str, run: Run, tmp_path: Path) -> None:
    path, out = tmp_path / "x.json", tmp_path / "out"
    rules = {"migration": "on-read", "copies": copies}
    overrides = {"memory.tiers.hbm.capacity": "40%"}
    path.write_text(json.dumps(document(memory=STACK, rules=rules, overrides=overrides)))
    solved = run("solve", path, "--method", "exact", "--time-limit", "60", "--out", out, "--json").json
    assert solved["status"] == "optimal"
    assert set(solved["peak_bytes"]) == {"hbm", "ddr5", "nvme5", "400gbe"}
    assert run("check", path, out).code == 0
    compared = run("compare", path, "--methods", "lru,static,ideal", "--json").json["results"]
    assert all(each["time_s"] >= solved["time_s"] * (1 - 1e-9) for each in compared if each["time_s"])


def test_an_instance_is_made_and_its_capacity_remarked_on(run: Run, tmp_path: Path) -> None:
    trace, made = tmp_path / "trace.json", tmp_path / "made.json"
    trace.write_text(json.dumps({"prefill_tokens": 4, "reads": [[row[0]] * 12 for row in READS]}))
    options = ("--llm", "gpt2", "--trace", trace, "--capacity", "100GB", "-o", made)
    ran = run("instance", "make", "--memory", "h100+ddr5+nvme5", *options)
    assert ran.code == 0
    assert "hbm of h100+ddr5+nvme5 holds 80 GB; this instance gives it 100 GB" in ran.err
    memory = json.loads(made.read_text())["memory"]
    assert [tier["name"] for tier in memory["tiers"]] == ["hbm", "ddr5", "nvme5"]
    assert run("instance", "validate", made, "-q").code == 0


def test_the_limit_of_a_composed_memory(run: Run) -> None:
    def step_s(memory: str) -> float:
        ran = run("limit", "--llm", "llama-3.1-70b", "--memory", memory, "--context", "8192", "--json")
        return float(ran.json["rows"][0]["time_s"])

    # what HBM does not hold crosses the link, wherever it is
    assert step_s("h100+ddr5+nvme5+400gbe") == pytest.approx(step_s("h100-pcie5"))
    # without host memory the drive is what binds
    assert step_s("h100+nvme5") == pytest.approx(step_s("h100+ddr5") * 64 / 13, rel=1e-6)
    # what the host's memory does not hold either is read sooner from the network than from a drive
    assert step_s("rtx-4090+ddr5-2ch+400gbe") < step_s("rtx-4090+ddr5-2ch+nvme4")
