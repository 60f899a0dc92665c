from collections.abc import Callable

import numpy as np
import pytest

from kvbound.accuracy.cache import Side, parse
from kvbound.accuracy.formats import Floats, codec, round_trip
from kvbound.errors import InputError

TOKENS, WIDTH = 70, 64
SETTINGS = (
    "f16", "q8_0", "recent5=f16:rest=q4_0", "recent1=f32:rest=q4_0", "recent100=f16:rest=q4_0",
    "first4=f16:rest=q8_0", "first90=f16:rest=q4_0", "first3=f32:recent8=f16:recent20=q8_0:rest=q4_0",
    "recent25%=f16:rest=q8_0", "first2=f16:recent10%=f32:recent50%=q8_0:k=q5_0:v=q4_0", "kivi2-g16-r32",
    "kivi4-g32-r32", "kivi4-g32-r128",
)  # fmt: skip


def rows() -> Floats:
    return np.random.default_rng(3).normal(size=(TOKENS, WIDTH)).astype(np.float32)


def read(side: Side, given: Floats, query: int) -> Floats:
    """Return what a query reads, with NaN for tokens that are in no zone."""
    found = np.full((query + 1, given.shape[1]), np.nan, np.float32)
    for zone in side.zones(given):
        low, high = int(zone.low[query]), int(zone.high[query])
        assert np.isnan(found[low:high]).all()  # no token is in two zones
        found[low:high] = zone.values[low:high]
    return found


@pytest.mark.parametrize("text", SETTINGS)
@pytest.mark.parametrize("side", ["k", "v"])
def test_every_query_reads_every_token_once(text: str, side: str) -> None:
    for query in range(TOKENS):
        assert np.isfinite(read(getattr(parse(text), side), rows(), query)).all()


@pytest.mark.parametrize("text", SETTINGS)
@pytest.mark.parametrize("side", ["k", "v"])
def test_later_tokens_change_nothing(text: str, side: str) -> None:
    chosen = getattr(parse(text), side)
    for query in (0, 3, 31, 32, 33, 69):
        assert (read(chosen, rows(), query) == read(chosen, rows()[: query + 1], query)).all()


def aged(spans: list[tuple[Callable[[int], int], str]], rest: str, first: int, first_format: str) -> Floats:
    """Return what the last query reads from a cache that converts one token after the other."""
    cache: list[tuple[Floats, int]] = []
    formats = [*(name for _, name in spans), rest]
    for count, row in enumerate(rows(), 1):
        start = first_format if count <= first else formats[0]
        cache.append((round_trip(codec(start), row[None]), 0))
        for place, (stored, stage) in enumerate(cache):
            if place < first:
                continue
            age, now, kept = count - place, stage, stored
            while now < len(spans) and age > spans[now][0](count):
                now += 1
                kept = round_trip(codec(formats[now]), kept)
            cache[place] = kept, now
    return np.concatenate([stored for stored, _ in cache])


def test_tokens_are_converted_as_they_get_older() -> None:
    side = parse("first3=f32:recent8=f16:recent20=q8_0:rest=q4_0").k
    expected = aged([(lambda _: 8, "f16"), (lambda _: 20, "q8_0")], "q4_0", 3, "f32")
    assert (read(side, rows(), TOKENS - 1) == expected).all()


def test_shares_of_the_tokens() -> None:
    side = parse("recent25%=f16:rest=q4_0").v
    expected = aged([(lambda count: -(-count // 4), "f16")], "q4_0", 0, "f32")
    assert (read(side, rows(), TOKENS - 1) == expected).all()
    assert side.stored_bytes(10, WIDTH) == 3 * 128 + 7 * 36


def test_kivi_keys_have_a_scale_for_each_channel() -> None:
    given, side = rows(), parse("kivi4-g16-r32").k
    found = read(side, given, 69)
    half = given.astype(np.float16).astype(np.float32)
    assert (found[64:] == half[64:]).all()
    group = half[16:32, 5]
    scale = np.float16((group.max() - group.min()) / np.float32(15)).astype(np.float32)
    codes = np.rint((group - group.min()) * (1 / scale))
    assert found[16:32, 5] == pytest.approx(codes * scale + group.min(), abs=1e-6)
    assert (read(side, given, 63)[32:] == half[32:64]).all()  # quantized after the 64th token is stored
    assert (read(side, given, 64)[32:64] != half[32:64]).mean() > 0.9


def test_kivi_values_have_a_scale_for_each_token() -> None:
    given, side = rows(), parse("kivi2-g16-r32").v
    found = read(side, given, 69)
    half = given.astype(np.float16).astype(np.float32)
    assert (found[37:] == half[37:]).all()  # 32 before the query's own
    assert (found[:37] == round_trip(codec("int2-g16-zero"), half[:37])).all()


def test_bytes_of_kivi() -> None:
    setting = parse("kivi2-g32-r64")
    quantized, half = 12 / 32, 2
    assert setting.k.stored_bytes(200, WIDTH) == WIDTH * (192 * quantized + 8 * half)
    assert setting.v.stored_bytes(200, WIDTH) == WIDTH * (136 * quantized + 64 * half)


def test_bytes_are_those_that_are_packed() -> None:
    setting = parse("first3=f32:recent8=f16:k=q8_0:v=q4_0")
    packed = [codec(name).pack(rows()[0]).nbytes for name in ("f32", "f16", "q8_0", "q4_0")]
    rest = TOKENS - 11
    both = 2 * (3 * packed[0] + 8 * packed[1]) + rest * (packed[2] + packed[3])
    assert setting.bytes_per_token(TOKENS, WIDTH) == both / TOKENS
    assert parse("q8_0").bytes_per_token(5, WIDTH) == 2 * 68


@pytest.mark.parametrize("text", ["q8_0", "recent8=f16:rest=q4_0", "kivi2-g32-r32"])
def test_rows_of_incomplete_blocks_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="whole blocks"):
        parse(text).v.zones(rows()[:, :40])
