import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvbound.report import numbers
from kvbound.report.numbers import SIZES, TIMES, Unit


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (numbers.count(10239), "10,239"),
        (numbers.rate(416.3894), "416.4"),
        (numbers.rate(999.97), "1,000"),
        (numbers.rate(698418.2), "698,418"),
        (numbers.rate(12.5e9), "1.25e+10"),
        (numbers.ratio(1.6129), "1.613x"),
        (numbers.ratio(40.591), "40.59x"),
        (numbers.ratio(123456.0), "123,456x"),
        (numbers.share(0.6018), "60.2 %"),
        (numbers.gap(0.0), "0.00 %"),
        (numbers.gap(0.0314), "3.14 %"),
        (numbers.gap(0.0000834), "0.0083 %"),
        (numbers.deviation(0.0438), "+4.4 %"),
        (numbers.deviation(-0.4108), "-41.1 %"),
        (numbers.deviation(-2.56e-5), "-0.003 %"),
        (numbers.deviation(-1.9e-10), "0 %"),
        (numbers.seconds(24.592106), "24.59 s"),
        (numbers.capacity(23 * 2**30), "23 GiB"),
        (numbers.capacity(144e9), "144 GB"),
        (numbers.capacity(None), "unlimited"),
        (numbers.size(None), "-"),
    ],
)
def test_formats(made: str, expected: str) -> None:
    assert made == expected


def test_the_unknown_is_a_dash() -> None:
    shown = (
        numbers.count,
        numbers.rate,
        numbers.ratio,
        numbers.share,
        numbers.gap,
        numbers.deviation,
        numbers.seconds,
    )
    assert {show(None) for show in shown} == {"-"}


def test_a_column_has_the_unit_of_its_median() -> None:
    assert Unit.of([5e-4, 6e-4, 9e-3, None], TIMES).name == "us"
    assert Unit.of([0, 0, 3e6, 4e9, 5e6], SIZES).name == "MB"
    assert Unit.of([], SIZES) == Unit.of([0.0, None], SIZES) == Unit("B", 1.0)
    assert Unit.of([1e-12], TIMES).name == "ns"
    assert Unit("ms", 1e-3).show(0.0123456) == "12.35"
    assert Unit("ms", 1e-3).show(None) == "-"


@given(st.floats(1e-9, 1e6))
def test_what_is_shown_is_the_value_to_four_digits(value: float) -> None:
    unit = Unit.of([value], TIMES)
    shown = float(unit.show(value).replace(",", "")) * unit.factor
    assert shown == pytest.approx(value, rel=1e-3)
