"""Number formats and quantization."""

from typing import Any

import pytest

from kvbound.errors import InputError
from kvbound.llm.config import Architecture, read_config

TINY: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 8,
    "num_key_value_heads": 2, "intermediate_size": 96, "vocab_size": 100, "torch_dtype": "bfloat16",
}  # fmt: skip
ATTENTION, FFN = 2 * 64 * 64 + 2 * 64 * 16, 3 * 64 * 96
REST = 2 * 2 * 64 + 64 + 200 * 64  # norms, embeddings, output


def tiny(quantization: dict[str, Any] | None = None, **more: Any) -> Architecture:
    formats = {key: more.pop(key) for key in ("kv_dtype", "weight_dtype") if key in more}
    return read_config(TINY | {"quantization_config": quantization} | more, **formats)


@pytest.mark.parametrize(
    ("quantization", "bits"),
    [
        ({"quant_method": "fp8"}, 8),
        ({"quant_method": "fp8", "weight_block_size": [8, 4]}, 9),
        ({"quant_method": "gptq", "bits": 4, "group_size": 20}, 5),
        ({"quant_method": "awq", "bits": 4, "group_size": -1}, 4),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, 8),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, 4.5),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, 4.5),
        ({"quant_method": "compressed-tensors",
          "config_groups": {"group_0": {"weights": {"num_bits": 4, "group_size": 16}}}}, 5),
    ],
)  # fmt: skip
def test_quantized_matrices(quantization: dict[str, Any], bits: float) -> None:
    model = tiny(quantization)
    assert model.weight_read_bytes[0] == pytest.approx((ATTENTION + FFN) * bits / 8, abs=1)
    held = 2 * (ATTENTION + FFN) * bits / 8 + 2 * REST
    assert model.weight_bytes == pytest.approx(held, rel=1e-4)
    assert f"quantized ({quantization['quant_method']})" in model.sources["weight_bytes"]
    assert model.kv_bytes_per_token == (64, 64)


def test_modules_that_are_not_quantized() -> None:
    for kept in ("model.layers.*.self_attn", "re:.*self_attn.*"):
        model = tiny({"quant_method": "fp8", "modules_to_not_convert": [kept, "lm_head"]})
        assert model.weight_read_bytes[0] == pytest.approx(2 * ATTENTION + FFN, abs=1)
    one_layer = tiny({"quant_method": "fp8", "ignore": ["model.layers.0.self_attn"]})
    assert one_layer.weight_read_bytes[0] == pytest.approx(ATTENTION + FFN, abs=1)


def test_an_unknown_method_is_marked_as_a_guess() -> None:
    model = tiny({"quant_method": "hqq"})
    assert model.weight_bytes == tiny().weight_bytes
    assert "a guess" in model.sources["weight_bytes"]
    assert "'hqq'" in model.sources["weight_bytes"]


@pytest.mark.parametrize(
    ("quantization", "more", "size"),
    [
        ({"quant_method": "modelopt", "kv_cache_scheme": {"num_bits": 8, "type": "float"}}, {}, 32),
        ({"quant_method": "modelopt", "kv_cache_quant_algo": "FP8"}, {}, 32),
        ({"quant_method": "modelopt", "kv_cache_quant_algo": "NVFP4"}, {}, 16),
        (None, {"kv_cache_dtype": "fp8"}, 32),
        (None, {"kv_cache_dtype": "auto"}, 64),
        (None, {"torch_dtype": "float32"}, 128),
        (None, {"torch_dtype": "auto"}, 64),
        ({"quant_method": "modelopt", "kv_cache_quant_algo": "FP8"}, {"kv_dtype": "bfloat16"}, 64),
        (None, {"kv_dtype": "int4"}, 16),
    ],
)
def test_cache_formats(quantization: dict[str, Any] | None, more: dict[str, Any], size: int) -> None:
    assert tiny(quantization, **more).kv_bytes_per_token == (size, size)


def test_given_formats() -> None:
    model = tiny({"quant_method": "fp8"}, weight_dtype="int4")
    assert model.weight_bytes == (2 * (ATTENTION + FFN) + REST) / 2
    assert model.weight_read_bytes[0] == (ATTENTION + FFN) / 2
    assert "int4, as asked for" in model.sources["weight_bytes"]
    assert model.kv_bytes_per_token == (64, 64)


@pytest.mark.parametrize(
    ("quantization", "more", "field"),
    [
        (
            {"kv_cache_quant_algo": "FP9"},
            {},
            "quantization_config.kv_cache_quant_algo",
        ),
        ({"quant_method": "gptq", "bits": 99}, {}, "quantization_config.bits"),
        ({"quant_method": "fp8", "ignore": "lm_head"}, {}, "quantization_config.ignore"),
        (None, {"kv_cache_dtype": "int3"}, "kv_cache_dtype"),
        (None, {"dtype": "int7"}, "dtype"),
    ],
)
def test_refused(quantization: dict[str, Any] | None, more: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        tiny(quantization, **more)
    assert caught.value.field == field


@pytest.mark.parametrize("option", ["kv_dtype", "weight_dtype"])
def test_unknown_formats(option: str) -> None:
    with pytest.raises(InputError, match=f"{option}: expected one of float32, "):
        tiny(None, **{option: "int3"})
