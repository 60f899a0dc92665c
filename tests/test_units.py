"""Sizes, rates, times and shares: exact, round trips, refusals."""

import copy
import json
import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvbound import units

BYTES = {
    "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "PB": 10**15,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "PiB": 2**50,
}  # fmt: skip
SECONDS = {
    unit: Fraction(text)
    for unit, text in {
        "ns": "1e-9", "us": "1e-6", "µs": "1e-6", "ms": "1e-3", "s": "1", "min": "60", "h": "3600",
    }.items()
}  # fmt: skip


@given(st.integers(0, 10**6), st.integers(0, 999), st.sampled_from(sorted(BYTES)), st.sampled_from(["", " "]))
def test_sizes_are_exact(whole: int, thousandths: int, unit: str, space: str) -> None:
    exact = (whole + Fraction(thousandths, 1000)) * BYTES[unit]
    text = f"{whole}.{thousandths:03d}{space}{unit}"
    assert units.parse_bytes(text) == exact
    assert units.parse_bandwidth(text + "/s") == float(exact)


@given(st.integers(0, 10**6), st.sampled_from(sorted(SECONDS)))
def test_times_are_the_nearest_double(count: int, unit: str) -> None:
    assert units.parse_seconds(f"{count}{unit}") == float(count * SECONDS[unit])


@given(st.integers(0, 1000))
def test_shares_are_the_nearest_double(tenths: int) -> None:
    assert units.parse_share(f"{tenths / 10}%") == float(Fraction(tenths, 1000))


@given(st.floats(0, 1e17))
def test_numbers_are_accepted_unchanged(value: float) -> None:
    assert units.parse_bytes(value) == units.parse_bandwidth(value) == units.parse_seconds(value) == value
    assert float(units.parse_bytes(repr(value))) == value


@pytest.mark.parametrize(
    ("size", "exact"),
    [
        (2.3, Fraction(2.3)),
        (units.Written("2.3"), Fraction(23, 10)),
        (units.Written("9007199254740993.25"), 2**53 + 1 + Fraction(1, 4)),
        ("2.99999999999999999999B", 3 - Fraction(1, 10**20)),
        ("4.1GiB", Fraction(41, 10) * 2**30),
        (2**60 + 1, 2**60 + 1),
        (np.int32(2**31 - 1), 2**31 - 1),
        (np.float32(0.1), Fraction(float(np.float32(0.1)))),
        (Decimal("0.1"), Fraction(1, 10)),
        (Fraction(1, 3), Fraction(1, 3)),
    ],
)
def test_sizes_keep_every_digit(size: units.Quantity, exact: Fraction) -> None:
    assert units.parse_bytes(size) == exact
    assert units.whole_down(size) == math.floor(exact)
    assert units.whole_up(size) == math.ceil(exact)


def test_written_numbers_are_floats_elsewhere() -> None:
    written = units.Written("0.1")
    assert written == 0.1
    assert units.parse_seconds(written) == 0.1
    assert copy.deepcopy(written).text == "0.1"
    assert json.dumps(written) == "0.1"


@given(st.integers(0, 10**6))
def test_shares_of_floats_are_the_decimal_they_were_written_as(millionths: int) -> None:
    share = Fraction(millionths, 10**6)
    assert units.exact_share(millionths / 10**6) == share
    assert units.exact_share(f"{millionths / 10**4:.4f}%") == share


@given(st.floats(1, 9e17), st.booleans())
def test_formatted_sizes_read_back(size: float, binary: bool) -> None:
    text = units.format_bytes(size, binary=binary).replace(",", "")
    assert math.isclose(units.parse_bytes(text), size, rel_tol=5.1e-4 if size < 100 else 6e-4)
    assert math.isclose(
        units.parse_bandwidth(units.format_bandwidth(size).replace(",", "")), size, rel_tol=6e-4
    )


@given(st.floats(1e-9, 1e9))
def test_formatted_times_read_back(seconds: float) -> None:
    text = units.format_seconds(seconds).replace(",", "")
    assert "e" not in text
    assert math.isclose(units.parse_seconds(text), seconds, rel_tol=6e-4)


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (units.format_bytes(144e9), "144 GB"),
        (units.format_bytes(23 * 2**30, binary=True), "23 GiB"),
        (units.format_bytes(999_999_999), "1 GB"),
        (units.format_bytes(0), "0 B"),
        (units.format_bytes(None), "unlimited"),
        (units.format_bandwidth(450e9), "450 GB/s"),
        (units.format_seconds(24.59210623), "24.59 s"),
        (units.format_seconds(1.23e-5), "12.3 us"),
        (units.format_seconds(0), "0 s"),
        (units.format_seconds(36_000), "36,000 s"),
        (units.format_joules(0.0123), "12.3 mJ"),
        (units.format_joules(2e-13), "0.0002 nJ"),
        (units.format_joules(0), "0 J"),
        (units.format_share(0.604), "60.4 %"),
    ],
)
def test_format(shown: str, text: str) -> None:
    assert shown == text


@pytest.mark.parametrize(
    "value",
    ["", "GB", "23 Gb", "24G", "1,5GB", "1_000", "0x10", "23 GB s", "nan", "inf", "NaN GB", "-1GB", "1e999GB",
     "٣GB", -1, -0.5, math.nan, math.inf, 10**400, True, None, [1], {"GB": 1}],
)  # fmt: skip
@pytest.mark.parametrize(
    "parse", [units.parse_bytes, units.parse_bandwidth, units.parse_seconds, units.parse_share]
)
def test_refused(parse: object, value: object) -> None:
    with pytest.raises(units.UnitError, match=r"^a .* such as .*, not "):
        parse(value)  # type: ignore[operator]


@pytest.mark.parametrize("value", ["450GB", "450/s", "450 GB/h", "450Gb/s"])
def test_bandwidths_are_bytes_per_second(value: str) -> None:
    with pytest.raises(units.UnitError):
        units.parse_bandwidth(value)


@pytest.mark.parametrize("value", ["101%", "60", 1.5, "-3%"])
def test_shares_are_at_most_one(value: str | float) -> None:
    with pytest.raises(units.UnitError):
        units.parse_share(value)


def test_is_share() -> None:
    assert units.is_share("60%")
    assert units.is_share(" 60 % ")
    assert not units.is_share("60")
    assert not units.is_share(0.6)


def test_numbers_too_long_to_print_are_refused() -> None:
    with pytest.raises(units.UnitError, match="int, too long to print"):
        units.parse_bytes(10**5000)
