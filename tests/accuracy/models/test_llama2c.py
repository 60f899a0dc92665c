import struct
from pathlib import Path

import numpy as np
import pytest

from kvbound.accuracy.models.llama2c import read_llama2c
from kvbound.errors import InputError
from tests.accuracy import tiny


def test_weights_and_sizes(tmp_path: Path) -> None:
    made, trained = tiny.decoder(), read_llama2c(tiny.write_llama2c(tmp_path))
    found = trained.decoder
    assert (found.shape.heads, found.shape.kv_heads, found.shape.head_size) == (4, 2, 16)
    assert (found.shape.context, found.shape.rope_base, found.shape.epsilon) == (96, 1e4, 1e-5)
    assert found.head is found.embedding
    assert found.parameters == made.parameters
    for one, other in zip(found.layers, made.layers, strict=True):
        for name in vars(one):
            assert (getattr(one, name) == getattr(other, name)).all()


def test_a_head_of_its_own(tmp_path: Path) -> None:
    path = tiny.write_llama2c(tmp_path)
    data = bytearray(path.read_bytes())
    data[20:24] = struct.pack("<i", -tiny.VOCABULARY)
    head = np.arange(tiny.VOCABULARY * tiny.WIDTH, dtype="<f4")
    path.write_bytes(bytes(data) + head.tobytes())
    found = read_llama2c(path).decoder
    assert (found.head == head.reshape(tiny.VOCABULARY, -1)).all()


def test_the_other_name_of_the_tokenizer(tmp_path: Path) -> None:
    path = tiny.write_llama2c(tmp_path)
    (tmp_path / "tok300.bin").rename(tmp_path / "tokenizer.bin")
    assert read_llama2c(path).tokenizer.encode("in") == read_llama2c(path).tokenizer.encode("in")
    (tmp_path / "tokenizer.bin").unlink()
    with pytest.raises(InputError, match="tokenizer of 300 pieces; there is no such file"):
        read_llama2c(path)


@pytest.mark.parametrize(
    ("start", "data", "said"),
    [
        (0, b"\0" * 4, "the header of a llama2.c model"),
        (0, struct.pack("<i", 72), "B for its width, hidden width"),
        (12, struct.pack("<i", 5), "a divisor of half the width"),
        (16, struct.pack("<i", 3), "a multiple of 3"),
        (28, struct.pack("<f", np.nan), "finite weights"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, start: int, data: bytes, said: str) -> None:
    path = tiny.write_llama2c(tmp_path)
    whole = bytearray(path.read_bytes())
    whole[start : start + 4] = data
    path.write_bytes(bytes(whole))
    with pytest.raises(InputError, match=said):
        read_llama2c(path)


@pytest.mark.parametrize("length", [0, 10, 28, 5000])
def test_short_files_are_refused(tmp_path: Path, length: int) -> None:
    path = tiny.write_llama2c(tmp_path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(InputError, match=r"tiny.bin: expected"):
        read_llama2c(path)
