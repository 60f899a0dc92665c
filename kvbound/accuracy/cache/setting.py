"""Settings of a cache as text: ``q8_0``, ``k=q8_0:v=q4_0``, ``recent64=f16:rest=q4_0``, ``kivi2``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from kvbound.accuracy.cache.sides import Ages, Kivi, Side, Span
from kvbound.accuracy.formats import Codec, codec
from kvbound.errors import UsageError

_KIVI: Final = re.compile(
    r"kivi(?P<bits>[24])(?:-g(?P<group>[1-9]\d{0,4}))?(?:-r(?P<residual>[1-9]\d{0,5}))?"
)
_KIVI_GROUP, _KIVI_RESIDUAL = 32, 128
_FIRST: Final = re.compile(r"first([1-9]\d{0,8})")
_RECENT: Final = re.compile(r"recent(?:([1-9]\d{0,8})|(\d{1,2}(?:\.\d{1,6})?)%)")
_KEYS: Final = "k, v, rest, firstN, recentN or recentN%"


@dataclass(frozen=True)
class Setting:
    """How a cache stores K and V.

    Parameters
    ----------
    name
        The text that it was made from.
    k, v
        How each is stored.
    """

    name: str
    k: Side
    v: Side

    def bytes_per_token(self, tokens: int, width: int) -> float:
        """Return the mean bytes of a token's K and V in one layer, for a cache of `tokens` tokens.

        Parameters
        ----------
        width
            Values of a token's K, and of its V: KV heads times head size.
        """
        return (self.k.stored_bytes(tokens, width) + self.v.stored_bytes(tokens, width)) / tokens


def parse(text: str) -> Setting:
    """Return the setting that a text describes.

    A single format stores everything; otherwise parts are separated by colons: ``k=`` and ``v=`` for one
    side, ``rest=`` for both, ``recent64=`` or ``recent25%=`` for the most recent tokens, ``first4=`` for the
    first.

    Raises
    ------
    UsageError
        The text is not a setting, or names an unknown format.
    """
    if "=" not in text:
        return Setting(text, _side(text, "k", (), None), _side(text, "v", (), None))
    parts = _parts(text)
    recent = _recent(text, parts)
    first = [(int(found[1]), codec(name)) for key, name in parts.items() if (found := _FIRST.fullmatch(key))]
    if len(first) > 1:
        raise UsageError(f"{text!r}: expected one number of first tokens, not {len(first)}")
    sides = []
    for side in "kv":
        name = parts.get(side, parts.get("rest"))
        if name is None:
            raise UsageError(f"{text!r}: expected a format of all of {side.upper()}, by {side}= or rest=")
        sides.append(_side(name, side, recent, first[0] if first else None))
    return Setting(text, *sides)


def _parts(text: str) -> Mapping[str, str]:
    """Return the formats of a text by key."""
    parts: dict[str, str] = {}
    for part in text.split(":"):
        key, equals, name = part.partition("=")
        known = key in ("k", "v", "rest") or _FIRST.fullmatch(key) or _RECENT.fullmatch(key)
        if not (equals and known):
            raise UsageError(f"{text!r}: expected {_KEYS}, with = and a format, not {part!r}")
        if key in parts:
            raise UsageError(f"{text!r}: expected {key}= once")
        parts[key] = name
    if "rest" in parts and "k" in parts and "v" in parts:
        raise UsageError(f"{text!r}: expected rest= or both of k= and v=, not all three")
    return parts


def _recent(text: str, parts: Mapping[str, str]) -> tuple[tuple[Span, Codec], ...]:
    """Return the spans of recent tokens with their formats, the shortest first."""
    spans: dict[int | Fraction, Codec] = {}
    for key, name in parts.items():
        if found := _RECENT.fullmatch(key):
            tokens = int(found[1]) if found[1] else Fraction(found[2]) / 100
            if not tokens:
                raise UsageError(f"{text!r}: expected more than 0 % of recent tokens")
            spans[tokens] = codec(name)
    if len({isinstance(tokens, int) for tokens in spans}) > 1:
        raise UsageError(f"{text!r}: expected recent tokens either in numbers or in per cent, not both")
    return tuple((Span(tokens), spans[tokens]) for tokens in sorted(spans))


def _side(
    name: str, side: str, recent: tuple[tuple[Span, Codec], ...], first: tuple[int, Codec] | None
) -> Side:
    """Return how one side is stored, the rest of it in the format with a name."""
    found = _KIVI.fullmatch(name)
    if found is None:
        return Ages(codec(name), recent, first)
    if recent or first:
        raise UsageError(f"{name} keeps recent tokens by itself: expected no recent or first beside it")
    group = int(found["group"] or _KIVI_GROUP)
    residual = int(found["residual"] or _KIVI_RESIDUAL)
    if residual % group:
        raise UsageError(f"{name}: expected a residual that is a multiple of the group, {group}")
    return Kivi(int(found["bits"]), group, residual, channels=side == "k")
