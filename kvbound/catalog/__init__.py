"""Named memories and language models that ship with kvbound, each number with its source."""

from __future__ import annotations

import copy
from enum import StrEnum
from typing import Any

from kvbound.catalog.composed import (
    PLUS,
    CompositionError,
    accelerator,
    accelerators,
    compose,
    fitting,
    part,
    parts,
)
from kvbound.catalog.entries import entries
from kvbound.catalog.gpus import Gpu
from kvbound.errors import InputError, UsageError
from kvbound.fields import did_you_mean
from kvbound.llm.model import Llm
from kvbound.memory import Memory

__all__ = [
    "Gpu", "Kind", "accelerator", "accelerators", "entry", "find", "fitting", "gpu", "llm", "memory", "names",
    "part", "parts",
]  # fmt: skip


class Kind(StrEnum):
    """Kinds of catalog entries."""

    MEMORY = "memory"
    LLM = "llm"
    GPU = "gpu"


def names(kind: Kind) -> tuple[str, ...]:
    """Return the names of all entries of a kind, in the catalog's order; composed memories are not listed."""
    return tuple(entries(kind))


def entry(kind: Kind, name: str, file: object = None, field: str = "") -> dict[str, Any]:
    """Return an entry as a mapping, in the form of instance files.

    Parameters
    ----------
    name
        Name of an entry, or of a composed memory, such as ``h100+ddr5+nvme5``.
    file, field
        Place of the name, for messages; without a file it is from the command line.

    Raises
    ------
    InputError, UsageError
        The catalog has no such entry; the message suggests the closest name.
    """
    if kind is Kind.MEMORY and PLUS in name:
        return _composed(name, file, field)
    known = entries(kind)
    if name in known:
        return {"name": name, **copy.deepcopy(known[name])}
    alone = _alone(name) if kind is Kind.MEMORY else ""
    more = accelerators() if kind is Kind.MEMORY and not alone else ()
    hint = alone + did_you_mean(name, [*known, *more])
    if file is None:
        raise UsageError(f"the catalog has no {kind} {name!r}{hint} ('kvbound catalog {kind}' lists them)")
    raise InputError(
        file, field, f"an entry of 'kvbound catalog {kind}' or a whole object, not {name!r}{hint}"
    )


def find(kind: Kind, name: str) -> dict[str, Any] | None:
    """Return what `entry` does, or None if there is no such entry."""
    try:
        return entry(kind, name)
    except UsageError:
        return None


def memory(name: str, file: object = None, field: str = "") -> Memory:
    """Return the memory of that name; see `entry`."""
    return Memory.from_mapping(entry(Kind.MEMORY, name, file, field), "catalog/memory.toml", name)


def llm(name: str, file: object = None, field: str = "") -> Llm:
    """Return the language model of that name; see `entry`."""
    return Llm.from_mapping(entry(Kind.LLM, name, file, field), "catalog/llm.toml", name)


def gpu(name: str) -> Gpu:
    """Return the GPU of that name; see `entry`."""
    return Gpu.from_mapping(entry(Kind.GPU, name))


def _composed(name: str, file: object, field: str) -> dict[str, Any]:
    try:
        return compose(name)
    except CompositionError as error:
        if file is None:
            raise UsageError(f"memory {name!r}: expected {error} (see 'kvbound catalog memory')") from None
        raise InputError(file, field, f"in {name!r} {error}") from None


def _alone(name: str) -> str:
    """Return what a name lacks that is an accelerator's or a part's, else empty text."""
    if name in accelerators():
        usual = "ddr5" if "ddr5" in fitting(name) else "nvme5"
        return f" (an accelerator alone; parts make it a memory, as in '{name}{PLUS}{usual}')"
    return f" (a part alone; it follows an accelerator, as in 'h100{PLUS}{name}')" if name in parts() else ""
