"""Set single fields of an instance's document by their dotted paths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kvbound.errors import InputError
from kvbound.fields import did_you_mean, show

_FREE_NAMES = ("resources", "sources", "config")
"""Tables whose keys are names of the user's own, so that no reader could tell a new one from a typo."""


def apply(document: dict[str, Any], path: str, value: Any, file: object) -> None:
    """Set one field in place.

    A field that is absent because it has a default may be named too: readers of tables with fixed
    fields refuse those they do not know.

    Parameters
    ----------
    path
        Such as ``memory.tiers.hbm.capacity``; entries of lists go by their name or number.
    file
        Where the path comes from, for messages.

    Raises
    ------
    InputError
        The path names nothing; the message suggests the closest one that does.
    """
    *parents, last = path.split(".")
    at: Any = document
    for key in parents:
        places = _places(at)
        if key not in places:
            raise _nowhere(document, path, key, at, file)
        at = at[places[key]]
    places = _places(at)
    optional = isinstance(at, Mapping) and bool(parents) and parents[-1] not in _FREE_NAMES
    if last not in places and not optional:
        raise _nowhere(document, path, last, at, file)
    at[places.get(last, last)] = value


def _places(at: object) -> dict[str, Any]:
    """What one more step of a path may be, and the key or index it stands for."""
    if isinstance(at, Mapping):
        return {str(key): key for key in at}
    if not isinstance(at, list):
        return {}
    named = {str(e["name"]): n for n, e in enumerate(at) if isinstance(e, Mapping) and "name" in e}
    return {str(n): n for n in range(len(at))} | named


def _nowhere(document: dict[str, Any], path: str, key: str, at: object, file: object) -> InputError:
    known = list(_paths(document))
    ends = [each for each in known if each.endswith(f".{path}")]
    hint = f"; did you mean {ends[0]!r}?" if ends else did_you_mean(key, _places(at))
    hint = hint or did_you_mean(path, known)
    roots = "" if hint else f"; paths begin with {', '.join(document)}"
    return InputError(file, f"overrides.{path}", f"a path that exists, found no {show(key)}{hint or roots}")


def _paths(at: object, path: str = "") -> Iterator[str]:
    """Every path through tables, and through lists of named entries by those names."""
    if path:
        yield path
    named = isinstance(at, list) and all(isinstance(entry, Mapping) and "name" in entry for entry in at)
    if isinstance(at, Mapping) or named:
        for step, place in _places(at).items():
            if not (named and step.isdecimal()):
                yield from _paths(at[place], f"{path}.{step}" if path else step)  # type: ignore[index]
