"""Small decoders with random weights, and the files that hold them."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, quants

from kvbound.accuracy.decoder import Decoder, Layer, Shape
from kvbound.accuracy.formats import Floats

SHAPE = Shape(heads=4, kv_heads=2, head_size=16, context=96, rope_base=100.0)
WIDTH, HIDDEN, LAYERS, VOCABULARY = 64, 96, 3, 300
MERGES = ("t h", "th e", "Ġ the", "i n")


def decoder(seed: int = 0, *, vocabulary: int = VOCABULARY) -> Decoder:
    """Return a decoder with random weights, the head tied."""
    draw = np.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> Floats:
        return draw.normal(0, 1.5 / np.sqrt(columns), (rows, columns)).astype(np.float32)

    def gain() -> Floats:
        return draw.uniform(0.5, 1.5, WIDTH).astype(np.float32)

    wide, narrow = SHAPE.heads * SHAPE.head_size, SHAPE.kv_heads * SHAPE.head_size
    layers = tuple(
        Layer(
            gain(), matrix(wide, WIDTH), matrix(narrow, WIDTH), matrix(narrow, WIDTH), matrix(WIDTH, wide),
            gain(), matrix(HIDDEN, WIDTH), matrix(HIDDEN, WIDTH), matrix(WIDTH, HIDDEN),
        )
        for _ in range(LAYERS)
    )  # fmt: skip
    embedding = matrix(vocabulary, WIDTH) * np.float32(4)
    return Decoder(SHAPE, embedding, layers, gain(), embedding)


def tokens(count: int, seed: int = 1) -> list[int]:
    """Return random token ids."""
    return np.random.default_rng(seed).integers(0, VOCABULARY, count).tolist()


def pieces() -> list[tuple[bytes, float]]:
    """Return a vocabulary of llama2.c with scores: three control tokens, all bytes, letters, a few words."""
    control = [(b"<unk>", 0.0), (b"\n<s>\n", 0.0), (b"\n</s>\n", 0.0)]
    single = [(bytes([value]), 0.0) for value in b" abcdefghijklmnopqrstuvwxyz.,"]
    words = [(b"he", -1.0), (b"th", -2.0), (b" the", -3.0), (b"the", -4.0), (b" t", -5.0), (b"in", -6.0)]
    known = [*control, *((f"<0x{n:02X}>".encode(), 0.0) for n in range(256)), *single, *words]
    return known + [(f"unused{n}".encode(), -99.0) for n in range(VOCABULARY - len(known))]


def write_llama2c(folder: Path, made: Decoder | None = None) -> Path:
    """Write a decoder and its tokenizer as files of llama2.c; return the model's."""
    made = made or decoder()
    path, vocabulary = folder / "tiny.bin", len(made.embedding)
    header = (WIDTH, HIDDEN, LAYERS, SHAPE.heads, SHAPE.kv_heads, vocabulary, SHAPE.context)
    order = ("attention_norm", "query", "key", "value", "output", "mlp_norm", "gate", "down", "up")
    parts = [made.embedding]
    parts += [getattr(layer, name) for name in order for layer in made.layers]
    parts += [made.norm, np.zeros(SHAPE.context * SHAPE.head_size, np.float32)]
    path.write_bytes(struct.pack("<7i", *header) + b"".join(part.astype("<f4").tobytes() for part in parts))
    vocab = b"".join(struct.pack("<fi", score, len(piece)) + piece for piece, score in pieces())
    (folder / f"tok{vocabulary}.bin").write_bytes(struct.pack("<i", 12) + vocab)
    return path


def byte_letters() -> list[str]:
    """Return the letters that stand for the 256 bytes in vocabularies of byte pairs."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters, extra = {}, 0
    for value in range(256):
        letters[value] = chr(value) if value in shown else chr(256 + extra)
        extra += value not in shown
    return [letters[value] for value in range(256)]


def vocabulary() -> list[str]:
    """Return the vocabulary of the GGUF file: control tokens, bytes, merged pairs."""
    known = ["<|end|>", "<|start|>", *byte_letters(), *("".join(merge.split()) for merge in MERGES)]
    return known + [f"unused{n}" for n in range(VOCABULARY - len(known))]


def write_gguf(path: Path, made: Decoder | None = None, kind: str = "F32", **changes: Any) -> Path:
    """Write a decoder as a GGUF file, matrices in a format; `changes` are metadata, None leaves it out."""
    made = made or decoder()
    names = vocabulary()
    fields = {
        "llama.context_length": SHAPE.context, "llama.embedding_length": WIDTH,
        "llama.feed_forward_length": HIDDEN, "llama.block_count": LAYERS,
        "llama.attention.head_count": SHAPE.heads, "llama.attention.head_count_kv": SHAPE.kv_heads,
        "llama.rope.freq_base": SHAPE.rope_base, "llama.attention.layer_norm_rms_epsilon": SHAPE.epsilon,
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm", "tokenizer.ggml.tokens": names,
        "tokenizer.ggml.token_type": [3, 3] + [1] * (len(names) - 2), "tokenizer.ggml.merges": list(MERGES),
        "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.ggml.add_bos_token": False,
    }  # fmt: skip
    writer = GGUFWriter(path, changes.pop("architecture", "llama"))
    for name, value in (fields | changes).items():
        if isinstance(value, list):
            writer.add_array(name, value)
        elif value is not None:
            add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32}
            add.get(type(value), writer.add_string)(name, value)
    for name, values in _tensors(made):
        form = GGMLQuantizationType[kind if values.ndim > 1 else "F32"]
        writer.add_tensor(name, quants.quantize(values, form), raw_dtype=form)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _tensors(made: Decoder) -> list[tuple[str, Floats]]:
    names = {
        "attention_norm": "attn_norm", "query": "attn_q", "key": "attn_k", "value": "attn_v",
        "output": "attn_output", "mlp_norm": "ffn_norm", "gate": "ffn_gate", "up": "ffn_up",
        "down": "ffn_down",
    }  # fmt: skip
    found = [("token_embd.weight", made.embedding), ("output_norm.weight", made.norm)]
    for n, layer in enumerate(made.layers):
        found += [(f"blk.{n}.{name}.weight", getattr(layer, own)) for own, name in names.items()]
    return found
