import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants

from kvbound.accuracy.formats import Floats, codec, round_trip

GGML = ("f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")


def half(value: float) -> list[int]:
    return list(np.array([value], "<f2").tobytes())


def block(*values: float) -> Floats:
    return np.array([*values, *[0.0] * (32 - len(values))], np.float32)


@pytest.mark.parametrize("name", GGML)
@pytest.mark.parametrize("spread", [1e-3, 1.0, 300.0])
def test_same_bytes_and_values_as_the_gguf_package(name: str, spread: float) -> None:
    kind = GGMLQuantizationType[name.upper()]
    draw = np.random.default_rng(7)
    rows = draw.normal(0, spread, (400, 96)).astype(np.float32)
    rows[100:200] = (
        np.round(rows[100:200] / spread * 4) * spread / 4
    )  # many halfway cases and equal magnitudes
    rows[200:250, 5] *= 40  # an outlier in the first block
    rows[250:260] = np.abs(rows[250:260])
    rows[260:270, :32] = 0
    rows[270:280] *= np.float32(1e-5)  # scales that are subnormal in float16
    packed = quants.quantize(rows, kind)
    assert codec(name).pack(rows).tobytes() == packed.tobytes()
    bits = codec(name).unpack(codec(name).pack(rows)).view(np.uint32)
    assert (bits == quants.dequantize(packed, kind).view(np.uint32)).all()


def test_q8_0_by_hand() -> None:
    packed = codec("q8_0").pack(block(127.0, -127.0, 0.5, -0.5, 1.5, 2.5, -2.5, 0.49))
    assert packed[:2].tolist() == half(1.0)
    assert packed[2:11].view(np.int8).tolist() == [127, -127, 1, -1, 2, 3, -3, 0, 0]


def test_q4_0_has_a_signed_scale() -> None:
    packed = codec("q4_0").pack(block(8.0, -8.0, 7.0, 0.5))
    assert packed[:2].tolist() == half(-1.0)  # 8 is the first of the largest magnitude: code 0 stands for it
    assert [code & 15 for code in packed[2:7]] == [0, 15, 1, 8, 8]
    values = round_trip(codec("q4_0"), block(8.0, -8.0, 7.0, 0.5))
    assert values[:4].tolist() == [8.0, -7.0, 7.0, 0.0]
    assert codec("q4_0").pack(block(-8.0, 8.0))[:2].tolist() == half(1.0)


def test_nibbles_hold_values_sixteen_apart() -> None:
    row = block()
    row[0], row[16], row[1], row[31] = -8, 7, 3, -1
    packed = codec("q4_0").pack(row)
    assert packed[2] == 0 | 15 << 4  # values 0 and 16
    assert packed[3] == 11 | 8 << 4  # values 1 and 17
    assert packed[17] == 8 | 7 << 4  # values 15 and 31


def test_q4_1_by_hand() -> None:
    row = np.full(32, 2.0, np.float32)
    row[0], row[16], row[1] = -1.0, 14.0, 5.4
    packed = codec("q4_1").pack(row)
    assert packed[:4].tolist() == [*half(1.0), *half(-1.0)]
    assert packed[4] == 0 | 15 << 4
    assert packed[5] == 6 | 3 << 4
    assert round_trip(codec("q4_1"), row)[[0, 1, 2, 16]].tolist() == [-1, 5, 2, 14]


def test_fifth_bits_by_hand() -> None:
    row = block()
    row[0], row[8], row[16], row[31] = -16, 15, 4, -4
    packed = codec("q5_0").pack(row)
    assert packed[:2].tolist() == half(1.0)
    high = int.from_bytes(packed[2:6].tobytes(), "little")
    assert high == (1 << 32) - 1 - (1 << 0) - (1 << 31)  # all but -16 and -4 have codes from 16 on
    assert packed[6] == 0 | 4 << 4
    row = np.full(32, 30.0, np.float32)
    row[0], row[1] = 0.0, 31.0
    packed = codec("q5_1").pack(row)
    assert packed[:4].tolist() == [*half(1.0), *half(0.0)]
    assert int.from_bytes(packed[4:8].tobytes(), "little") == (1 << 32) - 2


@pytest.mark.parametrize("name", GGML)
def test_one_outlier(name: str) -> None:
    row = block(*[0.01] * 32)
    row[9] = -1000.0
    values = round_trip(codec(name), row)
    assert values[9] == pytest.approx(-1000, rel=5e-3)
    assert abs(values[0]) < (0.011 if "f16" in name else 0.5 if name.endswith("0") else 1.0)


@pytest.mark.parametrize("name", ["q8_0", "q5_1", "q5_0", "q4_1", "q4_0"])
@pytest.mark.parametrize("tiny", [1e-45, 1e-40, 1e-38, 1e-9])
def test_values_below_the_smallest_scale_become_zero(name: str, tiny: float) -> None:
    row = block(tiny, -tiny, tiny / 3)
    assert (round_trip(codec(name), row) == 0).all()
