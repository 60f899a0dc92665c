"""Bits of weights and cached values, by the formats of the file or by given ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from kvbound.errors import InputError
from kvbound.fields import Fields, as_number, show
from kvbound.llm.config.model import Layer, Model

FORMATS: Final[Mapping[str, int]] = {
    "float32": 32, "fp32": 32, "float16": 16, "fp16": 16, "bfloat16": 16, "bf16": 16,
    "float8_e4m3fn": 8, "float8_e5m2": 8, "fp8": 8, "fp8_e4m3": 8, "fp8_e5m2": 8, "int8": 8,
    "fp4": 4, "int4": 4,
}  # fmt: skip
_PARTS: Final = ("attention", "ffn", "experts")


@dataclass(frozen=True)
class Bits:
    """Bits per value, scales included, of each part of a model.

    Parameters
    ----------
    plain
        Embeddings, output, norms, biases, routers, and everything else that is not quantized.
    attention, ffn, experts
        Matrices of attention, of feed-forward parts including shared experts, of routed experts.
    kv
        Cached values.
    weights_how, kv_how
        Origin of the formats, in words.
    """

    plain: int
    attention: Fraction
    ffn: Fraction
    experts: Fraction
    kv: int
    weights_how: str
    kv_how: str

    def held(self, model: Model) -> int:
        """Bytes of all weights, rounded up."""
        layers = model.layers
        bits = Fraction(self.plain) * (model.outside + sum(layer.router + layer.vectors for layer in layers))
        bits += sum(
            self.attention * layer.attention + self.ffn * layer.ffn + self.experts * layer.experts
            for layer in layers
        )
        return math.ceil(bits / 8)

    def read(self, layer: Layer) -> int:
        """Bytes of weights that a token reads in a layer, rounded up."""
        bits = self.attention * layer.attention + self.ffn * layer.ffn + self.experts * layer.active
        return math.ceil((bits + self.plain * layer.router) / 8)

    def expert(self, layer: Layer) -> Fraction:
        """Bytes of one routed expert of a layer, 0 if it has none or their number is not known."""
        return self.experts * layer.experts / (8 * layer.routed) if layer.routed else Fraction(0)

    def kept(self, layer: Layer) -> int:
        """Bytes of a token's entry in the cache of a layer, rounded up."""
        return -(-self.kv * layer.kv_values // 8)


def read_bits(fields: Fields, outer: Fields, kv_dtype: str | None, weight_dtype: str | None) -> Bits:
    """Read number formats.

    Parameters
    ----------
    fields, outer
        The language model's part of the file, and the whole file.
    kv_dtype, weight_dtype
        Formats that replace those of the file.

    Raises
    ------
    InputError
        A format is unknown.
    """
    plain, name = _own(fields, outer)
    quantization = _child(fields, outer, "quantization_config") or _child(fields, outer, "compression_config")
    kv, kv_name = _cache(fields, outer, quantization) or (plain, name)
    if kv_dtype is not None:
        kv, kv_name = _format("kv_dtype", kv_dtype), f"{kv_dtype}, as asked for"
    if weight_dtype is not None:
        bits = _format("weight_dtype", weight_dtype)
        all_bits = Fraction(bits)
        return Bits(bits, all_bits, all_bits, all_bits, kv, f"{weight_dtype}, as asked for", kv_name)
    if quantization is None:
        all_bits = Fraction(plain)
        return Bits(plain, all_bits, all_bits, all_bits, kv, name, kv_name)
    parts, how = _quantized(quantization, plain, name)
    return Bits(plain, parts["attention"], parts["ffn"], parts["experts"], kv, how, kv_name)


def in_words(bits: int) -> str:
    """Return the size of a value in words."""
    return f"{bits // 8} B" if bits % 8 == 0 else f"{bits} bits"


def _format(option: str, name: str) -> int:
    bits = FORMATS.get(name.removeprefix("torch."))
    if bits is None:
        raise InputError(option, "", f"one of {', '.join(FORMATS)}, not {name!r}")
    return bits


def _own(fields: Fields, outer: Fields) -> tuple[int, str]:
    """Return the bits and name of the file's format, 16 bits if it states none."""
    for place in (fields, outer):
        for key in ("dtype", "torch_dtype"):
            if place.raw(key, default=None) is not None:
                name = place.text(key).removeprefix("torch.")
                if name == "auto":
                    continue
                if name not in FORMATS:
                    raise place.error(key, f"one of {', '.join(FORMATS)}, not {name!r}")
                return FORMATS[name], name
    return 16, "no torch_dtype given"


def _child(fields: Fields, outer: Fields, key: str) -> Fields | None:
    for place in (fields, outer):
        if place.raw(key, default=None) is not None:
            return place.child(key)
    return None


def _cache(fields: Fields, outer: Fields, quantization: Fields | None) -> tuple[int, str] | None:
    """Return the bits and name of the cache's format if the checkpoint states one."""
    places = [place for place in (quantization, fields, outer) if place is not None]
    for place in places:
        if place.raw("kv_cache_scheme", default=None) is not None:
            scheme = place.child("kv_cache_scheme")
            bits = scheme.integer("num_bits", 1, 32)
            return bits, f"{bits} bits by {scheme.at('num_bits')}"
        for key in ("kv_cache_quant_algo", "kv_cache_dtype"):
            if place.raw(key, default=None) is not None:
                name = place.text(key)
                if name == "auto":
                    continue
                known = {"nvfp4": 4, **FORMATS}
                if name.lower() not in known:
                    raise place.error(key, f"one of {', '.join(known)}, not {name!r}")
                return known[name.lower()], f"{name} by {place.at(key)}"
    return None


def _quantized(fields: Fields, plain: int, name: str) -> tuple[dict[str, Fraction], str]:
    """Return the bits of each part, and a description."""
    method = fields.text("quant_method", "")
    bits = _method_bits(fields, method)
    parts = dict.fromkeys(_PARTS, Fraction(plain))
    if bits is None:
        return parts, f"{name}, before quantization: a guess, as the method {method!r} is not known here"
    kept = _kept(fields)
    for part in ("experts",) if method == "mxfp4" else _PARTS:
        if part not in kept:
            parts[part] = bits
    inside = ", ".join(part for part in _PARTS if parts[part] == bits)
    how = f"quantized ({method}): {float(bits):.4g} bits in {inside}, scales included"
    return parts, f"{how}; elsewhere {in_words(plain)} ({name})"


def _method_bits(fields: Fields, method: str) -> Fraction | None:
    """Return the bits of a quantized weight, with its share of the scales; None for unknown methods."""
    match method:
        case "mxfp4":  # a scale of 8 bits for 32 weights
            return Fraction(4) + Fraction(8, 32)
        case "fp8" | "fbgemm_fp8" | "finegrained_fp8":
            block = fields.raw("weight_block_size", default=None)
            sides = block if isinstance(block, list) and len(block) == 2 else (4096, 4096)
            scale = Fraction(32, max(1, int(as_number(sides[0]) or 1) * int(as_number(sides[1]) or 1)))
            return 8 + scale
        case "gptq" | "awq" | "auto-round":
            bits = fields.integer("bits" if fields.has("bits") else "w_bit", 2, 8, default=4)
            return _grouped(bits, fields.integer("group_size", -1, 2**16, default=128))
        case "bitsandbytes":
            if fields.boolean("load_in_8bit", False) or fields.boolean("_load_in_8bit", False):
                return Fraction(8)
            double = fields.boolean("bnb_4bit_use_double_quant", False)
            # a scale for 64 weights: 32 bits, or 8 bits and a second scale for 256 of those
            return 4 + (Fraction(8, 64) + Fraction(32, 64 * 256) if double else Fraction(32, 64))
        case "modelopt" | "modelopt_fp4":
            algorithm = fields.text("quant_algo", "NVFP4" if method == "modelopt_fp4" else "FP8").upper()
            known = {
                "FP8": Fraction(8),
                "W8A8_SQ_PER_CHANNEL": Fraction(8),
                "NVFP4": 4 + Fraction(8, 16),
                "W4A16_AWQ": _grouped(4, 128),
                "W4A8_AWQ": _grouped(4, 128),
                "INT4_AWQ": _grouped(4, 128),
            }
            return known.get(algorithm)
        case "compressed-tensors":
            return _compressed(fields)
    return None


def _grouped(bits: int, group: int) -> Fraction:
    """Return the bits of weights in groups that share a scale of 16 bits and a zero point."""
    return Fraction(bits) + (Fraction(16 + bits, group) if group > 0 else 0)


def _compressed(fields: Fields) -> Fraction | None:
    groups = fields.child("config_groups", {})
    schemes = [groups.child(name).child("weights", {}) for name in groups]
    if len(schemes) != 1 or not schemes[0].has("num_bits"):
        return None
    bits = schemes[0].integer("num_bits", 2, 16)
    group = schemes[0].raw("group_size", default=None)
    size = schemes[0].integer("group_size", -1, 2**16) if group is not None else 0
    return Fraction(bits) + (Fraction(16, size) if size > 0 else 0)


def _kept(fields: Fields) -> set[str]:
    """Return the parts that the quantization excludes in all layers."""
    names: list[str] = []
    for key in ("modules_to_not_convert", "ignore", "exclude_modules", "llm_int8_skip_modules"):
        value = fields.raw(key, default=None)
        if value is not None:
            if not isinstance(value, list):
                raise fields.error(key, f"a list of module names, not {show(value)}")
            names += [name for name in value if isinstance(name, str)]
    # names with digits exclude single layers only
    everywhere = [name for name in names if not any(part.isdigit() for part in name.split("."))]
    kept = set()
    for name in everywhere:
        if "attn" in name or "attention" in name:
            kept.add("attention")
        elif "shared_expert" in name:
            kept.add("ffn")
        elif name.rstrip("*$.").endswith("experts"):
            kept.add("experts")
    return kept
