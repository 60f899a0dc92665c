"""Regression: configurations once read wrongly give the right values, or a refusal that names the key."""

import sys
from typing import Any

import pytest

from kvbound.errors import InputError, install_command
from kvbound.llm.config import from_config, read_config
from tests.paths import DATA

CASES = DATA / "llm-configs"
ELSEWHERE = {"README", "published", "reference"}

# KV bytes per token of each layer, windows, parameters (None: not stated)
RIGHT: dict[str, tuple[list[int], list[int | None], float | None]] = {
    "class-defaults": ([4096] * 34, ([*[1024] * 5, None] * 6)[:34], None),
    "command-r": ([2 * 64 * 128 * 2] * 40, [None] * 40, 34.98e9),
    "gemma-3-27b": ([8192] * 62, ([*[1024] * 5, None] * 11)[:62], 27.0e9),
    "gpt-oss-20b": ([2048] * 24, [128, None] * 12, 20.9e9),
    "group-num": ([64] * 4, [None] * 4, None),
    "interleaved-experts": ([2 * 2 * 8 * 2] * 4, [16, 16, 16, None], 428_096),
    "json-bom": ([64] * 4, [None] * 4, None),
    "kv-cache-fp8": ([32] * 4, [None] * 4, None),
    "llama-4-maverick": ([4096] * 48, [8192, 8192, 8192, None] * 12, 400.7e9),
    "llama-4-scout": ([4096] * 48, [8192, 8192, 8192, None] * 12, 107.8e9),
    "llava-1.5-7b": ([16384] * 32, [None] * 32, 6.74e9),
    "no-gate": ([64] * 4, [None] * 4, None),
    "tied-by-default": ([64] * 4, [None] * 4, None),
}
# types that need transformers; None: it does not have them, or not in a form that can be read
WITH_TRANSFORMERS: dict[str, list[int] | None] = {
    "attention-groups": None,
    "cla-share": None,
    "global-heads": [256] * 5 + [128],
    "hunyuan-large": None,
    "kimi-linear": None,
    "kv-heads-per-layer": None,
    "kv-shared-layers": [128, 128, 256, 128, 0, 0],
    "linear-attn-list": None,
    "minimax-text-01": None,
    "nemotron-nas-49b": None,
    "recurrent-blocks": None,
    "recurrentgemma2": None,
    "sparse-indexer": [(32 + 4 + 16) * 2] * 4,
}


def test_every_case_is_here() -> None:
    assert {path.stem for path in CASES.iterdir()} - ELSEWHERE == {*RIGHT, *WITH_TRANSFORMERS}


@pytest.mark.parametrize("name", RIGHT)
def test_right_values(name: str) -> None:
    kv, windows, parameters = RIGHT[name]
    model = read_config(CASES / f"{name}.json")
    assert list(model.kv_bytes_per_token) == kv
    assert list(model.windows) == windows
    if parameters is not None:
        assert model.parameters == pytest.approx(parameters, rel=5e-3)
    assert from_config(CASES / f"{name}.json").kv_bytes(1) == sum(kv)


def test_weights() -> None:
    oss = read_config(CASES / "gpt-oss-20b.json")
    assert oss.weight_bytes == pytest.approx(13.8e9, rel=5e-3)
    assert "quantized (mxfp4)" in oss.sources["weight_bytes"]
    ungated = read_config(CASES / "no-gate.json")
    assert set(ungated.weight_read_bytes) == {2 * (2 * 64 * 64 + 2 * 64 * 16 + 2 * 64 * 96)}
    interleaved = read_config(CASES / "interleaved-experts.json")
    assert interleaved.weight_read_bytes[0] != interleaved.weight_read_bytes[1]
    tied = read_config(CASES / "tied-by-default.json")
    assert "1,000 x 64 in embeddings and output" in tied.sources["weight_bytes"]


def test_defaults_of_the_model_class_are_stated() -> None:
    model = read_config(CASES / "class-defaults.json")
    assert "num_key_value_heads 4" in model.sources["defaults"]
    assert "vocab_size 262,208" in model.sources["defaults"]
    assert "defaults" not in read_config(CASES / "command-r.json").sources


@pytest.mark.parametrize("name", WITH_TRANSFORMERS)
def test_other_types_are_refused_without_transformers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"without transformers") as caught:
        read_config(CASES / f"{name}.json")
    assert caught.value.field in ("model_type", "text_config.model_type")
    assert install_command("hf") in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_TRANSFORMERS)
def test_other_types_with_transformers(name: str, transformers: Any) -> None:
    right = WITH_TRANSFORMERS[name]
    if right is None:
        with pytest.raises(InputError):
            read_config(CASES / f"{name}.json")
        return
    assert list(read_config(CASES / f"{name}.json").kv_bytes_per_token) == right
    assert from_config(CASES / f"{name}.json").kv_sizes == tuple(right)
