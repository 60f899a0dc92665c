"""``kvbound accuracy``."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from kvbound.llm.formats import FORMATS, KvShape
from tests.accuracy import tiny
from tests.cli.conftest import Run

TEXT = "the inn and the thing in there, and then nothing other than that. " * 3


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny.write_llama2c(tmp_path)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def test_json(run: Run, model: Path, text: Path) -> None:
    ran = run("accuracy", model, "--text", text, "--formats", "f16,k=q8_0:v=q4_0", "--context", 50, "--json")
    assert (ran.code, ran.err) == (0, "")
    known = ran.json
    assert known["schema"] == "kvbound.accuracy/1"
    assert known["model"]["layers"] == 3
    assert known["predictions"] == sum(length - 1 for length in known["segments"])
    assert max(known["segments"]) == known["context"] == 50
    half, mixed = known["results"]
    assert half["saved_share"] == 0
    assert half["perplexity"] == pytest.approx(known["reference"]["perplexity"], rel=0.01)
    row = KvShape(2, 16)
    assert mixed["bytes_per_token"] == 3 * (34 + 18)
    assert half["bytes_per_token"] == 3 * 2 * row.bytes(FORMATS["f16"])
    for result in known["results"]:
        low, high = result["perplexity_change_interval"]
        assert low <= result["perplexity_change"] <= high
        assert 0 <= result["topk_agreement"] <= 1
        assert len(result["attention_error"]) == len(result["attention_drift"]) == 3
    assert mixed["attention_error"][0] > half["attention_error"][0]


def test_table(run: Run, model: Path, text: Path) -> None:
    ran = run("accuracy", model, "--text", text, "--formats", "f16,q8_0,q4_0")
    assert ran.code == 0
    assert "tiny: 3 layers, 2 KV heads of 16; text.txt" in ran.out
    assert "With a float32 cache the perplexity is" in ran.out
    lines = [line.split() for line in ran.out.split("\n")]
    saved = {line[0]: line[2] for line in lines if line and line[0] in ("f16", "q8_0", "q4_0")}
    assert saved == {"f16": "0.0", "q8_0": "46.9", "q4_0": "71.9"}


def test_the_same_seed_gives_the_same_document(run: Run, model: Path, text: Path) -> None:
    command = ("accuracy", model, "--text", text, "--formats", "q4_0", "--json")
    assert run(*command).json == run(*command).json
    first, other = run(*command).json, run(*command, "--seed", 1).json
    assert first["reference"]["perplexity"] == other["reference"]["perplexity"]
    assert first["reference"]["perplexity_interval"] != other["reference"]["perplexity_interval"]


def test_the_folder(run: Run, model: Path, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "found"
    ran = run("accuracy", model, "--text", text, "--formats", "f16,q4_0", "--out", out, "--json")
    assert json.loads((out / "accuracy.json").read_text()) == ran.json
    with (out / "accuracy.csv").open(newline="") as file:
        rows = [*csv.DictReader(file)]
    assert [row["format"] for row in rows] == ["f16", "q4_0"]
    for row, result in zip(rows, ran.json["results"], strict=True):
        assert float(row["perplexity"]) == result["perplexity"]
        assert float(row["perplexity_change_low"]) == result["perplexity_change_interval"][0]
        assert float(row["attention_error_max"]) == max(result["attention_error"])
    assert sorted(path.name for path in out.iterdir()) == ["accuracy.csv", "accuracy.json"]


def test_the_text_that_comes_with_the_package(run: Run, model: Path) -> None:
    known = run("accuracy", model, "--formats", "f16", "--tokens", 60, "--json").json
    assert known["text"]["name"] == "alice.txt"
    assert sum(known["segments"]) == 61  # with the token that begins


def test_gguf(run: Run, text: Path, tmp_path: Path) -> None:
    path = tiny.write_gguf(tmp_path / "tiny.gguf", kind="Q8_0")
    ran = run("accuracy", path, "--text", text, "--formats", "q8_0", "--tokens", 30, "--json")
    assert ran.code == 0
    assert ran.json["model"]["name"] == "tiny"
    assert ran.json["segments"] == [30]


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--formats", "q9"), 2, "--formats: unknown format 'q9'"),
        (("--formats", "f16,f16"), 2, "--formats: expected each setting once"),
        (("--formats", ""), 2, "--formats: unknown format ''"),
        (("--context", 97), 2, "--context: expected at most the 96 tokens of the model, not 97"),
        (("--formats", "int8-g64"), 3, "int8-g64: expected rows of whole blocks of 64 values, not of 32"),
        (("--text", "nowhere.txt"), 3, "nowhere.txt: expected a text; there is no such file"),
    ],
)  # fmt: skip
def test_mistakes(run: Run, model: Path, options: tuple[object, ...], code: int, said: str) -> None:
    ran = run("accuracy", model, "--tokens", 20, *options)
    assert (ran.code, ran.out) == (code, "")
    assert said in ran.err
    assert ran.err.count("\n") == 1


@pytest.mark.parametrize(("data", "said"), [(b"\xff\xfe", "in UTF-8"), (b" \n", "not an empty one")])
def test_texts_that_are_none(run: Run, model: Path, tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "odd.txt"
    path.write_bytes(data)
    ran = run("accuracy", model, "--text", path)
    assert (ran.code, ran.err.count("\n")) == (3, 1)
    assert "odd.txt: expected a text" in ran.err
    assert said in ran.err


def test_a_model_that_is_none(run: Run, tmp_path: Path) -> None:
    ran = run("accuracy", tmp_path)
    assert ran.code == 3
    assert "expected a GGUF file" in ran.err
