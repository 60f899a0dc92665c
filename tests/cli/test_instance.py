import json
from pathlib import Path

import numpy as np
import pytest

from kvbound.instance_io import library, read_instance
from kvbound.trace import read_trace, write_trace
from tests.cli.conftest import READS, Run, document


def test_the_library_is_listed_without_reading_traces(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a trace is opened")

    monkeypatch.setattr("kvbound.trace.read_trace", refuse)
    monkeypatch.setattr("kvbound.workloads.make", refuse)
    ran = run("instance", "list", "--json")
    assert {entry["name"] for entry in ran.json["instances"]} == set(library())
    table = run("instance", "list").out
    assert all(name in table for name in library())
    assert max(map(len, table.splitlines())) <= 100


def test_info_prints_sizes_and_capacities(run: Run, small: Path) -> None:
    known = run("instance", "info", small, "--json").json
    assert (known["layers"], known["prefill_tokens"], known["decode_steps"]) == (2, 4, 4)
    assert known["reads"] == sum(len(ids) for step in READS for ids in step)
    assert known["share_of_past_read"] == pytest.approx(known["reads_per_slot"] / 5.5)
    assert known["kv_bytes"] == 2 * 8 * 16384
    assert known["weight_bytes_read_per_slot"] == 15_000
    assert known["tiers"][0]["capacity_bytes"] == round(0.4 * known["kv_bytes"])
    assert known["tiers"][1] == {
        "name": "dram", "capacity_bytes": None, "room_for_kv_bytes": None, "room_for_kv_share": None,
    }  # fmt: skip
    text = run("instance", "info", small).out
    for words in ("37.5 %", "unlimited", "migration on-read", known["sha256"]):
        assert words in text


def test_info_of_a_full_size_instance_makes_no_trace(run: Run) -> None:
    known = run("instance", "info", "paper-low", "--json").json
    assert known["sha256"] is None
    assert known["reads"] == 4_772_782_880


def test_validate(run: Run, small: Path) -> None:
    assert run("instance", "validate", small) == (0, "small: a valid instance\n", "")


def test_the_expanded_form_is_complete_and_the_same_instance(run: Run, small: Path, tmp_path: Path) -> None:
    ran = run("instance", "expand", small, "-o", tmp_path / "full.json")
    sha256 = read_instance(small).sha256
    assert (ran.code, ran.out) == (0, "")
    assert sha256 in ran.err
    content = json.loads((tmp_path / "full.json").read_text())
    assert set(content["rules"]) == {"copies", "migration", "timing", "initial", "granularity", "accounting"}
    assert content["trace"]["path"] == "full.trace"
    assert read_instance(tmp_path / "full.json").sha256 == sha256


def test_make_and_read_again(run: Run, tmp_path: Path) -> None:
    (tmp_path / "reads.json").write_text(json.dumps({"prefill_tokens": 4, "reads": READS}))
    (tmp_path / "llm.json").write_text(json.dumps(document()["llm"]))
    parts = ("--memory", "gh200-144", "--llm", tmp_path / "llm.json", "--trace", tmp_path / "reads.json")
    more = ("--capacity", "50%", "--rule", "copies=exclusive", "--rule", "granularity=2")
    ran = run("instance", "make", *parts, *more, "-o", tmp_path / "made.json")
    assert ran.code == 0
    made = read_instance(tmp_path / "made.json")
    assert made.name == "made"
    assert (str(made.rules.copies), made.rules.granularity) == ("exclusive", 2)
    assert made.memory.tiers[0].capacity == 0.5 * 2 * 8 * 16384
    assert np.array_equal(made.trace.counts(), read_trace(tmp_path / "made.trace").counts())
    assert run("solve", tmp_path / "made.json", "--method", "lru").code == 0


def test_a_synthetic_trace_stays_a_specification(run: Run, tmp_path: Path) -> None:
    recipe = {"kind": "random-swap", "layers": 12, "prefill_tokens": 40, "decode_steps": 8, "seed": 3}
    (tmp_path / "t.json").write_text(json.dumps({"synthetic": recipe}))
    argv = ("--memory", "gh200-144", "--llm", "gpt2", "--trace", tmp_path / "t.json", "--name", "mine")
    assert run("instance", "make", *argv, "-o", tmp_path / "made.json").code == 0
    made = json.loads((tmp_path / "made.json").read_text())
    assert made["name"] == "mine"
    assert made["trace"]["synthetic"]["seed"] == 3
    assert not (tmp_path / "made.trace").exists()


def test_an_llm_may_be_a_config(run: Run, tmp_path: Path) -> None:
    config = {
        "model_type": "gpt2", "n_layer": 2, "n_embd": 8, "n_head": 2, "n_positions": 16, "vocab_size": 10,
        "torch_dtype": "float32",
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    write_trace(read_instance("tiny-layers").trace, tmp_path / "t.trace")
    argv = ("--memory", "gh200-144", "--llm", tmp_path / "config.json", "--trace", tmp_path / "t.trace")
    assert run("instance", "make", *argv, "-o", tmp_path / "made.json").code == 0
    assert read_instance(tmp_path / "made.json").item_bytes.tolist() == [2 * 8 * 4] * 2
    assert run("instance", "make", *argv, "--kv-dtype", "fp8", "-o", tmp_path / "made.json").code == 0
    assert read_instance(tmp_path / "made.json").item_bytes.tolist() == [2 * 8] * 2
    named = tuple("gpt2" if str(arg).endswith("config.json") else arg for arg in argv)
    refused = run("instance", "make", *named, "--kv-dtype", "fp8", "-o", tmp_path / "made.json")
    assert refused.code == 2
    assert "go with a config.json" in refused.err
