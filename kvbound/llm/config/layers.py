"""Count the parameters and cached values of a model of a known type from its ``config.json``.

Parameters held are those of all tensors (matrices, norms, biases, embeddings). Parameters read in a
layer's slot are those of the matrices of attention and feed-forward that a token passes through: norms
and biases are less than 0.2 % of them, and the embedding and the output projection belong to no layer.
"""

from __future__ import annotations

from dataclasses import dataclass

from kvbound.llm.config.families import Experts, Family, Flag
from kvbound.llm.config.keys import Keys
from kvbound.llm.config.model import Layer, Model
from kvbound.llm.config.windows import windows
from kvbound.llm.model import MAX_LAYERS


@dataclass(frozen=True)
class _Part:
    matrices: int
    vectors: int
    how: str


def count(keys: Keys, family: Family) -> Model:
    """Count the parameters of a model's layers and those outside them.

    Raises
    ------
    InputError
        A field is missing, out of range, or contradicts the model type.
    """
    depth = keys.integer("num_hidden_layers", high=MAX_LAYERS)
    hidden = keys.integer("hidden_size")
    if family.attention == "latent":
        attention, kv_values, kv_how = _latent_attention(keys, family, hidden)
    else:
        attention, kv_values, kv_how = _attention(keys, family, hidden)
    norm = hidden * (2 if family.norm_bias else 1)
    vectors = attention.vectors + _norms(keys, family) * norm
    layers = []
    for index, window in enumerate(windows(keys, family, depth)):
        block = _feed_forward(keys, family, hidden, index)
        layers.append(
            Layer(
                kv_values, window, attention.matrices, block.ffn, block.experts, block.active, block.router,
                vectors + block.vectors, f"(attention {attention.how} + FFN {block.how})", kv_how,
                block.routed, block.chosen,
            )
        )  # fmt: skip
    outside, how = _outside(keys, family, hidden, norm)
    return Model(tuple(layers), outside, how)


def _flag(keys: Keys, flag: Flag) -> bool:
    return keys.boolean(flag) if isinstance(flag, str) else flag


def _attention(keys: Keys, family: Family, hidden: int) -> tuple[_Part, int, str]:
    heads = keys.integer("num_attention_heads")
    kv_heads = _kv_heads(keys, family, heads)
    width = keys.integer("head_dim", default=0)
    if not width:
        if hidden % heads:
            raise keys.error("head_dim", f"a head size, as {hidden} is not a multiple of {heads} heads")
        width = hidden // heads
    inner, kv = heads * width, kv_heads * width
    vectors = (inner + 2 * kv) * _flag(keys, family.qkv_bias) + hidden * _flag(keys, family.out_bias)
    vectors += heads * family.sinks
    if family.head_norms and (not family.head_norms_if or keys.boolean(family.head_norms_if)):
        vectors += 2 * width if family.head_norms == "head" else inner + kv
    how = f"2 x {hidden} x {inner} + 2 x {hidden} x {kv}"
    kv_how = f"2 (K and V) x {kv_heads} {'head' if kv_heads == 1 else 'heads'} x {width}"
    return _Part(2 * hidden * inner + 2 * hidden * kv, vectors, how), 2 * kv, kv_how


def _kv_heads(keys: Keys, family: Family, heads: int) -> int:
    # Falcon's first generation states num_kv_heads beside multi_query and means the latter
    newer = keys.boolean("new_decoder_architecture")
    if family.multi_query and not newer and keys.boolean(family.multi_query):
        return 1
    if keys.stated("multi_query_attention") and not keys.boolean("multi_query_attention"):
        return heads
    kv_heads = keys.integer("num_key_value_heads", default=heads)
    if heads % kv_heads:
        expected = f"a divisor of the {heads} attention heads, not {kv_heads}"
        raise keys.error("num_key_value_heads", expected)
    return kv_heads


def _latent_attention(keys: Keys, family: Family, hidden: int) -> tuple[_Part, int, str]:
    heads = keys.integer("num_attention_heads")
    latent, rotary = keys.integer("kv_lora_rank"), keys.integer("qk_rope_head_dim")
    plain, value = keys.integer("qk_nope_head_dim"), keys.integer("v_head_dim")
    rank = keys.integer("q_lora_rank", default=0)
    query = heads * (plain + rotary)
    queried = hidden * rank + rank * query if rank else hidden * query
    cached = hidden * (latent + rotary) + latent * heads * (plain + value)
    out = heads * value * hidden
    vectors = rank + latent
    vectors += (rank + latent + rotary) * _flag(keys, family.qkv_bias) + hidden * _flag(keys, family.out_bias)
    how = f"Q {queried:,} + latent KV {cached:,} + O {out:,}"
    kv_how = f"({latent} latent + {rotary} rotary)"
    return _Part(queried + cached + out, vectors, how), latent + rotary, kv_how


@dataclass(frozen=True)
class _Block:
    ffn: int
    vectors: int
    how: str
    experts: int = 0
    active: int = 0
    router: int = 0
    routed: int = 0
    chosen: int = 0


def _feed_forward(keys: Keys, family: Family, hidden: int, layer: int) -> _Block:
    matrices = 3 if family.gated else 2
    experts = family.experts
    if experts and keys.integer(experts.count, low=0, default=0) and _has_experts(keys, experts, layer):
        return _experts(keys, experts, hidden, matrices)
    key = experts.dense_inner if experts else "intermediate_size"
    if keys.has("expansion_ratio"):
        inner = hidden * keys.integer("expansion_ratio")
    else:
        inner = keys.integer(key, **({"default": family.wide * hidden} if family.wide else {}))
    vectors = (inner * (matrices - 1) + hidden) * _flag(keys, family.ffn_bias)
    return _Block(matrices * hidden * inner, vectors, f"{matrices} x {hidden} x {inner}")


def _experts(keys: Keys, experts: Experts, hidden: int, matrices: int) -> _Block:
    number = keys.integer(experts.count)
    active = keys.integer(experts.active, high=number)
    inner = keys.integer(experts.inner)
    shared = inner if experts.shared == "1" else 0
    if experts.shared not in ("", "1"):
        shared = inner * keys.integer(experts.shared, low=0, default=0)
    gated = keys.integer(experts.shared_inner, low=0, default=0) if experts.shared_inner else 0
    shared += gated
    router = hidden * (number + (1 if gated else 0))
    one = matrices * hidden * inner
    how = f"router {router:,} + {active} of {number} experts of {matrices} x {hidden} x {inner}"
    if shared:
        how += f" + shared {matrices} x {hidden} x {shared}"
    vectors = number * experts.router_bias + number * (2 * inner + hidden) * experts.expert_bias
    ffn, held, read = matrices * hidden * shared, number * one, active * one
    return _Block(ffn, vectors, how, held, read, router, number, active)


def _has_experts(keys: Keys, experts: Experts, layer: int) -> bool:
    """Whether a layer has experts instead of one feed-forward part."""
    if experts.dense_inner == "intermediate_size_mlp":  # Llama 4
        listed = keys.items("moe_layers")
        if listed is not None:
            return layer in listed
        return (layer + 1) % keys.integer("interleave_moe_layer_step", default=1) == 0
    return (
        layer >= keys.integer("first_k_dense_replace", low=0, default=0)
        and layer not in (keys.items("mlp_only_layers") or ())
        and layer % keys.integer("moe_layer_freq", default=1) == 0
        and (layer + 1) % keys.integer("decoder_sparse_step", default=1) == 0
    )


def _norms(keys: Keys, family: Family) -> int:
    if not keys.has("parallel_attn"):
        return family.norms
    # Falcon: attention and feed-forward side by side share a norm in the first generation
    newer = keys.boolean("new_decoder_architecture")
    parallel = keys.integer("num_ln_in_parallel_attn", high=2, default=2 if newer else 1)
    return parallel if newer or keys.boolean("parallel_attn") else 2


def _outside(keys: Keys, family: Family, hidden: int, norm: int) -> tuple[int, str]:
    vocabulary = keys.integer("vocab_size")
    copies = 1 if keys.boolean("tie_word_embeddings") else 2
    rows = copies * vocabulary
    if family.positions is not None:
        rows += keys.integer("max_position_embeddings") + family.positions
    norms = norm * (family.final_norm + family.embedding_norm)
    total, how = rows * hidden + norms, f"{rows:,} x {hidden:,} in embeddings and output"
    if norms:
        how += f", {norms:,} in {'norms' if family.embedding_norm else 'a norm'}"
    if family.head_bias and copies == 2:
        total += vocabulary
        how += f", {vocabulary:,} in the output's bias"
    narrow = keys.integer("word_embed_proj_dim", default=hidden)
    if narrow != hidden:  # OPT-350m embeds in a smaller space
        total += copies * vocabulary * (narrow - hidden) + 2 * narrow * hidden
        total -= norm * (not keys.boolean("do_layer_norm_before", True))
        how = f"{total:,} in embeddings, their projections and output"
    return total, how
