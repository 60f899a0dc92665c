"""Read a mapping field by field, with errors that name the file and the dotted field."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from fractions import Fraction
from typing import Any, TypeVar
from unicodedata import category

from kvbound.errors import InputError
from kvbound.units import (
    UnitError,
    exact_share,
    parse_bandwidth,
    parse_bytes,
    parse_seconds,
    parse_share,
    show,
)

__all__ = ["MAX_BYTES", "MAX_EXPERTS", "Fields", "as_number", "did_you_mean", "join", "located", "show"]

MAX_BYTES = 2**60
MAX_EXPERTS = 2048
MAX_BANDWIDTH = 1e18
MIN_BANDWIDTH = 1e-6
MAX_SECONDS = 1e9

_LONGEST = 200
_PREFIX = 3
"""Least length of a name that is matched as the prefix of longer ones."""

Choice = TypeVar("Choice", bound=StrEnum)
Number = TypeVar("Number", float, Fraction)
_MISSING: Any = object()


class Fields:
    """Reader of one mapping of an input file.

    Every method takes a key and an optional default for an absent key; without a default the field is
    required. `done` then refuses keys that have not been read.

    Parameters
    ----------
    mapping
        The mapping; anything but one with text keys is refused.
    file
        The file, for messages.
    field
        Dotted path of `mapping` within the file.

    Raises
    ------
    InputError
        From every method, for a field that is missing or invalid.
    """

    def __init__(self, mapping: object, file: object, field: str = "") -> None:
        self.file, self.field = file, field
        if not isinstance(mapping, Mapping) or not all(isinstance(key, str) for key in mapping):
            raise InputError(file, field, f"a table of named fields, not {show(mapping)}")
        for key in mapping:
            if not _plain(key):
                raise InputError(file, field, f"names without control characters, not {show(key)}")
        self._mapping: Mapping[str, Any] = mapping
        self._known: dict[str, None] = {}

    def at(self, key: str) -> str:
        """Return the dotted path of `key`."""
        return join(self.field, key)

    def error(self, key: str, expected: str) -> InputError:
        """Return an InputError about `key`."""
        return InputError(self.file, self.at(key), expected)

    def has(self, key: str) -> bool:
        """Whether there is a field `key`, which then counts as known."""
        self._known[key] = None
        return key in self._mapping

    def raw(self, key: str, expected: str = "a value", default: Any = _MISSING) -> Any:
        """Return the value without validating it."""
        if self.has(key):
            return self._mapping[key]
        if default is _MISSING:
            raise self.error(key, f"{expected}, but the field is missing")
        return default

    def text(self, key: str, default: Any = _MISSING) -> str:
        """Return text of any number of lines; it may be empty only if that is the default."""
        value = self.raw(key, "text", default)
        if not isinstance(value, str) or (not value and value != default):
            raise self.error(key, f"text, not {show(value)}")
        if not _plain(value.translate(dict.fromkeys(map(ord, "\t\r\n")))):
            raise self.error(key, f"text without control characters, not {show(value)}")
        return value

    def name(self, key: str) -> str:
        """Return non-empty text of one line."""
        value = self.text(key)
        if not _plain(value) or len(value) > _LONGEST:
            raise self.error(key, f"a name of one line and {_LONGEST} characters at most, not {show(value)}")
        return value

    def boolean(self, key: str, default: Any = _MISSING) -> bool:
        """Return a boolean."""
        value = self.raw(key, "true or false", default)
        if not isinstance(value, bool):
            raise self.error(key, f"true or false, not {show(value)}")
        return value

    def integer(self, key: str, low: int = 0, high: int = 2**53, default: Any = _MISSING) -> int:
        """Return an integer in [low, high]; 4096.0 is one, true is not."""
        expected = f"an integer from {low:,} to {high:,}"
        value = self.raw(key, expected, default)
        if key in self._mapping:
            number = as_number(value)
            if number is None or number != math.floor(number) or not low <= value <= high:
                raise self.error(key, f"{expected}, not {show(value)}")
            return int(value)
        return value

    def number(
        self, key: str, low: float = -math.inf, high: float = math.inf, default: Any = _MISSING
    ) -> float:
        """Return a finite number in [low, high]."""
        between = "" if low == -math.inf and high == math.inf else f" from {low:g} to {high:g}"
        expected = f"a finite number{between}"
        value = self.raw(key, expected, default)
        if key in self._mapping:
            number = as_number(value)
            if number is None or not low <= number <= high:
                raise self.error(key, f"{expected}, not {show(value)}")
            return number
        return value

    def choice(self, key: str, kind: type[Choice], default: Any = _MISSING) -> Choice:
        """Return a member of a StrEnum."""
        expected = "one of " + ", ".join(repr(str(member)) for member in kind)
        value = self.raw(key, expected, default)
        try:
            return kind(value)
        except ValueError:
            raise self.error(key, f"{expected}, not {show(value)}") from None

    def bytes(self, key: str, default: Any = _MISSING) -> Fraction:
        """Return exact bytes, from a number or from text with a unit."""
        return self._quantity(key, parse_bytes, "a size", MAX_BYTES, default)

    def bandwidth(self, key: str, default: Any = _MISSING) -> float:
        """Return bytes per second, from a number or from text with a unit."""
        rate = self._quantity(key, parse_bandwidth, "a bandwidth", MAX_BANDWIDTH, default)
        if key in self._mapping and rate < MIN_BANDWIDTH:
            raise self.error(key, f"a bandwidth above 0, not {show(self._mapping[key])}")
        return rate

    def seconds(self, key: str, default: Any = _MISSING) -> float:
        """Return seconds, from a number or from text with a unit."""
        return self._quantity(key, parse_seconds, "a time", MAX_SECONDS, default)

    def share(self, key: str, default: Any = _MISSING) -> float:
        """Return a share in [0, 1], from a number or from text with a percent sign."""
        return self._quantity(key, parse_share, "a share", 1.0, default)

    def exact_share(self, key: str) -> Fraction:
        """Return a share as `share`, without rounding."""
        return self._quantity(key, exact_share, "a share", 1.0, _MISSING)

    def items(self, key: str, default: Any = _MISSING) -> Sequence[Any]:
        """Return a list without validating its items."""
        value = self.raw(key, "a list", default)
        if not isinstance(value, (list, tuple)):
            raise self.error(key, f"a list, not {show(value)}")
        return value

    def names(self, key: str, default: Any = _MISSING) -> tuple[str, ...]:
        """Return a list of non-empty texts."""
        value = self.items(key, default)
        if not all(isinstance(name, str) and name and _plain(name) for name in value):
            raise self.error(key, f"a list of names, not {show(value)}")
        return tuple(value)

    def child(self, key: str, default: Any = _MISSING) -> Fields:
        """Return the table under `key`."""
        return Fields(self.raw(key, "a table of named fields", default), self.file, self.at(key))

    def children(self, key: str) -> list[Fields]:
        """Return the list of tables under `key`, whose paths use their names, or else their numbers."""
        paths = [
            item["name"] if isinstance(item, Mapping) and isinstance(item.get("name"), str) else str(n)
            for n, item in enumerate(self.items(key))
        ]
        return [
            Fields(item, self.file, join(self.at(key), path))
            for item, path in zip(self.items(key), paths, strict=True)
        ]

    def __iter__(self) -> Iterator[str]:
        """Iterate over all keys, which then count as known."""
        self._known.update(dict.fromkeys(self._mapping))
        return iter(self._mapping)

    def done(self) -> None:
        """Refuse keys that have not been read."""
        for key in self._mapping:
            if key not in self._known:
                expected = "one of " + ", ".join(self._known)
                raise self.error(key, f"{expected}, not an unknown field{did_you_mean(key, self._known)}")

    def _quantity(
        self, key: str, parse: Callable[[Any], Number], what: str, high: float, default: Any
    ) -> Number:
        value = self.raw(key, what, default)
        if key not in self._mapping:
            return value
        try:
            number = parse(value)
        except UnitError as error:
            raise self.error(key, str(error)) from None
        if number > high:
            raise self.error(key, f"{what} of at most {high:g}, not {show(value)}")
        return number


@contextmanager
def located(file: object, field: str = "") -> Iterator[None]:
    """Prefix InputErrors raised within the block with a file and a path."""
    try:
        yield
    except InputError as error:
        raise InputError(file, join(field, error.field), error.expected) from None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` for the closest known name, or empty text."""
    names = list(known)
    longer = [each for each in names if each.startswith(name)] if len(name) >= _PREFIX else []
    close = longer or difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _plain(text: str) -> bool:
    """Whether text has neither control characters nor unpaired surrogates, which files cannot hold."""
    return text.isprintable() or not any(category(each) in ("Cc", "Cs", "Zl", "Zp") for each in text)


def as_number(value: object) -> float | None:
    """Return `value` as a finite float, or None for text, booleans, NaN and infinities."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e300:
        return None
    return float(value)


def join(field: str, key: str) -> str:
    """Return the dotted path of `key` in `field`."""
    return f"{field}.{key}" if field and key else field or key
