"""The model types whose ``config.json`` is read here: what each type implies beyond its fields.

The class defaults of absent keys are data (``defaults.json``, from transformers). The tests compare every
type with the model that transformers builds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

Flag = bool | str  # true, false, or the key that determines it

_GPT_NAMES: Final = {
    "hidden_size": ("n_embd",),
    "num_hidden_layers": ("n_layer",),
    "num_attention_heads": ("n_head",),
    "max_position_embeddings": ("n_positions",),
    "intermediate_size": ("n_inner",),
}


@dataclass(frozen=True)
class Experts:
    """The keys of a mixture of experts.

    Parameters
    ----------
    count, active, inner
        Keys of the number of experts in a layer, of those that a token passes, and of an expert's width.
    shared
        Key of the number of shared experts, each as wide as `inner`; "1" is one shared expert without a key.
    shared_inner
        Key of the width of a shared expert with its own gate.
    router_bias, expert_bias
        Whether the router and the experts have biases.
    dense_inner
        Key of the width of layers without experts.
    """

    count: str = "num_local_experts"
    active: str = "num_experts_per_tok"
    inner: str = "intermediate_size"
    shared: str = ""
    shared_inner: str = ""
    router_bias: bool = False
    expert_bias: bool = False
    dense_inner: str = "intermediate_size"


@dataclass(frozen=True)
class Family:
    """The properties of a model type beyond the sizes in its file.

    Parameters
    ----------
    about
        Well-known models of this type.
    aliases
        Common key to its alternative names in this type.
    also
        Known keys that the model class does not declare: read nevertheless (head_dim), or without effect on
        cache and sizes.
    assume
        Values that the file must not contradict, by key or dotted path: others mean another architecture.
        None refuses all.
    attention
        ``grouped`` (one KV head for each group of query heads), or ``latent`` (one latent and one rotary
        key for all heads).
    multi_query
        Key that makes all heads share one KV head.
    windows
        Rule for layers that attend to a window; see `kvbound.llm.config.windows`.
    gated
        Whether there are three feed-forward matrices instead of two.
    wide
        Feed-forward width as a multiple of the hidden size, if no key states it.
    qkv_bias, out_bias, ffn_bias, norm_bias, head_bias
        Whether there are biases in each place.
    norms
        Number of norms in a layer, each as wide as the hidden size.
    head_norms
        Norms of queries and keys: as wide as one ``head``, shared by all, or as ``all`` heads; with
        `head_norms_if` only if that key is true.
    final_norm, embedding_norm
        Whether there are these norms outside the layers.
    sinks
        Whether there is one learned value per query head.
    positions
        Rows that a learned table of positions has beyond the number of positions; None if there is none.
    experts
        The keys of a mixture of experts, if the model is one.
    """

    about: str
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    also: tuple[str, ...] = ()
    assume: Mapping[str, Any] = field(default_factory=dict)
    attention: str = "grouped"
    multi_query: str = ""
    windows: str = ""
    gated: bool = True
    wide: int = 0
    qkv_bias: Flag = False
    out_bias: Flag = False
    ffn_bias: Flag = False
    norm_bias: Flag = False
    head_bias: bool = False
    norms: int = 2
    head_norms: str = ""
    head_norms_if: str = ""
    final_norm: bool = True
    embedding_norm: bool = False
    sinks: bool = False
    positions: int | None = None
    experts: Experts | None = None


_LLAMA: Final = Family(
    "Llama 2 and 3, SmolLM2, TinyLlama, Yi and others",
    qkv_bias="attention_bias", out_bias="attention_bias", ffn_bias="mlp_bias",
)  # fmt: skip
_QWEN2: Final = Family("Qwen2, Qwen2.5", windows="upper", qkv_bias=True, also=("head_dim",))
_QWEN3: Final = Family(
    "Qwen3", windows="upper", qkv_bias="attention_bias", out_bias="attention_bias", head_norms="head"
)
_GEMMA: Final = Family("Gemma", qkv_bias="attention_bias", out_bias="attention_bias")
_GPT2: Final = Family(
    "GPT-2", aliases=_GPT_NAMES, also=("n_ctx", "n_special", "scale_attn_by_inverse_layer_idx"),
    gated=False, wide=4, qkv_bias=True, out_bias=True, ffn_bias=True, norm_bias=True, positions=0,
)  # fmt: skip
_COHERE: Final = Family(
    "Command-R", qkv_bias="attention_bias", out_bias="attention_bias", norms=1,
    head_norms="all", head_norms_if="use_qk_norm", also=("head_dim",),
)  # fmt: skip
_DEEPSEEK: Final = Family(
    "DeepSeek-V3, DeepSeek-R1", attention="latent", qkv_bias="attention_bias", out_bias="attention_bias",
    also=("moe_layer_freq", "scoring_func", "topk_method", "ep_size", "seq_aux", "n_group", "topk_group",
          "num_nextn_predict_layers", "head_dim"),
    experts=Experts(
        count="n_routed_experts", inner="moe_intermediate_size", shared="n_shared_experts", router_bias=True
    ),
)  # fmt: skip
_GLM: Final = Family("GLM-4", qkv_bias="attention_bias")
_QWEN_EXPERTS: Final = Experts(count="num_experts", inner="moe_intermediate_size")

FAMILIES: Final[Mapping[str, Family]] = {
    "bloom": Family(
        "BLOOM", aliases={key: names for key, names in _GPT_NAMES.items() if key != "intermediate_size"}
        | {"hidden_size": ("n_embed",)},
        also=("n_inner", "num_attention_heads", "num_hidden_layers", "n_embed", "offset_alibi", "seq_length",
              "masked_softmax_fusion"),
        gated=False, wide=4, qkv_bias=True, out_bias=True, ffn_bias=True, norm_bias=True, embedding_norm=True,
    ),
    "chatglm": Family(
        "GLM-4 and ChatGLM2/3 as first published",
        aliases={
            "num_hidden_layers": ("num_layers",), "intermediate_size": ("ffn_hidden_size",),
            "vocab_size": ("padded_vocab_size",), "head_dim": ("kv_channels",),
            "num_key_value_heads": ("multi_query_group_num",),
        },
        also=("multi_query_attention", "add_qkv_bias", "add_bias_linear", "apply_query_key_layer_scaling",
              "apply_residual_connection_post_layernorm", "interleaved_qkv", "post_layer_norm",
              "bias_dropout_fusion"),
        assume={"rmsnorm": True, "post_layer_norm": True},
        qkv_bias="add_qkv_bias", out_bias="add_bias_linear", ffn_bias="add_bias_linear",
    ),
    "cohere": _COHERE,
    "cohere2": replace(
        _COHERE, about="Command-R7B, Command-A", windows="4", head_norms="",
        also=("sliding_window_pattern", "_sliding_window_pattern", "order_of_interleaved_layers",
              "layer_switch", "use_parallel_block", "use_embedding_sharing", "head_dim"),
        assume={"order_of_interleaved_layers": "local_attn_first", "use_gated_activation": True},
    ),
    "deepseek_v2": replace(
        _DEEPSEEK, about="DeepSeek-V2, DeepSeek-V2-Lite",
        experts=replace(_DEEPSEEK.experts or Experts(), router_bias=False),
    ),
    "deepseek_v3": _DEEPSEEK,
    "falcon": Family(
        "Falcon, both generations",
        aliases={
            "num_key_value_heads": ("num_kv_heads", "n_head_kv"), "intermediate_size": ("ffn_hidden_size",),
            "num_hidden_layers": ("n_layer",), "num_attention_heads": ("n_head",),
        },
        also=("apply_residual_connection_post_layernorm",), multi_query="multi_query",
        gated=False, wide=4, qkv_bias="bias", out_bias="bias", ffn_bias="bias", norm_bias=True,
    ),
    "gemma": _GEMMA,
    "gemma2": replace(_GEMMA, about="Gemma 2", windows="2", norms=4, also=("sliding_window_size",)),
    "gemma3_text": replace(
        _GEMMA, about="Gemma 3", windows="6", norms=4, head_norms="head",
        also=("sliding_window_pattern", "_sliding_window_pattern"),
    ),
    "glm": _GLM,
    "glm4": replace(_GLM, about="GLM-4-0414", norms=4),
    "gpt2": _GPT2,
    "gpt_bigcode": replace(_GPT2, about="StarCoder, SantaCoder", multi_query="multi_query", also=(
        "inference_runner", "pre_allocate_kv_cache", "max_sequence_length", "max_batch_size",
        "validate_runner_input", "n_ctx")),
    "gpt_neox": Family(
        "GPT-NeoX, Pythia", also=("use_parallel_residual",), gated=False, wide=4,
        qkv_bias="attention_bias", out_bias="attention_bias", ffn_bias=True, norm_bias=True,
    ),
    "gpt_oss": Family(
        "gpt-oss", windows="2", qkv_bias="attention_bias", out_bias="attention_bias", sinks=True,
        also=("experts_per_token", "initial_context_length", "swiglu_limit"),
        experts=Experts(router_bias=True, expert_bias=True),
    ),
    "gptj": replace(
        _GPT2, about="GPT-J", qkv_bias=False, out_bias=False, norms=1, positions=None, head_bias=True
    ),
    "granite": replace(_LLAMA, about="Granite 3", also=("head_dim",)),
    "granitemoe": Family(
        "Granite 3 MoE", qkv_bias="attention_bias", out_bias="attention_bias", experts=Experts(),
        also=("head_dim",),
    ),
    "llama": _LLAMA,
    "llama4_text": Family(
        "Llama 4, text", windows="chunks", qkv_bias="attention_bias", out_bias="attention_bias",
        also=("attn_temperature_tuning", "floor_scale", "no_rope_layer_interval"),
        experts=Experts(shared="1", dense_inner="intermediate_size_mlp"),
    ),
    "mistral": Family("Mistral, Mistral Nemo, Mistral Small", windows="all"),
    "mixtral": Family("Mixtral", windows="all", experts=Experts()),
    "mpt": Family(
        "MPT",
        aliases={
            "hidden_size": ("d_model",), "num_attention_heads": ("n_heads",),
            "num_hidden_layers": ("n_layers",),
        },
        also=("attn_config", "ffn_config", "fc_type"), gated=False,
        assume={"no_bias": True, "attn_config.attn_type": "multihead_attention", "attn_config.qk_ln": False,
                "attn_config.kv_n_heads": None},
    ),
    "nemotron": Family(
        "Nemotron 4, Minitron", gated=False, qkv_bias="attention_bias", out_bias="attention_bias",
        ffn_bias="mlp_bias", norm_bias=True,
    ),
    "olmo": Family("OLMo", qkv_bias="attention_bias", out_bias="attention_bias", norms=0, final_norm=False,
                   also=("head_dim",)),
    "olmo2": Family("OLMo 2", qkv_bias="attention_bias", out_bias="attention_bias", head_norms="all",
                    also=("head_dim",)),
    "opt": Family(
        "OPT", aliases={"intermediate_size": ("ffn_dim",)}, gated=False, positions=2,
        qkv_bias="enable_bias", out_bias="enable_bias", ffn_bias="enable_bias",
        norm_bias=True, assume={"layer_norm_elementwise_affine": True},
    ),
    "phi": Family(
        "Phi-1, Phi-1.5, Phi-2", gated=False, qkv_bias=True, out_bias=True, ffn_bias=True, norm_bias=True,
        norms=1, head_bias=True, assume={"qk_layernorm": False}, also=("head_dim",),
    ),
    "phi3": Family("Phi-3, Phi-3.5, Phi-4", windows="all", also=("head_dim",)),
    "qwen2": _QWEN2,
    "qwen2_moe": replace(
        _QWEN2, about="Qwen1.5-MoE, Qwen2-57B-A14B", qkv_bias="qkv_bias",
        experts=replace(_QWEN_EXPERTS, shared_inner="shared_expert_intermediate_size"),
    ),
    "qwen3": _QWEN3,
    "qwen3_moe": replace(
        _QWEN3, about="Qwen3-30B-A3B, Qwen3-235B-A22B", also=("head_dim", "max_window_layers"),
        aliases={"num_experts": ("num_local_experts",)}, experts=_QWEN_EXPERTS,
    ),
    "smollm3": replace(_LLAMA, about="SmolLM3", windows="no_rope", also=("max_window_layers", "head_dim")),
    "starcoder2": Family(
        "StarCoder2", windows="all", gated=False, also=("mlp_type", "norm_type", "head_dim"),
        qkv_bias="use_bias", out_bias="use_bias", ffn_bias="use_bias", norm_bias=True,
    ),
}  # fmt: skip

# models of text and images: the type of the language model if text_config does not state it
WRAPPERS: Final[Mapping[str, str]] = {
    "aya_vision": "cohere2",
    "gemma3": "gemma3_text",
    "llama4": "llama4_text",
    "llava": "llama",
    "llava_next": "llama",
    "llava_onevision": "qwen2",
    "mistral3": "mistral",
}
