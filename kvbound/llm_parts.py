"""Count a decoder-only model's parameters and cache values from the fields of its ``config.json``.

Parameters held are those of all tensors (matrices, norms, biases, embeddings). Parameters read in a
layer's slot are those of the matrices of attention and feed-forward that a token passes through: norms
and biases are less than 0.2 % of them, and the embedding and the output projection belong to no layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Final

from kvbound.fields import Fields

_MAX: Final = 2**24
_INNER: Final = ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size")
# what config.json leaves to the model_type: two feed-forward matrices instead of three ("ungated"),
# biases everywhere, tied embeddings by default, a learned table of positions, further norms
_TRAITS: Final = {
    "bloom": {"ungated", "biased", "tied"},
    "cohere2": {"tied"},
    "falcon": {"ungated", "tied"},
    "gemma": {"tied"},
    "gemma2": {"tied", "four norms"},
    "gemma3": {"tied", "four norms", "head norms"},
    "gemma3_text": {"tied", "four norms", "head norms"},
    "glm4": {"four norms"},
    "gpt2": {"ungated", "biased", "tied", "positions"},
    "gpt_bigcode": {"ungated", "biased", "tied", "positions"},
    "gpt_neox": {"ungated", "biased"},
    "gptj": {"ungated"},
    "mpt": {"ungated", "tied"},
    "opt": {"ungated", "biased", "tied", "positions"},
    "phi": {"ungated", "biased"},
    "qwen2": {"qkv biased"},
    "qwen2_moe": {"qkv biased"},
    "qwen3": {"head norms"},
    "qwen3_moe": {"head norms"},
    "starcoder2": {"ungated", "biased"},
}


@dataclass(frozen=True)
class Counted:
    """What a model holds and reads, in parameters and cache values, and how that came about.

    Parameters
    ----------
    kv_values
        Values a token leaves in the cache of one layer.
    held
        Parameters of the whole model.
    read
        Matrix parameters a token reads in each layer.
    """

    kv_values: int
    kv_how: str
    held: int
    held_how: str
    read: tuple[int, ...]
    read_how: str


@dataclass(frozen=True)
class _Part:
    read: int
    how: str
    held: int  # matrices, and the vectors beside them


def count(fields: Fields, layers: int) -> Counted:
    """Count the parameters of a model of `layers` layers.

    Raises
    ------
    InputError
        For fields that are missing or absurd.
    """
    traits = _TRAITS.get(fields.text("model_type", ""), set())
    hidden = first(fields, "hidden_size", "n_embd", "d_model")
    if fields.has("kv_lora_rank"):
        attention, kv_values, kv_how = _latent_attention(fields, hidden)
    else:
        attention, kv_values, kv_how = _attention(fields, traits, hidden)
    blocks = [_feed_forward(fields, traits, hidden, layer) for layer in range(layers)]
    norm = 2 * hidden if "biased" in traits else hidden
    norms = (4 if "four norms" in traits else 2) * norm
    vocabulary = first(fields, "vocab_size")
    copies = 1 if fields.boolean("tie_word_embeddings", "tied" in traits) else 2
    positions = first(fields, "n_positions", "max_position_embeddings") if "positions" in traits else 0
    rows = copies * vocabulary + positions
    inside = sum(attention.held + block.held + norms for block in blocks)
    return Counted(
        kv_values=kv_values,
        kv_how=kv_how,
        held=rows * hidden + inside + norm,
        held_how=f"{inside:,} in layers, {rows:,} x {hidden:,} in embeddings and output, {norm:,} in a norm",
        read=tuple(attention.read + block.read for block in blocks),
        read_how=_per_layer([f"(attention {attention.how} + FFN {block.how})" for block in blocks]),
    )


def first(fields: Fields, *keys: str, low: int = 1, high: int = _MAX, default: int | None = None) -> int:
    """The integer under the first of `keys` that is there."""
    for key in keys:
        if fields.has(key):
            return fields.integer(key, low, high)
    return fields.integer(keys[0], low, high) if default is None else default


def _attention(fields: Fields, traits: set[str], hidden: int) -> tuple[_Part, int, str]:
    heads = first(fields, "num_attention_heads", "n_head", "n_heads")
    kv_heads = _kv_heads(fields, heads)
    width = first(fields, "head_dim", default=0)
    if not width:
        if hidden % heads:
            raise fields.error("head_dim", f"a head size, as {hidden} is no multiple of {heads} heads")
        width = hidden // heads
    inner, kv = heads * width, kv_heads * width
    read = 2 * hidden * inner + 2 * hidden * kv
    vectors = 2 * width if "head norms" in traits else 0
    if traits & {"biased", "qkv biased"} or fields.boolean("attention_bias", False):
        vectors += inner + 2 * kv + (hidden if "qkv biased" not in traits else 0)
    how = f"2 x {hidden} x {inner} + 2 x {hidden} x {kv}"
    kv_how = f"2 (K and V) x {kv_heads} {'head' if kv_heads == 1 else 'heads'} x {width}"
    return _Part(read, how, read + vectors), 2 * kv, kv_how


def _kv_heads(fields: Fields, heads: int) -> int:
    # Falcon's first generation states num_kv_heads beside multi_query and means the latter
    newer = fields.boolean("new_decoder_architecture", False)
    if not newer and fields.boolean("multi_query", False):
        return 1
    keys = ("num_key_value_heads", "num_kv_heads", "n_head_kv")
    kv_heads = first(fields, *keys, default=heads)
    if heads % kv_heads:
        key = next(key for key in keys if fields.has(key))
        raise fields.error(key, f"a divisor of the {heads} attention heads, not {kv_heads}")
    return kv_heads


def _latent_attention(fields: Fields, hidden: int) -> tuple[_Part, int, str]:
    heads = first(fields, "num_attention_heads")
    latent, rotary = first(fields, "kv_lora_rank"), first(fields, "qk_rope_head_dim")
    plain, value = first(fields, "qk_nope_head_dim"), first(fields, "v_head_dim")
    rank = first(fields, "q_lora_rank", default=0)
    query = heads * (plain + rotary)
    asked = hidden * rank + rank * query if rank else hidden * query
    cached = hidden * (latent + rotary) + latent * heads * (plain + value)
    read = asked + cached + heads * value * hidden
    how = f"Q {asked:,} + latent KV {cached:,} + O {heads * value * hidden:,}"
    kv_how = f"({latent} latent + {rotary} rotary)"
    return _Part(read, how, read + rank + latent), latent + rotary, kv_how


def _feed_forward(fields: Fields, traits: set[str], hidden: int, layer: int) -> _Part:
    matrices = 2 if "ungated" in traits else 3
    experts = first(fields, "n_routed_experts", "num_local_experts", "num_experts", default=0, low=0)
    if not experts or _is_dense(fields, layer):
        inner = first(fields, *_INNER, default=4 * hidden if "ungated" in traits else None)
        read = matrices * hidden * inner
        return _Part(
            read, f"{matrices} x {hidden} x {inner}", read + (inner + hidden if "biased" in traits else 0)
        )
    active = first(fields, "num_experts_per_tok", high=experts)
    inner = first(fields, "moe_intermediate_size", *_INNER)
    shared = first(fields, "shared_expert_intermediate_size", default=0, low=0)
    router = hidden * (experts + (1 if shared else 0))
    shared += inner * first(fields, "n_shared_experts", default=0, low=0)
    always, expert = router + matrices * hidden * shared, matrices * hidden * inner
    how = f"router {router:,} + {active} of {experts} experts of {matrices} x {hidden} x {inner}"
    if shared:
        how += f" + shared {matrices} x {hidden} x {shared}"
    bias = experts if fields.text("topk_method", "") == "noaux_tc" else 0
    return _Part(always + active * expert, how, always + experts * expert + bias)


def _is_dense(fields: Fields, layer: int) -> bool:
    """Whether a layer of a mixture-of-experts model has one ordinary feed-forward part."""
    return (
        layer < first(fields, "first_k_dense_replace", default=0, low=0)
        or layer in fields.items("mlp_only_layers", ())
        or layer % first(fields, "moe_layer_freq", default=1) != 0
        or (layer + 1) % first(fields, "decoder_sparse_step", default=1) != 0
    )


def _per_layer(hows: list[str]) -> str:
    runs = [(how, len(list(run))) for how, run in groupby(hows)]
    if len(runs) == 1:
        return runs[0][0]
    texts, start = [], 0
    for how, length in runs[:8]:
        texts.append(f"layers {start} to {start + length - 1}: {how}")
        start += length
    return "; ".join(texts) + ("; and so on" if len(runs) > 8 else "")
