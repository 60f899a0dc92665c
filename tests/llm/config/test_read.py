"""config.json to Llm: published parameter counts, cache bytes, windows, refusals."""

import codecs
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvbound.errors import InputError
from kvbound.instance_io import make_instance
from kvbound.llm.config import from_config, read_config, read_llm
from kvbound.trace import Trace
from tests.instance_documents import two_tiers
from tests.paths import DATA

TINY: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 100,
    "torch_dtype": "bfloat16",
}
LATENT: dict[str, Any] = TINY | {
    "model_type": "deepseek_v2",
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "q_lora_rank": None,
    "n_routed_experts": 0,
}
MPT = {"model_type": "mpt", "num_key_value_heads": None}
EXPERTS = TINY | {"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2}


def test_attention_forms() -> None:
    def kv(config: dict[str, Any]) -> int:
        return from_config(config).kv_sizes[0]

    assert kv(TINY | {"num_key_value_heads": None}) == 2 * 8 * 8 * 2  # one KV head per query head
    assert kv(TINY) == 2 * 2 * 8 * 2
    assert kv(TINY | {"num_key_value_heads": 1}) == 2 * 8 * 2
    assert kv(TINY | {"head_dim": 32}) == 2 * 2 * 32 * 2
    assert kv(TINY | {"torch_dtype": "float32"}) == 2 * 2 * 8 * 4
    assert kv(LATENT) == (16 + 4) * 2
    falcon = TINY | {"model_type": "falcon", "num_key_value_heads": None}
    assert kv(falcon | {"multi_query": True, "num_kv_heads": 8}) == 2 * 8 * 2  # the first generation
    assert kv(falcon | {"new_decoder_architecture": True, "num_kv_heads": 4}) == 2 * 4 * 8 * 2
    assert kv(falcon | {"multi_query": False}) == 2 * 8 * 8 * 2
    glm = {key: value for key, value in TINY.items() if key != "num_key_value_heads"}
    glm |= {"model_type": "chatglm", "kv_channels": 16}
    assert kv(glm | {"multi_query_attention": True, "multi_query_group_num": 2}) == 2 * 2 * 16 * 2
    assert kv(glm | {"multi_query_attention": False, "multi_query_group_num": 1}) == 2 * 8 * 16 * 2


dense = st.builds(
    lambda layers, heads, groups, width, inner, vocabulary: {
        "model_type": "llama",
        "num_hidden_layers": layers,
        "num_attention_heads": heads * groups,
        "num_key_value_heads": heads,
        "hidden_size": heads * groups * width,
        "intermediate_size": inner,
        "vocab_size": vocabulary,
    },
    *[st.integers(1, high) for high in (8, 8, 8, 64, 5000, 50_000)],
)


@given(dense)
def test_counts_of_dense_models(config: dict[str, Any]) -> None:
    llm = from_config(config)
    d, kv = (
        config["hidden_size"],
        config["hidden_size"] * config["num_key_value_heads"] // config["num_attention_heads"],
    )
    matrices = 2 * d * d + 2 * d * kv + 3 * d * config["intermediate_size"]
    assert llm.kv_bytes_per_token_layer == 2 * kv * 2
    assert llm.weight_reads.tolist() == [2 * matrices] * llm.layers
    assert llm.weight_bytes == 2 * (llm.layers * (matrices + 2 * d) + d + 2 * d * config["vocab_size"])


@given(dense)
def test_gpt2_names_give_the_same_numbers(config: dict[str, Any]) -> None:
    plain = {key: value for key, value in config.items() if key != "num_key_value_heads"}
    plain |= {"model_type": "gpt2", "max_position_embeddings": 100}
    renamed = {
        "model_type": "gpt2",
        "n_layer": config["num_hidden_layers"],
        "n_head": config["num_attention_heads"],
        "n_embd": config["hidden_size"],
        "n_inner": config["intermediate_size"],
        "n_positions": 100,
        "vocab_size": config["vocab_size"],
    }
    assert from_config(renamed, "x") == from_config(plain, "x")


# parameters of published checkpoints, by their own index files
PUBLISHED = {
    "mistral-7b-v0.1": (7_241_732_096, {
        "model_type": "mistral", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 32000, "sliding_window": 4096}),
    "gemma-2-2b": (2_614_341_888, {
        "model_type": "gemma2", "hidden_size": 2304, "num_hidden_layers": 26, "num_attention_heads": 8,
        "num_key_value_heads": 4, "head_dim": 256, "intermediate_size": 9216, "vocab_size": 256000,
        "sliding_window": 4096}),
    "gemma-3-1b": (999_885_952, {
        "model_type": "gemma3_text", "hidden_size": 1152, "num_hidden_layers": 26, "num_attention_heads": 4,
        "num_key_value_heads": 1, "head_dim": 256, "intermediate_size": 6912, "vocab_size": 262144,
        "sliding_window": 512}),
    "qwen3-8b": (8_190_735_360, {
        "model_type": "qwen3", "hidden_size": 4096, "num_hidden_layers": 36, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 12288, "vocab_size": 151936}),
    "qwen3-30b-a3b": (30_532_122_624, {
        "model_type": "qwen3_moe", "hidden_size": 2048, "num_hidden_layers": 48, "num_attention_heads": 32,
        "num_key_value_heads": 4, "head_dim": 128, "intermediate_size": 6144, "moe_intermediate_size": 768,
        "num_experts": 128, "num_experts_per_tok": 8, "mlp_only_layers": [], "vocab_size": 151936}),
    "qwen1.5-moe-a2.7b": (14_315_784_192, {
        "model_type": "qwen2_moe", "hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 16,
        "num_key_value_heads": 16, "intermediate_size": 5632, "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632, "num_experts": 60, "num_experts_per_tok": 4,
        "vocab_size": 151936}),
    "deepseek-v2-lite": (15_706_484_224, {
        "model_type": "deepseek_v2", "hidden_size": 2048, "num_hidden_layers": 27, "num_attention_heads": 16,
        "kv_lora_rank": 512, "q_lora_rank": None, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
        "v_head_dim": 128, "intermediate_size": 10944, "moe_intermediate_size": 1408, "n_routed_experts": 64,
        "n_shared_experts": 2, "num_experts_per_tok": 6, "first_k_dense_replace": 1, "vocab_size": 102400}),
    "starcoderbase": (15_517_456_384, {
        "model_type": "gpt_bigcode", "n_embd": 6144, "n_layer": 40, "n_head": 48, "n_inner": 24576,
        "n_positions": 8192, "vocab_size": 49152, "multi_query": True}),
}  # fmt: skip


MORE = json.loads((DATA / "llm-configs/published.json").read_text())


@pytest.mark.parametrize("name", MORE)
def test_published_files(name: str) -> None:
    parameters, config = MORE[name]
    model = read_config(config)
    assert parameters in (None, model.parameters)
    assert "defaults" not in model.sources or config["model_type"] in ("gpt_oss", "smollm3")


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_parameter_counts(name: str) -> None:
    parameters, config = PUBLISHED[name]
    assert from_config(config).weight_bytes == 2 * parameters


def test_breakdown_states_each_number() -> None:
    latent = LATENT | {"n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 8,
                       "n_shared_experts": 1, "first_k_dense_replace": 2}  # fmt: skip
    llm = from_config(latent)
    assert set(llm.sources) == {
        "layers", "kv_bytes_per_token_layer", "weight_bytes", "weight_read_bytes_per_layer",
        "experts", "expert_bytes", "experts_read",
    }  # fmt: skip
    assert llm.sources["expert_bytes"] == "1,536 parameters, in values of 2 B"
    assert llm.sources["kv_bytes_per_token_layer"] == "(16 latent + 4 rotary) x 2 B (bfloat16)"
    how = llm.sources["weight_read_bytes_per_layer"]
    assert how.startswith("layers 0 to 1: (attention Q 6,144 + latent KV ")
    assert "FFN 3 x 64 x 96); layers 2 to 5: " in how
    assert "2 of 8 experts of 3 x 64 x 8 + shared 3 x 64 x 8" in how
    plain = {key: value for key, value in TINY.items() if key != "torch_dtype"}
    assert from_config(plain).sources["kv_bytes_per_token_layer"] == (
        "2 (K and V) x 2 heads x 8 x 2 B (no torch_dtype given)"
    )


def test_routed_experts_are_described_if_their_bytes_are_known() -> None:
    latent = LATENT | {"n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 8,
                       "n_shared_experts": 1, "first_k_dense_replace": 2}  # fmt: skip
    llm = from_config(latent)
    assert llm.expert_counts == (0, 0, 8, 8, 8, 8)
    assert llm.expert_sizes == (0, 0, *[2 * 3 * 64 * 8] * 4)  # three matrices of 16 bits, shared ones not
    assert llm.experts_read == 2
    others = llm.weight_reads - llm.experts_read * np.array(llm.expert_sizes)
    assert others[2:].min() > 0
    four = from_config(latent | {"moe_intermediate_size": 7}, weight_dtype="int4")
    assert four.expert_sizes[2] == 3 * 64 * 7 // 2
    odd = LATENT | {"hidden_size": 6, "moe_intermediate_size": 7, "n_routed_experts": 3,
                    "num_experts_per_tok": 1, "n_shared_experts": 0}  # fmt: skip
    assert from_config(odd, weight_dtype="int4").expert_counts == (3,) * 6  # 3 x 6 x 7 / 2 B are whole
    assert from_config(odd | {"hidden_size": 5}, weight_dtype="int4").experts_mapping() == {}
    assert from_config(TINY).experts_mapping() == {}


def test_reads_files_and_nested_configs(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(
        json.dumps({"model_type": "gemma3", "_name_or_path": "someone/some-model", "text_config": TINY})
    )
    llm = from_config(path)
    assert llm.name == "some-model"
    assert llm == from_config(TINY, "some-model")
    assert from_config(str(path), "other").name == "other"
    assert from_config(TINY).name == "llama"


def test_reads_llm_files(tmp_path: Path) -> None:
    model, own = tmp_path / "config.json", tmp_path / "llm.json"
    model.write_bytes(codecs.BOM_UTF8 + json.dumps(TINY).encode())
    own.write_text(json.dumps(read_config(TINY).to_mapping()))
    assert read_llm(model) == from_config(TINY)
    assert read_llm(own).to_mapping() == from_config(TINY).to_mapping()
    assert read_llm(model, kv_dtype="fp8").kv_bytes_per_token_layer == 32
    with pytest.raises(InputError, match="number formats do not go with"):
        read_llm(own, kv_dtype="fp8")


def test_layers_that_differ_are_shown_and_used_in_instances() -> None:
    model = replace(read_config(TINY), kv_bytes_per_token=(64, 64, 0, 64, 64, 0))
    assert (model.layers, model.kv_layers) == (6, 4)
    shown = model.to_mapping()
    assert shown["kv_bytes_per_token_layer"] == [64, 64, 0, 64, 64, 0]
    assert shown["kv_bytes_per_token"] == 256
    llm = model.to_llm()
    assert llm.kv_bytes_per_token_layer == llm.kv_sizes == (64, 64, 0, 64, 64, 0)
    reads = Trace.from_lists(2, [[[0, 1] if size else [] for size in llm.kv_sizes]] * 2)
    instance = make_instance("hybrid", memory=two_tiers(4, 1, 1000), llm=llm, trace=reads)
    assert instance.units.tolist() == [1, 1, 0, 1, 1, 0]
    assert instance.item_bytes.tolist() == [64, 64, 0, 64, 64, 0]
    assert read_config(TINY).to_mapping()["kv_bytes_per_token_layer"] == 64


def test_layers_without_a_cache_at_all_are_refused() -> None:
    model = replace(read_config(TINY), kv_bytes_per_token=(0,) * 6)
    with pytest.raises(InputError, match="a layer with at least 1 byte, not 0 in all"):
        model.to_llm()


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '"x"', "[" * 100_000, "\udcff"])
def test_unreadable_files(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=r"config\.json: expected a "):
        from_config(path)
    with pytest.raises(InputError, match="expected a readable file"):
        from_config(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"hidden_size": None}, "hidden_size"),
        ({"hidden_size": -64}, "hidden_size"),
        ({"hidden_size": 10**12}, "hidden_size"),
        ({"hidden_size": 65}, "head_dim"),
        ({"hidden_size": "64"}, "hidden_size"),
        ({"num_hidden_layers": None}, "num_hidden_layers"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers"),
        ({"num_hidden_layers": 1.5}, "num_hidden_layers"),
        ({"num_attention_heads": None}, "num_attention_heads"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"num_key_value_heads": 16}, "num_key_value_heads"),
        ({"num_key_value_heads": 0}, "num_key_value_heads"),
        ({"intermediate_size": None}, "intermediate_size"),
        ({"vocab_size": None}, "vocab_size"),
        ({"vocab_size": True}, "vocab_size"),
        ({"torch_dtype": "int7"}, "torch_dtype"),
        ({"torch_dtype": 16}, "torch_dtype"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
        ({"is_encoder_decoder": True}, "is_encoder_decoder"),
        ({"model_type": ["llama"]}, "model_type"),
        ({"model_type": None}, "model_type"),
        ({"model_type": "unheard-of"}, "model_type"),
        # keys this type is not known to have
        ({"model_type": "gpt2"}, "num_key_value_heads"),
        ({"model_type": "gpt_neox", "num_key_value_heads": None, "head_dim": 16}, "head_dim"),
        ({"num_local_experts": 8}, "num_local_experts"),
        ({"mamba_d_state": 16}, "mamba_d_state"),
        ({"kv_lora_rank": 16}, "kv_lora_rank"),
        ({"layer_types": ["full_attention"] * 6}, "layer_types"),
        ({"num_kv_shared_layers": 2}, "num_kv_shared_layers"),
        ({"num_attention_groups": 2}, "num_attention_groups"),
        ({"multi_query_group_num": 2}, "multi_query_group_num"),
        ({"use_cla": True, "cla_share_factor": 2}, "use_cla"),
        ({"attn_type_list": [0, 1] * 3}, "attn_type_list"),
        ({"block_configs": [{}] * 6}, "block_configs"),
        ({"index_head_dim": 16}, "index_head_dim"),
        ({"moe_layer_freq": 2}, "moe_layer_freq"),
        ({"attention_head_dim": 16}, "attention_head_dim"),
        ({"cla_share_factor": 2}, "cla_share_factor"),
        ({"num_hidden_groups": 2}, "num_hidden_groups"),
        ({"multi_query": True}, "multi_query"),
        ({"hybrid_ratio": 4}, "hybrid_ratio"),
        ({"sliding_window": 16}, "sliding_window"),
        ({"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 9}, "num_experts_per_tok"),
        ({"model_type": "qwen3_moe", "decoder_sparse_step": 0}, "decoder_sparse_step"),
        ({"model_type": "deepseek_v2", "num_experts_per_tok": None}, "num_experts_per_tok"),
        ({"model_type": "mistral", "sliding_window": -1}, "sliding_window"),
        ({"model_type": "qwen2", "layer_types": ["full_attention"]}, "layer_types"),
        ({"model_type": "qwen2", "layer_types": ["linear_attention"] * 6}, "layer_types.0"),
        ({"model_type": "qwen2", "layer_types": ["sliding_attention"] * 6, "use_sliding_window": True,
          "sliding_window": None}, "sliding_window"),
        ({"model_type": "gemma3_text", "sliding_window_pattern": 0}, "sliding_window_pattern"),
        ({"model_type": "llama4_text", "no_rope_layers": [1, 0]}, "no_rope_layers"),
        ({"model_type": "cohere2", "order_of_interleaved_layers": "global_attn_first"},
         "order_of_interleaved_layers"),
        (MPT | {"no_bias": False}, "no_bias"),
        (MPT | {"attn_config": {"kv_n_heads": 2}}, "attn_config.kv_n_heads"),
        (MPT | {"attn_config": {"attn_type": "multiquery_attention"}}, "attn_config.attn_type"),
        (
            {
                "vocab_size": 2**24, "hidden_size": 2**24, "num_hidden_layers": 4096,
                "intermediate_size": 2**24,
            },
            "weight_bytes",
        ),
    ],
)  # fmt: skip
def test_refused(more: dict[str, Any], field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError) as caught:
        from_config(TINY | more)
    assert caught.value.field == field
    assert str(caught.value).startswith(f"config.json: {field}: expected ")


@pytest.mark.parametrize(
    "more",
    [
        {"use_cla": False, "attn_type_list": None, "mlp_only_layers": []},  # say that there is none
        {"attention_dropout": 0.1, "layer_norm_eps": 1e-5, "use_cache": True, "rope_local_base_freq": 1e4},
        {"router_aux_loss_coef": 0.1, "pretraining_tp": 1, "_attn_implementation_autoset": True},
        {"moe_layer_freq": 1, "attn_type_list": [1] * 6, "num_nextn_predict_layers": 1},
        {"use_sliding_window": False, "sliding_window": 16, "max_window_layers": 3},
        {"use_cla": False, "cla_share_factor": 2, "head_dim": 8, "attention_head_dim": 8},
        {"initializer_range": 0.02, "image_token_index": 5, "transformers_version": "4.0"},
    ],
)
def test_keys_that_change_neither_cache_nor_sizes(more: dict[str, Any]) -> None:
    assert from_config(TINY | more) == from_config(TINY)
