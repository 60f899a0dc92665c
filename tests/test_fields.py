"""Reading a mapping field by field: every error names file and field."""

import math
from enum import StrEnum

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kvbound.errors import InputError
from kvbound.fields import Fields, as_number, located, show


class Copies(StrEnum):
    INCLUSIVE = "inclusive"
    EXCLUSIVE = "exclusive"


READERS = ["text", "boolean", "integer", "number", "bytes", "bandwidth", "seconds", "share", "items", "names"]


@pytest.mark.parametrize("reader", [*READERS, "raw", "child", "children"])
def test_missing(reader: str) -> None:
    with pytest.raises(InputError, match=r"^x\.json: a\.b: expected .*missing$"):
        getattr(Fields({}, "x.json", "a"), reader)("b")


@pytest.mark.parametrize("reader", READERS)
def test_an_absent_field_takes_its_default(reader: str) -> None:
    default = {"text": "", "boolean": False, "items": (), "names": ()}.get(reader, 7)
    assert getattr(Fields({}, "x.json"), reader)("b", default=default) == default


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("value", [None, {}, math.nan])
def test_wrong_type(reader: str, value: object) -> None:
    with pytest.raises(InputError, match=r"^x\.json: a: expected "):
        getattr(Fields({"a": value}, "x.json"), reader)("a")


def test_choice() -> None:
    assert Fields({"copies": "exclusive"}, "x").choice("copies", Copies) is Copies.EXCLUSIVE
    assert Fields({}, "x").choice("copies", Copies, Copies.INCLUSIVE) is Copies.INCLUSIVE
    wrong: list[object] = ["Exclusive", 1, None, [], True]
    for value in wrong:
        with pytest.raises(InputError, match="expected one of 'inclusive', 'exclusive', not "):
            Fields({"copies": value}, "x").choice("copies", Copies)


@given(st.integers(), st.integers(-100, 100), st.integers(0, 100))
def test_integers_keep_to_their_range(value: int, low: int, more: int) -> None:
    fields = Fields({"n": value}, "x")
    if low <= value <= low + more:
        assert fields.integer("n", low, low + more) == value
    else:
        with pytest.raises(InputError, match=r"^x: n: expected an integer from"):
            fields.integer("n", low, low + more)


@pytest.mark.parametrize("value", [2.5, "2", True, 10**400, math.inf, -0.1])
def test_values_that_are_not_integers(value: object) -> None:
    with pytest.raises(InputError):
        Fields({"n": value}, "x").integer("n")


def test_unknown_fields_are_refused_with_a_suggestion() -> None:
    fields = Fields({"layers": 2, "latencey": 1}, "x.json", "llm")
    fields.integer("layers")
    fields.seconds("latency", 0.0)
    with pytest.raises(InputError, match=r"llm\.latencey: expected one of layers, latency, .*mean 'latency'"):
        fields.done()


def test_iterating_makes_every_key_known() -> None:
    fields = Fields({"a": 1, "b": 2}, "x")
    assert list(fields) == ["a", "b"]
    fields.done()


def test_children_go_by_name_or_number() -> None:
    fields = Fields({"tiers": [{"name": "hbm"}, {}]}, "x", "memory")
    assert [child.field for child in fields.children("tiers")] == ["memory.tiers.hbm", "memory.tiers.1"]


def test_located_prefixes_the_file_and_the_path() -> None:
    with pytest.raises(InputError) as caught, located("x.json", "memory"):
        raise InputError("memory 'm'", "tiers", "two tiers")
    assert str(caught.value) == "x.json: memory.tiers: expected two tiers"


@given(st.floats() | st.integers() | st.booleans() | st.text() | st.none())
@example(2**53 + 1)
def test_numbers_are_finite(value: object) -> None:
    number = as_number(value)
    if number is not None:
        assert isinstance(value, int | float)
        assert not isinstance(value, bool)
        assert math.isfinite(number)
        assert number == float(value)


@given(st.text())
def test_shown_values_are_short(text: str) -> None:
    assert len(show(text)) <= 60
