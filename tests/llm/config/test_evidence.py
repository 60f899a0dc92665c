"""Types that are read from the models of transformers."""

import socket
import sys
from typing import Any

import pytest

from kvbound.errors import InputError
from kvbound.llm.config import evidence, read_config

SIZES: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2,
    "intermediate_size": 96, "vocab_size": 100, "torch_dtype": "bfloat16",
}  # fmt: skip


@pytest.fixture(autouse=True)
def offline(transformers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a configuration made the library reach for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


pytestmark = pytest.mark.slow


def test_dense() -> None:
    model = read_config(SIZES | {"model_type": "arcee", "head_dim": 8})
    assert model.kv_bytes_per_token == (64,) * 4
    matrices = 2 * 64 * 64 + 2 * 64 * 16 + 2 * 64 * 96
    assert model.weight_read_bytes == (2 * matrices,) * 4
    assert "on torch's meta device" in model.sources["model"]


def test_layers_without_kv() -> None:
    model = read_config({"model_type": "qwen3_next"})
    assert (model.layers, model.kv_layers) == (48, 12)
    assert [size > 0 for size in model.kv_bytes_per_token] == [False, False, False, True] * 12
    assert "36 layers: no KV" in model.sources["kv_bytes_per_token_layer"]


def test_only_active_experts_are_read() -> None:
    small = SIZES | {"model_type": "olmoe", "num_experts": 8}
    two, four = (read_config(small | {"num_experts_per_tok": active}) for active in (2, 4))
    assert four.weight_read_bytes[0] - two.weight_read_bytes[0] == 2 * 2 * 3 * 64 * 96
    assert four.parameters == two.parameters


def test_latent_caches() -> None:
    assert set(read_config({"model_type": "glm4_moe_lite"}).kv_bytes_per_token) == {(512 + 64) * 2}


def test_shared_blocks_count_once() -> None:
    model = read_config({"model_type": "zamba"})
    assert model.parameters == pytest.approx(7.23e9, rel=1e-3)
    assert sum(model.weight_read_bytes) > model.weight_bytes


def test_windows() -> None:
    model = read_config(SIZES | {"model_type": "olmo3", "sliding_window": 100})
    assert model.windows == (100, 100, 100, None)


FULL_ATTENTION = [4, 8, 12, 16, 20, 24, 27]
PUBLISHED: dict[str, tuple[float, list[int], dict[str, Any]]] = {
    "kimi-linear-48b": (49.1e9, [1152] * 7, {
        "model_type": "kimi_linear", "hidden_size": 2304, "intermediate_size": 9216,
        "num_attention_heads": 32, "num_key_value_heads": 32, "num_hidden_layers": 27,
        "kv_lora_rank": 512, "qk_rope_head_dim": 64, "mla_use_nope": True,
        "qk_nope_head_dim": 128, "v_head_dim": 128, "q_lora_rank": None, "head_dim": 72, "vocab_size": 163840,
        "linear_attn_config": {
            "full_attn_layers": FULL_ATTENTION, "head_dim": 128, "num_heads": 32, "short_conv_kernel_size": 4,
            "kda_layers": [layer for layer in range(1, 28) if layer not in FULL_ATTENTION]},
        "num_experts": 256, "num_experts_per_token": 8, "num_shared_experts": 1,
        "moe_intermediate_size": 1024, "first_k_dense_replace": 1, "moe_layer_freq": 1,
        "moe_router_activation_func": "sigmoid",
        "num_expert_group": 1, "topk_group": 1, "use_grouped_topk": True, "num_nextn_predict_layers": 0}),
    "qwen2.5-vl-7b": (7.616e9, [2048] * 28, {
        "model_type": "qwen2_5_vl", "hidden_size": 3584, "intermediate_size": 18944, "max_window_layers": 28,
        "num_attention_heads": 28, "num_hidden_layers": 28, "num_key_value_heads": 4, "sliding_window": 32768,
        "use_sliding_window": False, "vocab_size": 152064, "image_token_id": 151655,
        "rope_scaling": {"mrope_section": [16, 24, 24], "type": "mrope"},
        "vision_config": {"depth": 32, "hidden_size": 1280}}),
    "granite-4-h-small": (32.2e9, [4096] * 4, {
        "model_type": "granitemoehybrid", "hidden_size": 4096, "num_hidden_layers": 40,
        "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 768,
        "shared_intermediate_size": 1536,
        "layer_types": ["attention" if layer in (5, 15, 25, 35) else "mamba" for layer in range(40)],
        "num_local_experts": 72, "num_experts_per_tok": 10, "mamba_n_heads": 128, "mamba_d_state": 128,
        "mamba_d_head": 64, "mamba_n_groups": 1, "vocab_size": 100352, "position_embedding_type": "nope",
        "tie_word_embeddings": True}),
    "minimax-m2": (228.7e9, [4096] * 62, {
        "model_type": "minimax_m2", "hidden_size": 3072, "intermediate_size": 1536, "num_hidden_layers": 62,
        "num_attention_heads": 48, "num_key_value_heads": 8, "head_dim": 128, "num_local_experts": 256,
        "num_experts_per_tok": 8, "vocab_size": 200064, "attn_type_list": [1] * 62, "use_qk_norm": True,
        "rotary_dim": 64, "use_mtp": True, "num_mtp_modules": 3, "mtp_transformer_layers": 1}),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files(name: str) -> None:
    parameters, kv, config = PUBLISHED[name]
    model = read_config(config)
    assert model.parameters == pytest.approx(parameters, rel=5e-3)
    assert [size for size in model.kv_bytes_per_token if size] == kv
    if name.startswith("kimi"):
        layers = [layer + 1 for layer, size in enumerate(model.kv_bytes_per_token) if size]
        assert layers == FULL_ATTENTION


def test_text_within_images() -> None:
    text = {key: value for key, value in SIZES.items() if key != "torch_dtype"}
    text |= {"hidden_size": 512, "rope_parameters": {"rope_type": "default", "mrope_section": [8, 12, 12]}}
    model = read_config({"model_type": "qwen2_5_vl", "text_config": text | {"model_type": "qwen2_5_vl_text"}})
    assert model.kv_bytes_per_token == (2 * 2 * 64 * 2,) * 4
    assert model.parameters < 4e6  # without what reads images


def test_code_of_the_model_is_not_run() -> None:
    remote = {"auto_map": {"AutoConfig": "somebody/model--configuration.Config"}}
    with pytest.raises(InputError, match=r"a type that kvbound or transformers .* knows, not 'their-own'"):
        read_config(SIZES | remote | {"model_type": "their-own"})
    assert read_config(SIZES | remote | {"model_type": "arcee"}).kv_layers == 4


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"model_type": "arcee", "num_kv_shared_layers": 2}, "num_kv_shared_layers"),
        ({"model_type": "llama", "num_kv_shared_layers": 2}, "num_kv_shared_layers"),
        ({"model_type": "falcon", "num_kv_shared_layers": 2}, "num_kv_shared_layers"),
        ({"model_type": "arcee", "num_hidden_layers": 10**6}, "num_hidden_layers"),
        ({"model_type": "arcee", "num_hidden_layers": 10**30}, "num_hidden_layers"),
        ({"model_type": "olmoe", "num_experts": 10**30}, "num_experts"),
        ({"model_type": "arcee", "num_hidden_layers": "many"}, ""),
        ({"model_type": "cohere2_vision"}, "num_hidden_layers"),
        ({"model_type": "stablelm", "text_config": {"a": 1}}, ""),
        ({"model_type": "mamba"}, ""),
        ({"model_type": "recurrent_gemma"}, "model_type"),
        ({"model_type": "bart", "num_key_value_heads": None}, "model_type"),
        ({"model_type": "bert", "num_key_value_heads": None}, "model_type"),
        ({"model_type": "deepseek_v4", "num_key_value_heads": 1}, "model_type"),
    ],
)
def test_refused(more: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        read_config(SIZES | more)
    assert field in ("", caught.value.field)


def test_older_versions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "_OLDEST", (99, 0))
    with pytest.raises(InputError, match=r"without transformers 99\.0, not 'arcee'.* \(here is "):
        read_config(SIZES | {"model_type": "arcee"})


def test_known_types_do_not_import_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert read_config(SIZES | {"model_type": "llama"}).kv_layers == 4
