from itertools import pairwise

import numpy as np
import pytest

from kvbound.accuracy.formats import CODECS, codec, round_trip
from kvbound.accuracy.formats.floats import E4M3, E5M2, Eight


@pytest.mark.parametrize(
    ("code", "value"),
    [
        (0x00, 0.0), (0x01, 2.0**-9), (0x07, 7 * 2.0**-9), (0x08, 2.0**-6), (0x38, 1.0), (0x39, 1.125),
        (0x7E, 448.0), (0xFE, -448.0), (0xB8, -1.0),
    ],
)  # fmt: skip
def test_codes_of_e4m3(code: int, value: float) -> None:
    assert E4M3.unpack(np.array([code], np.uint8))[0] == value
    assert E4M3.pack([value])[0] == code


@pytest.mark.parametrize(
    ("code", "value"),
    [(0x01, 2.0**-16), (0x03, 3 * 2.0**-16), (0x04, 2.0**-14), (0x3C, 1.0), (0x3D, 1.25), (0x7B, 57344.0)],
)
def test_codes_of_e5m2(code: int, value: float) -> None:
    assert E5M2.unpack(np.array([code], np.uint8))[0] == value
    assert E5M2.pack([value])[0] == code


@pytest.mark.parametrize("form", [E4M3, E5M2])
def test_codes_without_a_value(form: Eight) -> None:
    missing = np.flatnonzero(np.isnan(form.decoded()))
    expected = [0x7F, 0xFF] if form is E4M3 else [*range(0x7C, 0x80), *range(0xFC, 0x100)]
    assert missing.tolist() == expected


def test_e5m2_is_the_upper_half_of_float16() -> None:
    finite = [code for code in range(256) if (code & 0x7C) != 0x7C]
    halves = (np.array(finite, np.uint16) << 8).view(np.float16)
    assert (E5M2.decoded()[finite] == halves).all()


@pytest.mark.parametrize("form", [E4M3, E5M2])
def test_every_value_survives(form: Eight) -> None:
    codes = np.flatnonzero(~np.isnan(form.decoded())).astype(np.uint8)
    assert (form.pack(form.unpack(codes)) == codes).all()  # the sign of zero, too


@pytest.mark.parametrize("form", [E4M3, E5M2])
def test_rounds_to_the_nearest_and_halves_to_even(form: Eight) -> None:
    values = form.decoded()[:128]
    codes = np.flatnonzero(~np.isnan(values))
    for low, high in pairwise(codes):
        middle = (float(values[low]) + float(values[high])) / 2
        even = low if low % 2 == 0 else high
        points = [
            np.nextafter(np.float32(middle), np.float32(0)),
            middle,
            np.nextafter(np.float32(middle), 1e9),
        ]
        assert form.pack(points).tolist() == [low, even, high]
        assert form.pack(np.negative(points)).tolist() == [low + 128, even + 128, high + 128]


@pytest.mark.parametrize(("form", "largest"), [(E4M3, 448.0), (E5M2, 57344.0)])
def test_larger_values_saturate(form: Eight, largest: float) -> None:
    values = np.array([[largest, largest * 1.01, largest * 2, 3e38, -3e38]])
    assert round_trip(form, values).tolist() == [[largest] * 4 + [-largest]]


def test_fp8_is_e4m3() -> None:
    assert codec("fp8") is CODECS["fp8-e4m3"]


def test_bfloat16_rounds_halves_to_even() -> None:
    one = 0x3F80
    below, half, above = 0x3F807FFF, 0x3F808000, 0x3F808001
    bits = np.array([below, half, above, half + 0x10000], np.uint32).view(np.float32)
    assert codec("bf16").pack(bits).view("<u2").tolist() == [one, one, one + 1, one + 2]


def test_subnormal_values() -> None:
    tiny = np.array([1e-40, -1e-40, 2.0**-24, 2.0**-25, 2.0**-25 * 1.1], np.float32)
    assert round_trip(codec("f16"), tiny).tolist() == [0, 0, 2.0**-24, 0, 2.0**-24]
    kept = round_trip(codec("bf16"), tiny[:2])
    assert (kept > [0, -1e-39]).all()
    assert np.abs(kept - tiny[:2]).max() < 2.0**-133
    assert round_trip(codec("f32"), tiny).tolist() == tiny.tolist()


def test_float16_rounds_as_numpy_does() -> None:
    values = np.random.default_rng(0).normal(0, 100, 1000).astype(np.float32)
    assert (round_trip(codec("f16"), values) == values.astype(np.float16)).all()
    assert (codec("f16").pack(values).view("<u2") == values.astype(np.float16).view(np.uint16)).all()
