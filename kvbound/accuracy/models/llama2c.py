"""The model files of llama2.c: a header of seven integers, then all weights in float32."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Final

import numpy as np

from kvbound.accuracy.decoder import Decoder, Layer, Shape
from kvbound.accuracy.formats import Floats
from kvbound.accuracy.models.pieces import read_pieces
from kvbound.accuracy.models.trained import Trained
from kvbound.errors import InputError

_HEADER: Final = ("width", "hidden width", "layers", "heads", "KV heads", "vocabulary", "context")
_LARGEST: Final = 1 << 24


def read_llama2c(path: Path) -> Trained:
    """Return the model in a ``.bin`` file of llama2.c, with the tokenizer beside it.

    The header holds the width, the hidden width of the feed-forward part, the numbers of layers, heads and KV
    heads, the size of the vocabulary, negative if the head is not the embedding, and the context, each as
    int32. The tokenizer is the file ``tok512.bin`` for a vocabulary of 512, or ``tokenizer.bin``.

    Raises
    ------
    InputError
        The file's size does not agree with its header, or there is no tokenizer.
    """
    header = np.fromfile(path, "<i4", 7)
    sizes = [abs(int(each)) if n == 5 else int(each) for n, each in enumerate(header)]
    if len(sizes) < 7 or not all(0 < each < _LARGEST for each in sizes):
        raise InputError(path, "", "a GGUF file, or the header of a llama2.c model")
    width, _, _, heads, kv_heads, vocabulary, context = sizes
    if width % (2 * heads) or heads % kv_heads:
        raise InputError(
            path, "heads", f"a divisor of half the width {width:,}, and a multiple of {kv_heads}"
        )
    counts = _counts(sizes, shared=int(header[5]) > 0)
    values = np.fromfile(path, "<f4", offset=28)
    if values.size != sum(counts.values()):
        expected = f"{28 + 4 * sum(counts.values()):,} B for its {', '.join(_HEADER)}"
        raise InputError(
            path, "", f"{expected} of {', '.join(map(str, sizes))}, not {path.stat().st_size:,} B"
        )
    if not np.isfinite(values).all():
        raise InputError(path, "", "finite weights, not NaN or infinite ones")
    shape = Shape(heads, kv_heads, width // heads, context)
    tokenizer = path.with_name(f"tok{vocabulary}.bin")
    found = tokenizer if tokenizer.exists() else path.with_name("tokenizer.bin")
    return Trained(path.stem, path, _decoder(shape, sizes, counts, values), read_pieces(found, vocabulary))


def _counts(sizes: list[int], *, shared: bool) -> dict[str, int]:
    """Return the number of values of each part of the file, in its order."""
    width, hidden, layers, heads, kv_heads, vocabulary, context = sizes
    narrow, size = width // heads * kv_heads, width // heads
    counts = {
        "embedding": vocabulary * width, "attention_norm": layers * width,
        "query": layers * width**2, "key": layers * narrow * width, "value": layers * narrow * width,
        "output": layers * width**2, "mlp_norm": layers * width,
        "gate": layers * hidden * width, "down": layers * hidden * width, "up": layers * hidden * width,
        "norm": width, "rotations": context * size,
    }  # fmt: skip
    return counts if shared else {**counts, "head": vocabulary * width}


def _decoder(shape: Shape, sizes: list[int], counts: dict[str, int], values: Floats) -> Decoder:
    width, hidden, layers = sizes[:3]
    parts = dict(zip(counts, np.split(values, np.cumsum([*counts.values()])[:-1]), strict=True))
    inputs = {"down": hidden, "attention_norm": 0, "mlp_norm": 0}
    each = {}
    for name in (weights.name for weights in fields(Layer)):
        columns = inputs.get(name, width)
        whole = parts[name].reshape(layers, -1)
        each[name] = whole.reshape(layers, -1, columns) if columns else whole
    embedding = parts["embedding"].reshape(-1, width)
    made = tuple(Layer(**{name: whole[n] for name, whole in each.items()}) for n in range(layers))
    head = parts["head"].reshape(-1, width) if "head" in parts else embedding
    return Decoder(shape, embedding, made, parts["norm"], head)
