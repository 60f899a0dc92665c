"""Sliding windows of layers."""

from __future__ import annotations

from kvbound.fields import join, show
from kvbound.llm.config.families import Family
from kvbound.llm.config.keys import Keys
from kvbound.llm.model import MAX_LAYERS

_WINDOW_KEYS = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}


def windows(keys: Keys, family: Family, depth: int) -> tuple[int | None, ...]:
    """Return the sliding window of each layer in tokens; None is full attention.

    A chunk (Llama 4) counts as a window of the same length, as a layer reads at most this many tokens. Rules
    for the layers with windows: ``all``; ``upper``, those from max_window_layers on (Qwen); a number n, all
    but every n-th; ``no_rope``, those without rotary positions (SmolLM3); ``chunks``, those with them
    (Llama 4).
    """
    rule = family.windows
    off = keys.has("use_sliding_window") and not keys.boolean("use_sliding_window")
    if not rule or (off and not keys.stated("layer_types")):
        return (None,) * depth
    if keys.stated("layer_types"):
        return _by_type(keys, depth, rule, off)
    window = keys.integer("attention_chunk_size" if rule == "chunks" else "sliding_window", low=0, default=0)
    if not window:
        return (None,) * depth
    slides = _slides(keys, rule, depth)
    return tuple(window if slide else None for slide in slides)


def _slides(keys: Keys, rule: str, depth: int) -> list[bool]:
    layers = range(depth)
    match rule:
        case "all":
            return [True] * depth
        case "upper":  # the lower layers attend fully
            full = keys.integer("max_window_layers", 0, MAX_LAYERS, default=0)
            return [layer >= full for layer in layers]
        case "chunks":
            return _rotary(keys, depth)
        case "no_rope":
            return [not rotary for rotary in _rotary(keys, depth)]
    stated = next((key for key in ("sliding_window_pattern", "_sliding_window_pattern") if keys.has(key)), "")
    pattern = keys.integer(stated, 1, MAX_LAYERS) if stated else int(rule)
    return [(layer + 1) % pattern != 0 for layer in layers]


def _rotary(keys: Keys, depth: int) -> list[bool]:
    """Whether each layer has rotary positions: by no_rope_layers (1 if so), else all but every fourth."""
    listed = keys.items("no_rope_layers")
    if not listed:
        interval = keys.integer("no_rope_layer_interval", 1, MAX_LAYERS, default=4)
        return [(layer + 1) % interval != 0 for layer in range(depth)]
    if len(listed) != depth or any(entry not in (0, 1) for entry in listed):
        raise keys.error("no_rope_layers", f"0 or 1 for each of the {depth} layers, not {show(listed)}")
    return [entry == 1 for entry in listed]


def _by_type(keys: Keys, depth: int, rule: str, off: bool) -> tuple[int | None, ...]:
    types = keys.items("layer_types") or []
    if len(types) != depth:
        raise keys.error("layer_types", f"one entry for each of the {depth} layers, not {len(types)}")
    allowed: dict[str, int | None] = {"full_attention": None}
    kind = "chunked_attention" if rule == "chunks" else "sliding_attention"
    if kind in types:
        allowed[kind] = None if off else keys.integer(_WINDOW_KEYS[kind])
    for layer, entry in enumerate(types):
        if entry not in (kind, "full_attention"):
            expected = f"full_attention or {kind}, not {show(entry)}"
            raise keys.error(join("layer_types", str(layer)), expected)
    return tuple(allowed[entry] for entry in types)
