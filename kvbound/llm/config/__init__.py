"""Read a Hugging Face ``config.json`` as an `Llm`.

Only decoder-only models are supported. The types in `kvbound.llm.config.families` are read here; any other is
read with the config class and the model of transformers (extra ``hf``), and refused if that is not installed.
Unknown keys that may affect cache or weights are refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final

from kvbound.errors import InputError
from kvbound.fields import Fields, located, show
from kvbound.llm.config.architecture import Architecture
from kvbound.llm.config.bits import Bits, in_words, read_bits
from kvbound.llm.config.families import FAMILIES, WRAPPERS
from kvbound.llm.config.keys import Keys, unknown
from kvbound.llm.config.layers import count
from kvbound.llm.config.model import Model, per_layer
from kvbound.llm.formats import ROW_FIELDS
from kvbound.llm.model import Llm
from kvbound.reading import read_bytes, read_json

_MOST_BYTES: Final = 2**24

__all__ = ["Architecture", "from_config", "read_config", "read_llm"]


def from_config(
    config: Mapping[str, Any] | str | Path,
    name: str | None = None,
    *,
    kv_dtype: str | None = None,
    weight_dtype: str | None = None,
) -> Llm:
    """Read a published architecture as an `Llm`.

    Parameters
    ----------
    config, name, kv_dtype, weight_dtype
        As for `read_config`.

    Returns
    -------
    Llm
        Its `sources` explain each number; `windows` holds each layer's sliding window.

    Raises
    ------
    InputError
        As for `read_config`, and for models whose layers differ in KV size.
    """
    with located("config.json" if isinstance(config, Mapping) else config):
        return read_config(config, name, kv_dtype=kv_dtype, weight_dtype=weight_dtype).to_llm()


def read_llm(path: Path, *, kv_dtype: str | None = None, weight_dtype: str | None = None) -> Llm:
    """Read a JSON file that is a model's ``config.json``, or an `Llm` in the form of instance files.

    Raises
    ------
    InputError
        As for `from_config`, and if number formats are given with a file that states bytes.
    """
    held = _load(path)
    if not isinstance(held, Mapping) or "kv_bytes_per_token_layer" not in held:
        return from_config(path, kv_dtype=kv_dtype, weight_dtype=weight_dtype)
    if kv_dtype or weight_dtype:
        raise InputError(path, "", "a config.json, as number formats do not go with a file that states bytes")
    return Llm.from_mapping(read_json(path), path)


def read_config(
    config: Mapping[str, Any] | str | Path,
    name: str | None = None,
    *,
    kv_dtype: str | None = None,
    weight_dtype: str | None = None,
) -> Architecture:
    """Read a published architecture, layer by layer.

    Parameters
    ----------
    config
        A ``config.json``: its path or its contents. For a model of text and images the language model
        (``text_config``) is read.
    name
        Name of the result; by default the last part of ``_name_or_path``, else ``model_type``.
    kv_dtype, weight_dtype
        Number formats of cache and weights (`kvbound.llm.config.bits.FORMATS`). By default those of the
        file: its quantization, else ``torch_dtype``, else 2 bytes.

    Returns
    -------
    Architecture
        Its reads are those of one sequence: of a mixture of experts, the active ones.

    Raises
    ------
    InputError
        A field is missing or out of range, the model type is unknown, or an unknown key has a name that
        suggests layers, heads, experts, sharing or cache.
    """
    file, held = ("config.json", config) if isinstance(config, Mapping) else (config, _load(Path(config)))
    outer = Fields(held, file)
    if outer.raw("is_encoder_decoder", default=None) and outer.boolean("is_encoder_decoder"):
        raise outer.error("is_encoder_decoder", "a decoder-only model")
    fields, kind = _language_model(outer)
    bits = read_bits(fields, outer, kv_dtype, weight_dtype)
    label = name or _text(outer, "_name_or_path").rstrip("/").split("/")[-1] or kind
    model = _in_bytes(_read(fields, outer, kind), bits, label, kind, f"{file}: {kind}")
    given = {key: fields.raw(key, default=None) for key in ROW_FIELDS}
    return replace(model, config={key: value for key, value in given.items() if value is not None})


def _load(path: Path) -> object:
    try:
        return json.loads(read_bytes(path, most=_MOST_BYTES).decode("utf-8-sig"))
    except (ValueError, RecursionError):
        raise InputError(path, "", "a JSON object, as the config.json of a model has it") from None


def _language_model(outer: Fields) -> tuple[Fields, str]:
    """Return the part of the file that describes the language model, and its type."""
    kind = _text(outer, "model_type")
    for key in ("text_config", "llm_config", "language_config"):
        if outer.raw(key, default=None) is not None and kind not in FAMILIES:
            inner = outer.child(key)
            return inner, _text(inner, "model_type") or WRAPPERS.get(kind, kind)
    if not kind:
        raise outer.error("model_type", "the type of the model, such as 'llama', but the field is missing")
    return outer, kind


def _table(fields: Fields, key: str) -> Fields:
    """Return the table under `key`, empty if it is absent or null."""
    if fields.raw(key, default=None) is None:
        return Fields({}, fields.file, fields.at(key))
    return fields.child(key)


def _text(fields: Fields, key: str) -> str:
    return fields.text(key) if fields.raw(key, default=None) is not None else ""


@cache
def class_defaults() -> Mapping[str, Mapping[str, Any]]:
    """Return for each model type the defaults of its config class in transformers."""
    text = resources.files("kvbound.llm.config").joinpath("defaults.json").read_text(encoding="utf-8")
    return json.loads(text)


# keys that some classes have under other names, or that do not affect the cache
_ALWAYS: Final = ("attention_bias", "num_attention_heads", "num_hidden_layers")


def _read(fields: Fields, outer: Fields, kind: str) -> Model:
    """Read a model by the table of families, or else, for unknown types or keys, with transformers."""
    from kvbound.llm.config import evidence

    unknown_keys = unknown(fields, _known_keys(kind)) if kind in FAMILIES else []
    if unknown_keys and (kind in evidence.EXPANDED or not evidence.installed()):
        raise fields.error(unknown_keys[0], f"a key that {kind} models are known to have; {evidence.hint()}")
    if kind in FAMILIES and not unknown_keys:
        return known_model(fields, kind)
    return evidence.read(fields, outer, kind)


def _known_keys(kind: str) -> set[str]:
    family = FAMILIES[kind]
    aliases = {name for key, names in family.aliases.items() for name in (key, *names)}
    return {*class_defaults().get(kind, {}), *aliases, *family.also, *family.assume, *_ALWAYS}


def known_model(fields: Fields, kind: str) -> Model:
    """Count the parameters and cached values of a model of a type in the table.

    Raises
    ------
    InputError
        As for `read_config`.
    """
    family = FAMILIES[kind]
    keys = Keys(fields, family.aliases, class_defaults().get(kind, {}))
    for path, value in family.assume.items():
        *tables, key = path.split(".")
        place = fields
        for name in tables:
            place = _table(place, name)
        if (found := place.raw(key, default=None)) not in (None, value):
            only = "nothing" if value is None else repr(value)
            raise place.error(key, f"{only}, the only form of {kind} that is read, not {show(found)}")
    model = count(keys, family)
    if not keys.assumed:
        return model
    assumed = ", ".join(f"{key} {value:,}" for key, value in keys.assumed.items())
    remark = f"{assumed}: not in the file, so what the model class of {kind} takes"
    return Model(model.layers, model.outside, model.outside_how, {"defaults": remark})


def _in_bytes(model: Model, bits: Bits, name: str, kind: str, source: str) -> Architecture:
    kept = tuple(bits.kept(layer) for layer in model.layers)
    read = tuple(bits.read(layer) for layer in model.layers)
    inside = model.parameters - model.outside
    uniform = {bits.attention, bits.ffn, bits.experts} == {Fraction(bits.plain)}
    held = f"{model.parameters:,} parameters x {in_words(bits.plain)}"
    read_in = f"in values of {in_words(bits.plain)}"
    if not uniform:
        held, read_in = f"{model.parameters:,} parameters, {bits.weights_how}", "quantized like weight_bytes"
    elif bits.weights_how not in _PLAIN:
        held += f" ({bits.weights_how})"
    kv_how = per_layer([layer.kv_how if layer.kv_values else "no KV" for layer in model.layers])
    read_how = per_layer([layer.how for layer in model.layers])
    experts, sources = _experts(model, bits, read_in)
    return Architecture(
        name=name,
        model_type=kind,
        source=source,
        kv_bytes_per_token=kept,
        kv_format={32: "f32", 16: "f16", 8: "fp8"}.get(bits.kv, ""),
        weight_read_bytes=read,
        windows=tuple(layer.window for layer in model.layers),
        parameters=model.parameters,
        weight_bytes=bits.held(model),
        sources={
            "layers": "number of hidden layers",
            "kv_bytes_per_token_layer": f"{kv_how} x {in_words(bits.kv)} ({bits.kv_how})",
            "weight_bytes": f"{held}: {inside:,} in layers, {model.outside_how}",
            "weight_read_bytes_per_layer": f"{read_how}, {read_in}",
            **sources,
            **model.remarks,
        },
        **experts,
    )


def _experts(model: Model, bits: Bits, how: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the fields of routed experts and their derivation; nothing unless the numbers are exact.

    Parameters
    ----------
    how
        Number format of the weights, in words.
    """
    with_experts = [layer for layer in model.layers if layer.experts]
    sizes = [bits.expert(layer) for layer in model.layers]
    chosen = {layer.chosen for layer in with_experts}
    exact = all(layer.routed for layer in with_experts) and all(size.denominator == 1 for size in sizes)
    if not with_experts or len(chosen) != 1 or not exact:
        return {}, {}
    fields = {
        "experts": tuple(layer.routed for layer in model.layers),
        "expert_bytes": tuple(map(int, sizes)),
        "experts_read": chosen.pop(),
    }
    each = sorted({layer.experts // layer.routed for layer in with_experts})
    parameters = " or ".join(f"{count:,}" for count in each)
    return fields, {
        "experts": "number of routed experts in a layer",
        "expert_bytes": f"{parameters} parameters, {how}",
        "experts_read": "number of routed experts per token",
    }


_PLAIN: Final = {"float32", "float16", "bfloat16", "no torch_dtype given"}
