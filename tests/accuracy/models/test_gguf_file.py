import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants

from kvbound.accuracy.models.gguf_file import read_gguf
from kvbound.errors import InputError
from tests.accuracy import tiny


def test_weights_and_sizes(tmp_path: Path) -> None:
    made = tiny.decoder()
    found = read_gguf(tiny.write_gguf(tmp_path / "tiny.gguf"), "tiny").decoder
    assert found.shape == dataclasses.replace(tiny.SHAPE, epsilon=float(np.float32(tiny.SHAPE.epsilon)))
    assert (found.embedding == made.embedding).all()
    assert found.head is found.embedding
    assert (found.norm == made.norm).all()
    for one, other in zip(found.layers, made.layers, strict=True):
        for name in vars(one):
            assert (getattr(one, name) == getattr(other, name)).all()
            assert getattr(one, name).dtype == np.float32


@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q4_1"])
def test_quantized_weights(tmp_path: Path, kind: str) -> None:
    found = read_gguf(tiny.write_gguf(tmp_path / "tiny.gguf", kind=kind), "tiny").decoder
    form, given = GGMLQuantizationType[kind], tiny.decoder().layers[0].query
    assert (found.layers[0].query == quants.dequantize(quants.quantize(given, form), form)).all()


def test_tokenizer(tmp_path: Path) -> None:
    tokenizer = read_gguf(tiny.write_gguf(tmp_path / "tiny.gguf"), "tiny").tokenizer
    names = tiny.vocabulary()

    def pieces(text: str, *, special: bool = False) -> list[str]:
        return [names[token] for token in tokenizer.encode(text, special=special)]

    assert pieces("the thin") == ["the", "Ġ", "th", "in"]
    assert pieces("in the") == ["in", "Ġthe"]
    assert pieces("12") == ["1", "2"]
    assert pieces("a<|end|>") != pieces("a<|end|>", special=True) == ["a", "<|end|>"]
    text = "the 'thing' Größe\n\n  12,5 <|end|>"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert (tokenizer.begin, tokenizer.end) == (None, 0)


@pytest.mark.parametrize("split", ["gpt-2", "llama-bpe", "smollm"])
def test_splits(tmp_path: Path, split: str) -> None:
    changes: dict[str, Any] = {"tokenizer.ggml.pre": split, "tokenizer.ggml.add_bos_token": None}
    path = tiny.write_gguf(tmp_path / "tiny.gguf", **changes)
    tokenizer = read_gguf(path, "tiny").tokenizer
    text = "In the year 1865, don't\n"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.begin == (1 if split == "llama-bpe" else None)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"architecture": "gemma"}, "general.architecture: expected 'llama', not 'gemma'"),
        ({"tokenizer.ggml.model": "llama"}, "tokenizer.ggml.model: expected 'gpt2', not 'llama'"),
        ({"tokenizer.ggml.pre": "tekken"}, "expected one of gpt-2, smollm, llama-bpe, not 'tekken'"),
        ({"tokenizer.ggml.merges": None}, "tokenizer.ggml.merges: expected this field in the metadata"),
        ({"tokenizer.ggml.merges": ["q nothing"]}, "expected pairs of known tokens"),
        ({"llama.block_count": None}, "llama.block_count: expected this field"),
        ({"llama.block_count": 4}, "blk.3.attn_norm.weight: expected this tensor; it is missing"),
        ({"llama.block_count": 0}, "llama.block_count: expected one positive number"),
        ({"llama.block_count": 3.0}, "llama.block_count: expected a whole number, not 3.0"),
        (
            {"tokenizer.ggml.bos_token_id": 300, "tokenizer.ggml.add_bos_token": True},
            "tokenizer.ggml.bos_token_id: expected 0 to 299, not 300",
        ),
        ({"llama.feed_forward_length": 95}, "expected shape (95, 64), not (96, 64)"),
        ({"llama.attention.head_count_kv": 3}, "in equal numbers to each KV head"),
        ({"llama.attention.head_count_kv": [2, 2, 2]}, "expected one positive number for all layers"),
        ({"llama.rope.dimension_count": 8}, "expected the size of a head's keys, 16, not 8"),
        ({"llama.rope.scaling.type": "yarn"}, "expected 'none'"),
        ({"llama.expert_count": 8}, "llama.expert_count: expected 0"),
    ],
)
def test_what_is_not_this_architecture_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    path = tiny.write_gguf(tmp_path / "tiny.gguf", **changes)
    with pytest.raises(InputError) as error:
        read_gguf(path, "tiny")
    assert said in str(error.value)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    made = tiny.decoder()
    made.embedding[3, 3] = np.nan
    with pytest.raises(InputError, match=r"token_embd.weight: expected finite weights"):
        read_gguf(tiny.write_gguf(tmp_path / "tiny.gguf", made), "tiny")


@pytest.mark.parametrize("length", [4, 20, 100, 5000])
def test_damaged_files_are_refused(tmp_path: Path, length: int) -> None:
    path = tiny.write_gguf(tmp_path / "tiny.gguf")
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(InputError, match="expected a GGUF file"):
        read_gguf(path, "tiny")
