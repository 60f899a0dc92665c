"""The tokenizer of llama2.c: pieces with scores, of which the best neighbours are merged first."""

from __future__ import annotations

import heapq
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kvbound.errors import InputError

_FIRST_BYTE = 3
"""Id of the token for byte 0, after those for unknown text, begin and end."""


@dataclass(frozen=True)
class Pieces:
    """A vocabulary of pieces with scores, as SentencePiece makes them.

    Parameters
    ----------
    pieces
        Text of each token, as bytes.
    scores
        Score of each; where two neighbours can be merged in several places, the highest score goes first.
    """

    pieces: tuple[bytes, ...]
    scores: tuple[float, ...]
    begin: int = 1
    end: int = 2

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """See `Tokenizer.encode`; a space precedes every text, and no control token has a name."""
        ids = {piece: n for n, piece in reversed([*enumerate(self.pieces)])}
        tokens: list[int] = []
        for letter in f" {text}" if text else "":
            data = letter.encode()
            known = ids.get(data)
            tokens += [_FIRST_BYTE + byte for byte in data] if known is None else [known]
        return _merged(tokens, self, ids)

    def decode(self, tokens: Sequence[int]) -> str:
        """See `Tokenizer.decode`."""
        parts = []
        for token in tokens:
            piece = self.pieces[token]
            if piece.startswith(b"<0x") and len(piece) == 6:
                piece = bytes([int(piece[3:5], 16)])
            parts.append(b"" if token < _FIRST_BYTE else piece)
        return b"".join(parts).decode(errors="replace").removeprefix(" ")


def _merged(tokens: list[int], vocabulary: Pieces, ids: dict[bytes, int]) -> list[int]:
    """Return tokens with neighbours merged, the highest score first, then the leftmost."""
    after = [*range(1, len(tokens)), -1]
    before = [*range(-1, len(tokens) - 1)]
    heap: list[tuple[float, int, int, int, int]] = []

    def offer(left: int) -> None:
        right = after[left] if left >= 0 else -1
        if right >= 0:
            pieces = vocabulary.pieces
            joined = ids.get(pieces[tokens[left]] + pieces[tokens[right]])
            if joined is not None:
                entry = (-vocabulary.scores[joined], left, joined, tokens[left], tokens[right])
                heapq.heappush(heap, entry)

    for place in range(len(tokens)):
        offer(place)
    while heap:
        _, left, joined, one, other = heapq.heappop(heap)
        right = after[left]
        if tokens[left] != one or right < 0 or tokens[right] != other:
            continue
        tokens[left], tokens[right] = joined, -1
        after[left] = after[right]
        if after[right] >= 0:
            before[after[right]] = left
        after[right] = -1
        offer(before[left])
        offer(left)
    return [token for token in tokens if token >= 0]


def read_pieces(path: Path, count: int) -> Pieces:
    """Return the tokenizer in a file of llama2.c: the longest piece's length, then score, length, text of
    each.

    Raises
    ------
    InputError
        There is no such file, or it does not hold `count` pieces.
    """
    if not path.is_file():
        raise InputError(path, "", f"the model's tokenizer of {count:,} pieces; there is no such file")
    data, place = path.read_bytes(), 4
    pieces, scores = [], []
    for number in range(count):
        if place + 8 > len(data):
            raise InputError(path, "", f"{count:,} pieces, not {number:,}")
        score, length = struct.unpack_from("<fi", data, place)
        place += 8 + length
        if length < 0 or place > len(data) or not math.isfinite(score):
            raise InputError(path, f"piece {number}", "a score, a length and as many bytes")
        pieces.append(data[place - length : place])
        scores.append(score)
    return Pieces(tuple(pieces), tuple(scores))
