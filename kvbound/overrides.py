"""Set single fields of an instance's document by their dotted paths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kvbound.errors import InputError
from kvbound.fields import did_you_mean, show

_FREE_NAMES = ("resources", "sources", "config")
"""Tables whose keys users choose, so that new keys cannot be told from typos and are refused."""


def apply(document: dict[str, Any], path: str, value: Any, file: object) -> None:
    """Set one field in place.

    The field may be absent if its table has fixed fields, as the reader of that table refuses unknown ones.

    Parameters
    ----------
    path
        Dotted path such as ``memory.tiers.hbm.capacity``, with names or numbers of list entries.
    file
        Origin of the path, for messages.

    Raises
    ------
    InputError
        The path does not exist; the message suggests the closest one.
    """
    *parents, last = path.split(".")
    at: Any = document
    for key in parents:
        places = _places(at)
        if key not in places:
            raise _not_found(document, path, key, at, file)
        at = at[places[key]]
    places = _places(at)
    optional = isinstance(at, Mapping) and bool(parents) and parents[-1] not in _FREE_NAMES
    if last not in places and not optional:
        raise _not_found(document, path, last, at, file)
    at[places.get(last, last)] = value


def _places(at: object) -> dict[str, Any]:
    """Return the possible next parts of a path, with the key or index of each."""
    if isinstance(at, Mapping):
        return {str(key): key for key in at}
    if not isinstance(at, list):
        return {}
    named = {str(e["name"]): n for n, e in enumerate(at) if isinstance(e, Mapping) and "name" in e}
    return {str(n): n for n in range(len(at))} | named


def _not_found(document: dict[str, Any], path: str, key: str, at: object, file: object) -> InputError:
    known = list(_paths(document))
    ends = [each for each in known if each.endswith(f".{path}")]
    hint = f"; did you mean {ends[0]!r}?" if ends else did_you_mean(key, _places(at))
    hint = hint or did_you_mean(path, known)
    roots = "" if hint else f"; paths begin with {', '.join(document)}"
    return InputError(file, f"overrides.{path}", f"a path that exists, found no {show(key)}{hint or roots}")


def _paths(at: object, path: str = "") -> Iterator[str]:
    """Yield every path through tables, and through lists of named entries by their names."""
    if path:
        yield path
    named = isinstance(at, list) and all(isinstance(entry, Mapping) and "name" in entry for entry in at)
    if isinstance(at, Mapping) or named:
        for step, place in _places(at).items():
            if not (named and step.isdecimal()):
                yield from _paths(at[place], f"{path}.{step}" if path else step)  # type: ignore[index]
