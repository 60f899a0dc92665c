"""Write what the tests of `kvbound.llm.config` compare with, from transformers.

``python -m tests.llm.config.reference`` (needs the extra ``hf``) writes

- ``kvbound/llm/config/defaults.json``: what the config class of each known type takes for absent keys;
- ``tests/data/llm-configs/reference.json``: parameters, values per token and windows of the model that
  transformers builds for each type's default configuration and for variants of it;

``python -m tests.llm.config.reference --types`` prints the model types that are read with the extra.
"""

import dataclasses
import json
import sys
from collections.abc import Iterator
from typing import Any

from kvbound.errors import InputError
from kvbound.fields import Fields
from kvbound.llm.config import evidence
from kvbound.llm.config.families import FAMILIES
from tests.paths import ROOT

DEFAULTS = ROOT / "kvbound/llm/config/defaults.json"
REFERENCE = ROOT / "tests/data/llm-configs/reference.json"

# NEEDED: what a default configuration lacks to run; VARIANTS: what it leaves untouched
SMALL = {"num_hidden_layers": 5}
BIASED = SMALL | {"attention_bias": True}
NEEDED: dict[str, dict[str, Any]] = {
    "deepseek_v2": {"num_experts_per_tok": 6},
    "nemotron": {"num_key_value_heads": 8},
}
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "bloom": [{"n_embed": 128, "n_layer": 4, "num_attention_heads": 4}],
    "cohere": [BIASED | {"num_key_value_heads": 8, "use_qk_norm": True, "tie_word_embeddings": False}],
    "cohere2": [
        BIASED | {"num_key_value_heads": 8, "head_dim": 64},
        SMALL | {"layer_types": ["full_attention", *["sliding_attention"] * 4], "sliding_window": 100},
    ],
    "deepseek_v2": [SMALL | {"q_lora_rank": None, "first_k_dense_replace": 1, "num_experts_per_tok": 6}],
    "deepseek_v3": [BIASED | {"q_lora_rank": None, "n_routed_experts": 8, "num_experts_per_tok": 2,
                              "n_group": 1, "topk_group": 1}],
    "falcon": [
        SMALL | {"new_decoder_architecture": True, "hidden_size": 512, "num_attention_heads": 8,
                 "num_kv_heads": 4, "bias": True},
        SMALL | {"new_decoder_architecture": True, "hidden_size": 512, "num_attention_heads": 8,
                 "num_kv_heads": 2, "num_ln_in_parallel_attn": 1, "ffn_hidden_size": 100},
        SMALL | {"multi_query": False, "parallel_attn": False, "hidden_size": 512, "num_attention_heads": 8,
                 "alibi": True, "bias": True, "num_kv_heads": 8},
    ],
    "gemma": [BIASED | {"num_key_value_heads": 1, "tie_word_embeddings": False}],
    "gemma2": [SMALL | {"attention_bias": True, "sliding_window": 64}],
    "gemma3_text": [BIASED | {"num_hidden_layers": 13, "sliding_window": 64}],
    "glm": [SMALL | {"attention_bias": False, "head_dim": 64}],
    "glm4": [SMALL | {"attention_bias": False, "num_key_value_heads": 8}],
    "gpt2": [SMALL | {"n_inner": 100, "n_positions": 77, "tie_word_embeddings": False}],
    "gpt_bigcode": [SMALL | {"multi_query": False}],
    "gpt_neox": [SMALL | {"attention_bias": False, "intermediate_size": 100, "tie_word_embeddings": True}],
    "gpt_oss": [SMALL | {"attention_bias": False, "num_local_experts": 8, "num_experts_per_tok": 2}],
    "gptj": [SMALL | {"n_inner": 100}],
    "granite": [BIASED | {"mlp_bias": True, "num_key_value_heads": 4}],
    "granitemoe": [BIASED | {"num_key_value_heads": 4}],
    "llama": [
        BIASED | {"mlp_bias": True, "head_dim": 64, "num_key_value_heads": 8, "tie_word_embeddings": True},
    ],
    "llama4_text": [
        {"num_hidden_layers": 8, "interleave_moe_layer_step": 2, "attention_bias": True,
         "num_local_experts": 4},
        SMALL | {"moe_layers": [1, 4], "no_rope_layers": [1, 0, 1, 0, 1], "attention_chunk_size": 16,
                 "num_local_experts": 4},
    ],
    "mistral": [SMALL | {"sliding_window": None, "head_dim": 64}],
    "mixtral": [SMALL | {"sliding_window": 77, "num_local_experts": 4, "tie_word_embeddings": True}],
    "mpt": [{"n_layers": 5, "d_model": 512, "n_heads": 4}],
    "nemotron": [
        BIASED | {"mlp_bias": True, "num_key_value_heads": 8, "head_dim": 64, "tie_word_embeddings": True},
    ],
    "olmo": [BIASED | {"num_key_value_heads": 8}],
    "olmo2": [BIASED | {"num_key_value_heads": 8}],
    "opt": [
        SMALL | {"word_embed_proj_dim": 512, "do_layer_norm_before": False, "hidden_size": 1024,
                 "num_attention_heads": 16},
        SMALL | {"enable_bias": False, "tie_word_embeddings": False},
    ],
    "phi": [SMALL | {"num_key_value_heads": 8}],
    "phi3": [SMALL | {"num_key_value_heads": 8, "sliding_window": 77}],
    "qwen2": [
        SMALL | {"num_key_value_heads": 4, "use_sliding_window": True, "max_window_layers": 2,
                 "sliding_window": 77},
    ],
    "qwen2_moe": [SMALL | {"qkv_bias": False, "mlp_only_layers": [1], "decoder_sparse_step": 2}],
    "qwen3": [BIASED | {"num_key_value_heads": 4, "head_dim": 64}],
    "qwen3_moe": [BIASED | {"head_dim": 128, "mlp_only_layers": [0], "decoder_sparse_step": 2}],
    "smollm3": [BIASED | {"mlp_bias": True, "use_sliding_window": True, "sliding_window": 77}],
    "starcoder2": [SMALL | {"use_bias": False, "sliding_window": 77}],
}  # fmt: skip


# types whose class does not declare head_dim, though the model reads it
WIDE = {"num_hidden_layers": 2, "head_dim": 48, "num_key_value_heads": 4, "num_attention_heads": 8}
for _kind in ("cohere", "cohere2", "granite", "granitemoe", "olmo", "olmo2", "phi", "phi3", "qwen2",
              "qwen2_moe", "qwen3_moe", "smollm3", "starcoder2"):  # fmt: skip
    VARIANTS[_kind] = [*VARIANTS[_kind], WIDE]


def class_defaults() -> dict[str, dict[str, Any]]:
    """Scalar defaults that the config classes declare."""
    import transformers

    base = {field.name for field in dataclasses.fields(transformers.PretrainedConfig)}
    found: dict[str, dict[str, Any]] = {}
    for kind in FAMILIES:
        if kind in transformers.CONFIG_MAPPING:
            found[kind] = {
                field.name: field.default
                for field in dataclasses.fields(transformers.CONFIG_MAPPING[kind])
                if field.name not in base
                and (field.default is None or isinstance(field.default, bool | int | float | str))
            }
    return found


def reference() -> dict[str, list[dict[str, Any]]]:
    """Each known type's configurations with what transformers' model of them has."""
    import transformers

    found: dict[str, list[dict[str, Any]]] = {}
    for kind in FAMILIES:
        if kind in transformers.CONFIG_MAPPING:
            found[kind] = [case(kind, more) for more in (NEEDED.get(kind, {}), *VARIANTS.get(kind, []))]
    return found


def case(kind: str, more: dict[str, Any]) -> dict[str, Any]:
    """One configuration and its model's figures."""
    fields = Fields({"model_type": kind, **more}, "config.json")
    model = evidence.read(fields, fields, kind)
    return {
        "config": {"model_type": kind, **more},
        "parameters": model.parameters,
        "kv_values": [layer.kv_values for layer in model.layers],
        "windows": [layer.window for layer in model.layers],
        "read": [layer.attention + layer.ffn + layer.active + layer.router for layer in model.layers],
    }


def types() -> Iterator[str]:
    """Model types read from the table or with transformers, by default configurations of four layers."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

    for kind in sorted({*FAMILIES, *CAUSAL}):
        fields = Fields({"model_type": kind, "num_hidden_layers": 4}, "config.json")
        try:
            if kind not in FAMILIES:
                evidence.read(fields, fields, kind)
        except InputError:
            continue
        yield kind


def main() -> None:
    """Write both files, or print the types."""
    if "--types" in sys.argv:
        print(*types(), sep="\n")
        return
    DEFAULTS.write_text(json.dumps(class_defaults(), indent=1) + "\n", encoding="utf-8")
    REFERENCE.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(reference(), separators=(",", ":")).replace('{"config"', '\n{"config"')
    REFERENCE.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
