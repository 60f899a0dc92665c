import numpy as np
import pytest

from kvbound.accuracy.formats import CODECS, codec, round_trip
from kvbound.errors import InputError, UsageError
from kvbound.llm.formats import FORMATS, KvShape, known

GROUPS = ("int8-g64", "int4-g64", "int4-g32-zero", "int8-g128-zero", "int4-g7", "int2-g32-zero", "int2-g3")
ALL = (*CODECS, *GROUPS)


def rows_of(name: str, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(5, 4 * codec(name).values)).astype(np.float32)


@pytest.mark.parametrize("name", ALL)
def test_rows_take_the_bytes_that_placement_counts(name: str) -> None:
    each = codec(name)
    size = known("fp8" if name.startswith("fp8") else name)
    assert size is not None
    assert (each.values, each.bytes) == (size.values, size.bytes)
    rows = rows_of(name)
    assert each.pack(rows).shape == (5, KvShape(1, rows.shape[1]).bytes(size))
    assert each.unpack(each.pack(rows)).shape == rows.shape


def test_every_format_that_a_tier_may_hold_has_its_quantizer() -> None:
    assert FORMATS.keys() <= CODECS.keys()


@pytest.mark.parametrize(("name", "saved"), [("q8_0", 46.9), ("q4_0", 71.9), ("q5_1", 62.5), ("q5_0", 65.6)])
def test_share_saved_of_float16(name: str, saved: float) -> None:
    rows = rows_of(name)
    assert round(100 - 100 * codec(name).pack(rows).nbytes / CODECS["f16"].pack(rows).nbytes, 1) == saved


@pytest.mark.parametrize("name", ALL)
def test_zeros_stay_zero(name: str) -> None:
    zeros = np.zeros((2, 2 * codec(name).values), np.float32)
    assert (round_trip(codec(name), zeros) == 0).all()


@pytest.mark.parametrize("name", [name for name in ALL if "fp8" not in name])
def test_no_value_depends_on_another_block(name: str) -> None:
    rows, each = rows_of(name), codec(name)
    other = rows.copy()
    other[:, each.values :] = 7
    first = each.bytes
    assert (each.pack(rows)[:, :first] == each.pack(other)[:, :first]).all()


@pytest.mark.parametrize("name", ALL)
def test_the_error_is_within_a_step(name: str) -> None:
    each = codec(name)
    rows = rows_of(name, 3).reshape(-1, each.values)
    spread = np.ptp(rows, axis=1) if "_1" in name or "zero" in name else np.abs(rows).max(axis=1)
    steps = {"f32": 2**24, "f16": 2**11, "bf16": 2**8, "fp8": 16, "q8": 127, "q5": 15, "q4": 7}
    bits = int(name[3]) if name.startswith("int") else 0
    count = next(
        (count for start, count in steps.items() if name.startswith(start)), max(2 ** (bits - 1) - 1, 1)
    )
    if name == "fp8-e5m2":
        count = 8
    if name.endswith("_1") or name.endswith("zero"):
        count = 2 ** (bits or int(name[1])) - 1
    error = np.abs(round_trip(each, rows) - rows).max(axis=1)
    assert (error <= spread / count * 1.01).all()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(("value", "said"), [(np.nan, "not NaN"), (np.inf, "not an infinite one")])
def test_values_that_are_not_finite_are_refused(name: str, value: float, said: str) -> None:
    rows = rows_of(name)
    rows[1, 1] = value
    with pytest.raises(InputError, match=f"expected finite values, {said}$"):
        codec(name).pack(rows)


@pytest.mark.parametrize("name", ALL)
def test_rows_of_incomplete_blocks_are_refused(name: str) -> None:
    each = codec(name)
    if each.values > 1:
        with pytest.raises(InputError, match=f"rows of whole blocks of {each.values} values"):
            each.pack(np.zeros((2, each.values + 1)))


@pytest.mark.parametrize("name", ["f16", "q8_0", "q5_1", "q4_1", "q4_0", "int8-g64", "int4-g64-zero"])
def test_what_float16_cannot_hold_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"does not exceed 65,504, not "):
        codec(name).pack(np.full((1, codec(name).values), 1e9))


@pytest.mark.parametrize("name", ["q4_1", "int4-g64-zero"])
def test_a_range_that_overflows_is_refused(name: str) -> None:
    rows = np.full((1, codec(name).values), 3e38)
    rows[0, 0] = -3e38
    with pytest.raises(InputError, match="does not exceed"):
        codec(name).pack(rows)


def test_bfloat16_refuses_what_rounds_to_infinity() -> None:
    with pytest.raises(InputError, match="round to infinity"):
        codec("bf16").pack([[3.4e38]])


@pytest.mark.parametrize("name", ["q4_2", "Q8_0", "int4", "int3-g64", "int4-g0", "int4-g64-ones", ""])
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="unknown format"):
        codec(name)
