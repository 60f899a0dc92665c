"""Counting parameters: reads are at most the parameters held, and each part adds the expected number."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvbound.fields import Fields
from kvbound.llm.config import known_model
from kvbound.llm.config.model import Layer, Model, per_layer


def counted(**config: Any) -> Model:
    return known_model(Fields(config, "config.json"), config["model_type"])


def read(layer: Layer) -> int:
    return layer.attention + layer.ffn + layer.active + layer.router


SIZES = st.fixed_dictionaries(
    {
        "model_type": st.sampled_from(["llama", "gemma", "qwen2", "qwen3", "olmo2", "granite", "phi"]),
        "hidden_size": st.integers(1, 64).map(lambda n: 8 * n),
        "head_dim": st.none(),
        "num_attention_heads": st.sampled_from([1, 2, 4, 8]),
        "intermediate_size": st.integers(1, 1000),
        "vocab_size": st.integers(1, 1000),
        "num_key_value_heads": st.none() | st.just(1),
        "tie_word_embeddings": st.booleans(),
    },
)
EXPERTS: dict[str, Any] = {
    "model_type": "mixtral", "hidden_size": 64, "num_hidden_layers": 6, "num_attention_heads": 8,
    "num_key_value_heads": 2, "intermediate_size": 96, "vocab_size": 100,
}  # fmt: skip
QWEN: dict[str, Any] = EXPERTS | {
    "model_type": "qwen2_moe", "moe_intermediate_size": 8, "shared_expert_intermediate_size": 0,
    "num_experts": 8, "num_experts_per_tok": 2,
}  # fmt: skip
LATENT: dict[str, Any] = {
    "model_type": "deepseek_v3", "hidden_size": 64, "num_hidden_layers": 6, "num_attention_heads": 8,
    "intermediate_size": 96, "vocab_size": 100, "kv_lora_rank": 16, "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8, "v_head_dim": 8, "q_lora_rank": None, "moe_intermediate_size": 8,
    "n_routed_experts": 8, "num_experts_per_tok": 2,
}  # fmt: skip


@given(SIZES, st.integers(1, 5))
def test_reads_are_at_most_the_parameters_held(config: dict[str, Any], layers: int) -> None:
    model = counted(**config, num_hidden_layers=layers)
    assert len(model.layers) == layers
    assert 0 < sum(read(layer) for layer in model.layers) < model.parameters


@given(SIZES, st.integers(1, 5))
def test_layers_add_up(config: dict[str, Any], layers: int) -> None:
    none, one, many = (counted(**config, num_hidden_layers=n).parameters for n in (1, 2, layers + 1))
    assert many - none == layers * (one - none)


@given(SIZES)
def test_untying_the_embeddings_adds_one_table(config: dict[str, Any]) -> None:
    tied, untied = (counted(**config | {"tie_word_embeddings": tied}).parameters for tied in (True, False))
    bias = config["vocab_size"] if config["model_type"] == "phi" else 0
    assert untied - tied == config["vocab_size"] * config["hidden_size"] + bias


@given(st.integers(1, 16), st.data())
def test_a_token_reads_its_experts_and_memory_holds_all(experts: int, data: st.DataObject) -> None:
    active = data.draw(st.integers(1, experts))
    some = counted(**EXPERTS, num_local_experts=experts, num_experts_per_tok=active)
    one = counted(**EXPERTS, num_local_experts=experts, num_experts_per_tok=1)
    expert = 3 * 64 * 96
    assert read(some.layers[0]) == read(one.layers[0]) + (active - 1) * expert
    assert some.parameters == one.parameters
    assert some.parameters >= 6 * (read(some.layers[0]) + (experts - active) * expert)


def test_dense_layers_among_experts() -> None:
    def dense(config: dict[str, Any], **more: Any) -> list[bool]:
        return [layer.experts == 0 for layer in counted(**config | more).layers]

    assert dense(LATENT, first_k_dense_replace=2) == [True, True, False, False, False, False]
    frequency = dense(LATENT, first_k_dense_replace=0, moe_layer_freq=3)
    assert frequency == [False, True, True, False, True, True]
    assert dense(QWEN, decoder_sparse_step=2) == [True, False, True, False, True, False]
    assert dense(QWEN, mlp_only_layers=[5]) == [False] * 5 + [True]
    assert dense(QWEN, num_experts=0) == [True] * 6
    llama4 = EXPERTS | {"model_type": "llama4_text", "num_local_experts": 4}
    assert dense(llama4, moe_layers=[]) == [True] * 6
    assert dense(llama4, interleave_moe_layer_step=3) == [True, True, False] * 2


def test_a_low_rank_query_replaces_the_full_one() -> None:
    full, low = counted(**LATENT), counted(**LATENT | {"q_lora_rank": 3})
    assert full.layers[0].kv_values == low.layers[0].kv_values == 20
    assert read(full.layers[0]) - read(low.layers[0]) == 64 * 96 - 3 * (64 + 96)


@pytest.mark.parametrize(
    ("hows", "text"),
    [
        (["a", "a"], "a"),
        (["a", "b", "b"], "layer 0: a; layers 1 to 2: b"),
        (["a", "b"] * 5, "5 layers: a; 5 layers: b"),
    ],
)
def test_per_layer(hows: list[str], text: str) -> None:
    assert per_layer(hows) == text
