from pathlib import Path

import numpy as np
import pytest

from kvbound.accuracy.models.pieces import Pieces, read_pieces
from kvbound.errors import InputError
from tests.accuracy import tiny

KNOWN = Pieces(tuple(piece for piece, _ in tiny.pieces()), tuple(score for _, score in tiny.pieces()))


def plain(text: str) -> list[bytes]:
    """Merge the pair with the highest score, the leftmost of several, until there is none."""
    parts = [letter.encode() for letter in f" {text}"]
    while True:
        pairs = [(n, parts[n] + parts[n + 1]) for n in range(len(parts) - 1)]
        pairs = [(n, pair) for n, pair in pairs if pair in KNOWN.pieces]
        if not pairs:
            return parts
        n, pair = max(pairs, key=lambda each: (KNOWN.scores[KNOWN.pieces.index(each[1])], -each[0]))
        parts[n : n + 2] = [pair]


@pytest.mark.parametrize("text", ["the", "the other thing", "in the inn, then", "hehethethe", "t", "a  the"])
def test_the_highest_score_is_merged_first(text: str) -> None:
    assert [KNOWN.pieces[token] for token in KNOWN.encode(text)] == plain(text)


def test_random_text() -> None:
    draw = np.random.default_rng(0)
    for _ in range(50):
        text = "".join(draw.choice([*"the in"], 40))
        assert [KNOWN.pieces[token] for token in KNOWN.encode(text)] == plain(text)
        assert KNOWN.decode(KNOWN.encode(text)) == text


def test_letters_without_a_piece_become_bytes() -> None:
    tokens = KNOWN.encode("ä!")
    assert tokens[1:] == [3 + 0xC3, 3 + 0xA4, 3 + ord("!")]
    assert KNOWN.decode(tokens) == "ä!"
    assert KNOWN.decode([1, *KNOWN.encode("the"), 2]) == "the"
    assert KNOWN.encode("") == []


@pytest.mark.parametrize("length", [0, 3, 5, 40])
def test_short_files_are_refused(tmp_path: Path, length: int) -> None:
    tiny.write_llama2c(tmp_path)
    path = tmp_path / "tok300.bin"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(InputError, match=r"tok300.bin"):
        read_pieces(path, 300)
