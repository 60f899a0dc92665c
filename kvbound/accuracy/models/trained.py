"""What a reader of model files returns."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kvbound.accuracy.decoder import Decoder


class Tokenizer(Protocol):
    """Text to token ids and back."""

    @property
    def begin(self) -> int | None:
        """The token that precedes every text, None without one."""
        ...

    @property
    def end(self) -> int | None:
        """The token at which an answer ends, None if unknown."""
        ...

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Return the ids of a text, without `begin`.

        Parameters
        ----------
        special
            Whether the names of control tokens in the text, such as ``<|im_end|>``, stand for these tokens.
        """
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of ids; control tokens are left out."""
        ...


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained model that can be run.

    Parameters
    ----------
    name
        Name for display.
    path
        The file it was read from.
    decoder, tokenizer
        Weights and vocabulary.
    """

    name: str
    path: Path
    decoder: Decoder
    tokenizer: Tokenizer

    def sha256(self) -> str:
        """Return the SHA-256 of the file, in hexadecimal digits."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
