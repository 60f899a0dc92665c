"""Tokenizers of byte pairs from the vocabulary and merges in a GGUF file, by the ``tokenizers`` package."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from kvbound.errors import InputError, MissingPackageError
from kvbound.fields import show

_CONTROL: Final = 3
"""Type of a control token in ``tokenizer.ggml.token_type``."""
_WORDS: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Words of Llama 3."""
SPLITS: Final[Mapping[str, str]] = {"gpt-2": "", "smollm": r"\p{N}", "llama-bpe": _WORDS}
"""Pattern that splits text before merges, by ``tokenizer.ggml.pre``, with none only GPT-2's words."""


@dataclass(frozen=True)
class BytePairs:
    """Byte pairs merged in the order of a list, within words.

    Parameters
    ----------
    plain, special
        Tokenizers that take names of control tokens as text, and as these tokens.
    begin, end
        See `Tokenizer`.
    """

    plain: Any
    special: Any
    begin: int | None
    end: int | None

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """See `Tokenizer.encode`."""
        chosen = self.special if special else self.plain
        return list(chosen.encode(text, add_special_tokens=False).ids)

    def decode(self, tokens: Sequence[int]) -> str:
        """See `Tokenizer.decode`."""
        return str(self.special.decode(list(tokens), skip_special_tokens=True))

    @classmethod
    def of(cls, path: Path, get: Callable[..., Any]) -> BytePairs:
        """Return the tokenizer in a file's metadata.

        Parameters
        ----------
        get
            Returns a field of the metadata, or a second argument where there is none.

        Raises
        ------
        InputError
            The tokenizer is of another kind.
        MissingPackageError
            The extra ``accuracy`` is not installed.
        """
        model, split = get("tokenizer.ggml.model"), get("tokenizer.ggml.pre", "gpt-2")
        if model != "gpt2":
            raise InputError(path, "tokenizer.ggml.model", f"'gpt2', not {show(model)}")
        if split not in SPLITS:
            expected = f"one of {', '.join(SPLITS)}, not {show(split)}"
            raise InputError(path, "tokenizer.ggml.pre", expected)
        tokens, merges = get("tokenizer.ggml.tokens"), get("tokenizer.ggml.merges")
        control = [
            token
            for token, kind in zip(tokens, get("tokenizer.ggml.token_type", []), strict=False)
            if kind == _CONTROL
        ]
        begins = get("tokenizer.ggml.add_bos_token", split == "llama-bpe")
        begin = get("tokenizer.ggml.bos_token_id") if begins else None
        if begin is not None and begin not in range(len(tokens)):
            raise InputError(path, "tokenizer.ggml.bos_token_id", f"0 to {len(tokens) - 1:,}, not {begin}")
        return cls(
            _made(path, tokens, merges, split, []),
            _made(path, tokens, merges, split, control),
            begin,
            get("tokenizer.ggml.eos_token_id", None),
        )


def _made(path: Path, tokens: Sequence[str], merges: Sequence[str], split: str, control: list[str]) -> Any:
    try:
        from tokenizers import Regex, decoders, models, pre_tokenizers
        from tokenizers import Tokenizer as Made
    except ImportError:
        raise MissingPackageError("accuracy") from None
    pairs = [(first, last) for first, _, last in (merge.partition(" ") for merge in merges)]
    ids = {token: n for n, token in enumerate(tokens)}
    try:
        made = Made(models.BPE(ids, pairs, ignore_merges=split == "llama-bpe"))
    except Exception as error:  # the package raises no narrower class
        raise InputError(path, "tokenizer.ggml.merges", f"pairs of known tokens: {error}") from None
    own = SPLITS[split]
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split != "llama-bpe")
    steps = [pre_tokenizers.Split(Regex(own), "isolated"), words] if own else [words]
    made.pre_tokenizer, made.decoder = pre_tokenizers.Sequence(steps), decoders.ByteLevel()
    made.add_special_tokens(control)
    return made
