"""Named memories and language models that ship with kvbound, each number with its source."""

from __future__ import annotations

import copy
import functools
import tomllib
from enum import StrEnum
from importlib import resources
from typing import Any

from kvbound.errors import InputError, UsageError
from kvbound.fields import did_you_mean
from kvbound.llm.model import Llm
from kvbound.memory import Memory


class Kind(StrEnum):
    """Kinds of catalog entries."""

    MEMORY = "memory"
    LLM = "llm"


def names(kind: Kind) -> tuple[str, ...]:
    """Return the names of all entries of a kind, in the catalog's order."""
    return tuple(_entries(kind))


def entry(kind: Kind, name: str, file: object = None, field: str = "") -> dict[str, Any]:
    """Return an entry as a mapping, in the form of instance files.

    Parameters
    ----------
    file, field
        Place of the name, for messages; without a file it is from the command line.

    Raises
    ------
    InputError, UsageError
        The catalog has no such entry; the message suggests the closest name.
    """
    entries = _entries(kind)
    if name in entries:
        return {"name": name, **copy.deepcopy(entries[name])}
    hint = did_you_mean(name, entries)
    if file is None:
        raise UsageError(f"the catalog has no {kind} {name!r}{hint} ('kvbound catalog {kind}' lists them)")
    raise InputError(
        file, field, f"an entry of 'kvbound catalog {kind}' or a whole object, not {name!r}{hint}"
    )


def memory(name: str, file: object = None, field: str = "") -> Memory:
    """Return the memory of that name; see `entry`."""
    return Memory.from_mapping(entry(Kind.MEMORY, name, file, field), "catalog/memory.toml", name)


def llm(name: str, file: object = None, field: str = "") -> Llm:
    """Return the language model of that name; see `entry`."""
    return Llm.from_mapping(entry(Kind.LLM, name, file, field), "catalog/llm.toml", name)


@functools.cache
def _entries(kind: Kind) -> dict[str, dict[str, Any]]:
    text = resources.files("kvbound").joinpath("instances", "catalog", f"{kind}.toml").read_text("utf-8")
    return tomllib.loads(text)
