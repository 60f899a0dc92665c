"""Models in GGUF files, by the ``gguf`` package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from kvbound.accuracy.decoder import Decoder, Layer, Shape
from kvbound.accuracy.formats import Floats
from kvbound.accuracy.models.trained import Trained
from kvbound.errors import InputError, MissingPackageError

_NAMES: Final[Mapping[str, str]] = {
    "attention_norm": "attn_norm", "query": "attn_q", "key": "attn_k", "value": "attn_v",
    "output": "attn_output", "mlp_norm": "ffn_norm", "gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down",
}  # fmt: skip
"""Weights of a layer by their names in the file."""
_MISSING: Final = object()


class _File:
    """A GGUF file: metadata and tensors by name."""

    def __init__(self, path: Path) -> None:
        try:
            from gguf import GGUFReader
        except ImportError:
            raise MissingPackageError("accuracy") from None
        try:
            reader = GGUFReader(path)
        except Exception as error:  # the reader checks little: damage shows as errors of many kinds
            raise InputError(path, "", f"a GGUF file: {error or 'it is damaged'}") from None
        self.path, self._fields = path, reader.fields
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}

    def get(self, name: str, default: Any = _MISSING) -> Any:
        """Return a field of the metadata."""
        if name in self._fields:
            return self._fields[name].contents()
        if default is _MISSING:
            raise InputError(self.path, name, "this field in the metadata; it is missing")
        return default

    def number(self, name: str, default: Any = _MISSING) -> float:
        """Return a positive number in the metadata."""
        value = self.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 2**40:
            raise InputError(self.path, name, "one positive number for all layers")
        return value

    def count(self, name: str, default: Any = _MISSING) -> int:
        """Return a positive whole number in the metadata."""
        value = self.number(name, default)
        if not isinstance(value, int):
            raise InputError(self.path, name, f"a whole number, not {value}")
        return value

    def tensor(self, name: str, *shape: int) -> Floats:
        """Return a tensor of a shape as float32; its rows are the file's."""
        from gguf import quants

        if name not in self._tensors:
            raise InputError(self.path, name, "this tensor; it is missing")
        given = self._tensors[name]
        if tuple(reversed(given.shape.tolist())) != shape:
            raise InputError(self.path, name, f"shape {shape}, not {tuple(reversed(given.shape.tolist()))}")
        try:
            values = quants.dequantize(given.data, given.tensor_type).reshape(shape)
        except NotImplementedError:
            kind = given.tensor_type.name
            raise InputError(self.path, name, f"a format that gguf can read, not {kind}") from None
        if not np.isfinite(values).all():
            raise InputError(self.path, name, "finite weights, not NaN or infinite ones")
        return np.asarray(values, np.float32)

    def __contains__(self, name: str) -> bool:
        return name in self._tensors


def read_gguf(path: Path, name: str) -> Trained:
    """Return the model in a GGUF file of Llama's architecture.

    Parameters
    ----------
    name
        Name for display.

    Raises
    ------
    InputError
        The file is damaged, or of another architecture, or its tokenizer is not one of byte-pair merges.
    MissingPackageError
        The extra ``accuracy`` is not installed.
    """
    from kvbound.accuracy.models.bytepairs import BytePairs

    file = _File(path)
    if (kind := file.get("general.architecture")) != "llama":
        raise InputError(path, "general.architecture", f"'llama', not {kind!r}")
    for field, most in (("llama.expert_count", 0), ("llama.rope.scaling.type", "none")):
        if file.get(field, most) != most:
            raise InputError(path, field, f"{most!r}: this decoder knows no other, not {file.get(field)!r}")
    tokenizer = BytePairs.of(path, file.get)
    return Trained(name, path, _decoder(file), tokenizer)


def _decoder(file: _File) -> Decoder:
    shape, width = _shape(file), file.count("llama.embedding_length")
    hidden = file.count("llama.feed_forward_length")
    narrow, wide = shape.kv_heads * shape.head_size, shape.heads * shape.head_size
    sizes = {
        "attention_norm": (width,), "query": (wide, width), "key": (narrow, width), "value": (narrow, width),
        "output": (width, wide), "mlp_norm": (width,), "gate": (hidden, width), "up": (hidden, width),
        "down": (width, hidden),
    }  # fmt: skip
    layers = []
    for number in range(file.count("llama.block_count")):
        if any(f"blk.{number}.{name}.bias" in file for name in _NAMES.values()):
            raise InputError(file.path, f"blk.{number}", "no biases: this decoder has none")
        tensors = {
            each: file.tensor(f"blk.{number}.{_NAMES[each]}.weight", *size) for each, size in sizes.items()
        }
        layers.append(Layer(**tensors))
    vocabulary = len(file.get("tokenizer.ggml.tokens"))
    embedding = file.tensor("token_embd.weight", vocabulary, width)
    head = "output.weight"
    factors = "rope_freqs.weight"
    return Decoder(
        shape,
        embedding,
        tuple(layers),
        file.tensor("output_norm.weight", width),
        file.tensor(head, vocabulary, width) if head in file else embedding,
        file.tensor(factors, shape.head_size // 2) if factors in file else None,
    )


def _shape(file: _File) -> Shape:
    heads = file.count("llama.attention.head_count")
    kv_heads = file.count("llama.attention.head_count_kv", heads)
    size = file.count("llama.attention.key_length", file.count("llama.embedding_length") // heads)
    for field in ("llama.attention.value_length", "llama.rope.dimension_count"):
        if file.count(field, size) != size:
            raise InputError(file.path, field, f"the size of a head's keys, {size}, not {file.get(field)}")
    if heads % kv_heads or size % 2:
        raise InputError(file.path, "llama.attention", "heads of even size, in equal numbers to each KV head")
    return Shape(
        heads,
        kv_heads,
        size,
        file.count("llama.context_length"),
        file.number("llama.rope.freq_base", 1e4),
        file.number("llama.attention.layer_norm_rms_epsilon"),
    )
