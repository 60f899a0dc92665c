"""Counting parameters: what is read is held, and each part adds what it should."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kvbound.fields import Fields
from kvbound.llm_parts import Counted, count


def counted(layers: int = 2, **config: Any) -> Counted:
    return count(Fields(config, "config.json"), layers)


SIZES = st.fixed_dictionaries(
    {
        "model_type": st.sampled_from(["llama", "gpt2", "gemma2", "qwen2_moe", "qwen3", "opt", "unheard-of"]),
        "hidden_size": st.integers(1, 64).map(lambda n: 8 * n),
        "num_attention_heads": st.sampled_from([1, 2, 4, 8]),
        "intermediate_size": st.integers(1, 1000),
        "vocab_size": st.integers(1, 1000),
        "max_position_embeddings": st.integers(1, 100),
    },
    optional={
        "num_key_value_heads": st.just(1),
        "tie_word_embeddings": st.booleans(),
        "attention_bias": st.booleans(),
        "num_experts": st.integers(2, 9),
        "n_shared_experts": st.integers(0, 2),
        "shared_expert_intermediate_size": st.integers(0, 100),
    },
).map(lambda config: config | {"num_experts_per_tok": 2})


@given(SIZES, st.integers(1, 5))
def test_what_is_read_is_held(config: dict[str, Any], layers: int) -> None:
    all_of_it = counted(layers, **config)
    assert len(all_of_it.read) == layers
    assert 0 < sum(all_of_it.read) < all_of_it.held


@given(SIZES, st.integers(1, 5))
def test_layers_add_up(config: dict[str, Any], layers: int) -> None:
    none, one, many = (counted(n, **config).held for n in (1, 2, layers + 1))
    assert many - none == layers * (one - none)


@given(SIZES)
def test_untying_the_embeddings_adds_one_table(config: dict[str, Any]) -> None:
    tied, untied = (counted(**config | {"tie_word_embeddings": tied}).held for tied in (True, False))
    assert untied - tied == config["vocab_size"] * config["hidden_size"]


@given(SIZES)
def test_a_low_rank_query_replaces_the_full_one(config: dict[str, Any]) -> None:
    latent = {"kv_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8}
    d, query = config["hidden_size"], config["num_attention_heads"] * 12
    full = counted(**config | latent)
    low = counted(**config | latent | {"q_lora_rank": 3})
    assert full.kv_values == low.kv_values == 20
    assert full.read[0] - low.read[0] == d * query - 3 * (d + query)
