"""From a Hugging Face ``config.json`` to an `Llm`.

Decoder-only models: multi-head, grouped-query, multi-query and latent attention (DeepSeek-V2/V3, whose
cache holds one latent and one rotary key per token), sliding windows, dense feed-forward layers and
mixtures of experts. `kvbound.llm_parts` counts the parameters.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from kvbound import llm_parts
from kvbound.errors import InputError
from kvbound.fields import Fields, join, located, show
from kvbound.llm import MAX_LAYERS, Llm
from kvbound.reading import read_bytes

_DTYPE_BYTES: Final = {"float32": 4, "float16": 2, "bfloat16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1}
# these say that some layers keep no KV cache of the usual form
_HYBRID: Final = ("ssm_cfg", "attn_layer_period", "layers_block_type", "hybrid_override_pattern",
                  "full_attention_interval", "mamba_d_state")  # fmt: skip
_PATTERNS: Final = {"gemma2": 2, "gemma3": 6, "gemma3_text": 6, "cohere2": 4}


def from_config(config: Mapping[str, Any] | str | Path, name: str | None = None) -> Llm:
    """Read a published architecture.

    Parameters
    ----------
    config
        A ``config.json``: its path, or what it holds. Nested ``text_config`` is used where the top
        level has no layers; null counts as absent.
    name
        Name of the result; by default the last part of ``_name_or_path``, else ``model_type``.

    Returns
    -------
    Llm
        Its `sources` tell how each number came about; `windows` holds each layer's sliding window.
        Weights and cache are counted in ``torch_dtype`` (2 bytes if not stated), for one sequence: of
        a mixture of experts only the active ones are read.

    Raises
    ------
    InputError
        For fields that are missing, absurd, or of an architecture without one KV cache per layer.
    """
    file, held = ("config.json", config) if isinstance(config, Mapping) else (config, _load(Path(config)))
    fields = Fields(_pick(held, file), file)
    _refuse_other_architectures(fields)
    layers = llm_parts.first(fields, "num_hidden_layers", "n_layer", "n_layers", high=MAX_LAYERS)
    counted = llm_parts.count(fields, layers)
    size, dtype = _value_bytes(fields)
    kind = fields.text("model_type", "")
    with located(file):
        return Llm(
            name=name or fields.text("_name_or_path", "").rstrip("/").split("/")[-1] or kind or "llm",
            layers=layers,
            kv_bytes_per_token_layer=counted.kv_values * size,
            weight_bytes=counted.held * size,
            weight_read_bytes_per_layer=_one_or_each([float(size * read) for read in counted.read]),
            source=f"{file}: {kind}" if kind else str(file),
            sources={
                "layers": "number of hidden layers",
                "kv_bytes_per_token_layer": f"{counted.kv_how} x {size} B ({dtype})",
                "weight_bytes": f"{counted.held:,} parameters x {size} B: {counted.held_how}",
                "weight_read_bytes_per_layer": f"{counted.read_how}, in values of {size} B",
            },
            windows=_windows(fields, kind, layers),
        )


def _load(path: Path) -> object:
    try:
        return json.loads(read_bytes(path))
    except (ValueError, RecursionError):
        raise InputError(path, "", "a JSON object, as the config.json of a model has it") from None


def _pick(held: object, file: object) -> dict[str, Any]:
    """The language model's own fields, without nulls."""
    fields = Fields(held, file)
    picked = {key: value for key in fields if (value := fields.raw(key)) is not None}
    if "text_config" in picked and not {"num_hidden_layers", "n_layer", "n_layers"} & set(picked):
        inner = fields.child("text_config")
        picked |= {key: value for key in inner if (value := inner.raw(key)) is not None}
    return picked


def _refuse_other_architectures(fields: Fields) -> None:
    if fields.has("is_encoder_decoder") and fields.boolean("is_encoder_decoder"):
        raise fields.error("is_encoder_decoder", "a decoder-only model")
    for key in _HYBRID:
        if fields.has(key):
            raise fields.error(key, "a model with one KV cache in every layer, not a hybrid")


def _value_bytes(fields: Fields) -> tuple[int, str]:
    key = "dtype" if fields.has("dtype") else "torch_dtype"
    name = fields.text(key, "").removeprefix("torch.")
    if name and name not in _DTYPE_BYTES:
        raise fields.error(key, f"one of {', '.join(_DTYPE_BYTES)}, not {name!r}")
    if not name:
        return 2, "no torch_dtype given"
    return _DTYPE_BYTES[name], f"{name}, before any quantization" if fields.has(
        "quantization_config"
    ) else name


def _one_or_each(values: list[float]) -> float | tuple[float, ...]:
    return values[0] if len(set(values)) == 1 else tuple(values)


def _windows(fields: Fields, kind: str, layers: int) -> tuple[int | None, ...]:
    """Sliding window of each layer, tokens; None is full attention."""
    window = llm_parts.first(fields, "sliding_window", default=0, low=0)
    if fields.has("layer_types"):
        return _windows_by_type(fields, window, layers)
    if not window or not fields.boolean("use_sliding_window", True):
        return (None,) * layers
    if fields.has("use_sliding_window"):  # Qwen: the lower layers attend fully
        full = fields.integer("max_window_layers", 0, MAX_LAYERS, default=0)
        return tuple(None if layer < full else window for layer in range(layers))
    key = "_sliding_window_pattern" if fields.has("_sliding_window_pattern") else "sliding_window_pattern"
    pattern = fields.integer(key, 1, MAX_LAYERS, default=_PATTERNS.get(kind, 0))
    # every pattern-th layer attends fully
    return tuple(None if pattern and (layer + 1) % pattern == 0 else window for layer in range(layers))


def _windows_by_type(fields: Fields, window: int, layers: int) -> tuple[int | None, ...]:
    types = fields.names("layer_types")
    if len(types) != layers:
        raise fields.error("layer_types", f"one entry for each of the {layers} layers, not {len(types)}")
    if "sliding_attention" in types and not window:
        raise fields.error("sliding_window", "the window of the sliding_attention layers, but it is missing")
    for layer, kind in enumerate(types):
        if kind not in ("full_attention", "sliding_attention"):
            raise fields.error(
                join("layer_types", str(layer)), f"full_attention or sliding_attention, not {show(kind)}"
            )
    return tuple(window if kind == "sliding_attention" else None for kind in types)
