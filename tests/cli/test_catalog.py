import json
from pathlib import Path

import pytest

from kvbound.catalog import Kind, memory, names
from kvbound.llm.model import Llm
from kvbound.memory import Memory
from kvbound.policies import POLICIES
from kvbound.solvers.registry import METHODS
from tests.cli.conftest import Run

SECTIONS = {
    "memory": names(Kind.MEMORY),
    "llm": names(Kind.LLM),
    "gpu": names(Kind.GPU),
    "policy": (*POLICIES, "best"),
    "method": tuple(METHODS),
}


def test_the_overview_has_everything(run: Run) -> None:
    assert {kind: tuple(known) for kind, known in run("catalog", "--json").json.items()} == SECTIONS
    text = run("catalog").out
    assert all(name in text for known in SECTIONS.values() for name in known)


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_has_a_row_and_an_entry_per_name(section: str, run: Run) -> None:
    table = run("catalog", section).out
    entries = run("catalog", section, "--json").json
    assert set(entries) == set(SECTIONS[section])
    assert all(f"\n{name} " in f"\n{table}" for name in entries)
    for name in (SECTIONS[section][0], SECTIONS[section][-1]):
        assert run("catalog", section, name).out.startswith(("policy ", f"{name}: "))
        assert run("catalog", section, name, "--json").json == entries[name]


def test_every_number_comes_with_its_source(run: Run) -> None:
    for name in names(Kind.MEMORY):
        text = " ".join(run("catalog", "memory", name).out.split())
        for source in memory(name).sources.values():
            assert " ".join(source.split()) in text


def test_entries_have_the_form_of_instance_files(run: Run) -> None:
    Memory.from_mapping(run("catalog", "memory", "gh200-144", "--json").json)
    Llm.from_mapping(run("catalog", "llm", "gpt2", "--json").json)


def test_a_config_becomes_an_llm(run: Run, tmp_path: Path) -> None:
    config = {
        "model_type": "mistral", "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 128, "vocab_size": 100, "sliding_window": 32,
        "torch_dtype": "bfloat16",
    }  # fmt: skip
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    made = run("catalog", "llm", "--from-config", path, "--json").json
    assert made["kv_bytes_per_token_layer"] == 2 * 2 * 16 * 2
    assert made["windows"] == [32, 32, 32]
    assert Llm.from_mapping(made).layers == 3
    assert made["kv_bytes_per_token"] == 3 * 128
    formats = ("--kv-dtype", "fp8", "--weight-dtype", "int4")
    narrow = run("catalog", "llm", "--from-config", path, *formats, "--json")
    assert narrow.json["kv_bytes_per_token_layers"] == [64] * 3
    assert 4 * narrow.json["weight_bytes"] == made["weight_bytes"]
    text = run("catalog", "llm", "--from-config", path).out
    assert "KV per token" in text
    assert "2 (K and V) x 2 heads x 16 x 2 B" in text
    assert "32 tokens in all layers" in text


@pytest.mark.parametrize(
    "argv",
    [
        ("llm", "--from-config", "config.json", "--kv-dtype", "int3"),
        ("llm", "--from-config", "config.json", "--weight-dtype", "half"),
        ("llm", "gpt2", "--kv-dtype", "fp8"),
    ],
)
def test_invalid_formats_are_refused(run: Run, tmp_path: Path, argv: tuple[str, ...]) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    ran = run("catalog", *[tmp_path / "config.json" if arg == "config.json" else arg for arg in argv])
    assert (ran.code, ran.out) == (2, "")
    assert "-dtype" in ran.err


def test_an_invalid_config_is_refused(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    for text in ("{}", "[]", "{", '{"num_hidden_layers": -1}'):
        path.write_text(text)
        ran = run("catalog", "llm", "--from-config", path)
        assert (ran.code, ran.out, ran.err.count("\n")) == (3, "", 1)
    assert run("catalog", "llm", "--from-config", tmp_path / "none.json").code == 3


def test_the_hint_completes_the_prefix_of_a_name(run: Run) -> None:
    for name, whole in (("h100", "h100-pcie5"), ("gh200-144-lp", "gh200-144-lpddr384"), ("gb20", "gb200")):
        assert f"did you mean {whole!r}?" in run("catalog", "memory", name).err
    assert "did you mean" not in run("catalog", "memory", "xyz").err


def test_choices_are_refused_in_plain_words(run: Run) -> None:
    assert run("catalog", "foo").err.startswith("kvbound: Invalid value for 'SECTION': 'foo' is not one of")
