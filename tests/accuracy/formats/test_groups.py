import numpy as np
import pytest

from kvbound.accuracy.formats import codec, round_trip


def half(value: float) -> list[int]:
    return list(np.array([value], "<f2").tobytes())


def test_eight_bits_by_hand() -> None:
    packed = codec("int8-g4").pack([127.0, -127.0, 0.5, 1.5])
    assert packed.tolist() == [*half(1.0), 127, 129, 0, 2]  # two's complement, halves to even


def test_four_bits_by_hand() -> None:
    packed = codec("int4-g4").pack([7.0, -7.0, 1.0, -2.0])
    assert packed.tolist() == [*half(1.0), 7 | 9 << 4, 1 | 14 << 4]
    assert codec("int4-g4").unpack(packed).tolist() == [7, -7, 1, -2]


def test_zero_point_by_hand() -> None:
    packed = codec("int4-g4-zero").pack([-3.0, 12.0, 0.4, 1.6])
    assert packed.tolist() == [*half(1.0), *half(-3.0), 0 | 15 << 4, 3 | 5 << 4]
    assert codec("int4-g4-zero").unpack(packed).tolist() == [-3, 12, 0, 2]


def test_two_bits_by_hand() -> None:
    packed = codec("int2-g4-zero").pack([0.0, 1.0, 2.0, 3.0])
    assert packed.tolist() == [*half(1.0), *half(0.0), 0 | 1 << 2 | 2 << 4 | 3 << 6]
    assert codec("int2-g5-zero").pack([0.0, 1.0, 2.0, 3.0, 3.0])[-1] == 3  # padded
    assert round_trip(codec("int2-g5-zero"), np.arange(5.0, dtype=np.float32)).max() == pytest.approx(
        4, rel=1e-3
    )


@pytest.mark.parametrize("name", ["int8-g4", "int4-g4", "int8-g4-zero", "int4-g4-zero", "int2-g4-zero"])
def test_constant_groups_and_subnormal_scales(name: str) -> None:
    constant = np.full((1, 4), 2.5, np.float32)
    assert round_trip(codec(name), constant) == pytest.approx(constant, rel=1e-3)
    assert (round_trip(codec(name), constant * np.float32(1e-40)) == 0).all()


def test_an_outlier_harms_its_own_group_only() -> None:
    row = np.full((1, 8), 0.1, np.float32)
    row[0, 0] = 1000
    values = round_trip(codec("int8-g4"), row)[0]
    assert values[1] == 0
    assert values[5] == pytest.approx(0.1, rel=1e-3)
