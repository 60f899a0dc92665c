"""The form of a result.json: its fields and their types."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from kvbound.checker.energy import PARTS, STATIC

SCHEMA = "kvbound.result/1"
PERCENTILES = ("mean", "p50", "p95", "p99", "max")
SEQUENCE = ("label", "outputs", "first_step", "last_step", "time_s", "tpot_s", "tokens_per_s")
"""Fields of each sequence."""
_STATUS = ("optimal", "feasible", "infeasible", "unknown")
_BOUND_STATUS = ("certified", "claimed", "none")


class Malformed(Exception):
    """A field that violates the schema: its dotted path, and what was expected."""

    def __init__(self, field: str, expected: str) -> None:
        super().__init__(field, expected)
        self.field, self.expected = field, expected


def read_result(document: object) -> Mapping[str, Any]:
    """Return the document after checking that every field has its type.

    Raises
    ------
    Malformed
        A field is missing or has another type.
    """
    if not isinstance(document, Mapping):
        raise Malformed("", f"a table of named fields, not {document!r:.60}")
    for path, (expected, holds) in _FORM.items():
        at: Any = document
        *tables, key = path.split(".")
        for table in tables:
            at = at[table]  # a table: its own entry of the form comes first
        if key not in at:
            if path in OPTIONAL:
                continue
            raise Malformed(path, f"{expected}, but the field is missing")
        if not holds(at[key]):
            raise Malformed(path, f"{expected}, not {at[key]!r:.60}")
    return document


_Test = Callable[[Any], bool]


def is_number(value: Any) -> bool:
    """Whether it is a finite number, small enough for arithmetic."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _amount(value: Any) -> bool:
    return is_number(value) and value >= 0


def _or_null(holds: _Test) -> _Test:
    return lambda value: value is None or holds(value)


def _table_of(holds: _Test, *keys: str) -> tuple[str, _Test]:
    """Form of a table of values that pass `holds`, with exactly these keys or with any."""
    what = "integers >= 0" if holds is _count else "numbers >= 0"
    names = f" ({', '.join(keys)})" if keys else ""

    def fits(value: Any) -> bool:
        known = isinstance(value, Mapping) and (not keys or set(value) == set(keys))
        return known and all(map(holds, value.values()))

    return f"a table of {what}{names}, or null", _or_null(fits)


def _sequences(value: Any) -> bool:
    """Whether it is a list of tables of amounts."""
    tables = isinstance(value, list) and all(isinstance(each, Mapping) for each in value)
    return tables and all(
        set(each) == set(SEQUENCE) and all(amount is None or _amount(amount) for amount in each.values())
        for each in value
    )


def _energies(value: Any) -> bool:
    """Whether it is a table of joules; those of arithmetic may be unknown."""
    if not isinstance(value, Mapping) or set(value) - {STATIC} != set(PARTS):
        return False
    return all(_amount(each) or (part == "compute" and each is None) for part, each in value.items())


_TEXT = "printable text", lambda value: isinstance(value, str) and value.isprintable()
_TEXT_OR_NULL = "printable text or null", _or_null(_TEXT[1])
_TABLE = "a table of named fields", lambda value: isinstance(value, Mapping)
_COUNT = "an integer >= 0", _count
_AMOUNT = "a finite number >= 0", _amount
_AMOUNT_OR_NULL = "a finite number >= 0, or null", _or_null(_amount)
_NUMBER_OR_NULL = "a finite number, or null", _or_null(is_number)


def _one_of(*values: str) -> tuple[str, _Test]:
    return f"one of {', '.join(map(repr, values))}", lambda value: isinstance(value, str) and value in values


_FORM: Mapping[str, tuple[str, _Test]] = {
    "schema": _one_of(SCHEMA),
    "kvbound_version": _TEXT,
    "instance": _TABLE,
    "instance.name": _TEXT,
    "instance.sha256": (
        "64 hexadecimal digits, or null",
        _or_null(lambda value: isinstance(value, str) and bool(re.fullmatch("[0-9a-f]{64}", value))),
    ),
    "instance.layers": _COUNT,
    "instance.prefill_tokens": _COUNT,
    "instance.decode_steps": _COUNT,
    "instance.tokens": _COUNT,
    "instance.outputs": _COUNT,
    "instance.reads": _COUNT,
    "method": _TEXT,
    "seed": _COUNT,
    "options": _TABLE,
    "status": _one_of(*_STATUS),
    "termination": _TABLE,
    "termination.reason": _TEXT,
    "termination.limit": _TEXT_OR_NULL,
    "time_s": _AMOUNT_OR_NULL,
    "objective": _AMOUNT,
    "bound": _TABLE,
    "bound.time_s": _AMOUNT_OR_NULL,
    "bound.objective": _AMOUNT,
    "bound.status": _one_of(*_BOUND_STATUS),
    "bound.method": _TEXT_OR_NULL,
    "gap": _NUMBER_OR_NULL,
    "share_of_bound": _NUMBER_OR_NULL,
    "tokens_per_s": _AMOUNT_OR_NULL,
    "tokens_per_s_bound": _AMOUNT_OR_NULL,
    "tpot_s": _table_of(_amount, *PERCENTILES),
    "hit_rate": _table_of(_amount),
    "hit_rate_with_weights": _AMOUNT_OR_NULL,
    "moved_bytes": _table_of(_count, "up", "down"),
    "utilisation": _table_of(_amount),
    "energy_j": (f"a table of numbers >= 0 ({', '.join(PARTS)}), or null", _or_null(_energies)),
    "energy_per_token_j": _AMOUNT_OR_NULL,
    "peak_bytes": _table_of(_count),
    "sequences": (f"a list of tables ({', '.join(SEQUENCE)}) of numbers >= 0", _sequences),
    "wall_s": _AMOUNT,
    "peak_rss_bytes": _COUNT,
    "kernel": _TEXT,
}
"""Every field by its dotted path: what is expected, in words, and the test of a value."""
OPTIONAL = (
    "instance.tokens", "instance.outputs", "objective", "bound.objective", "share_of_bound", "utilisation",
    "energy_per_token_j", "sequences",
)  # fmt: skip
"""Fields that may be missing."""
