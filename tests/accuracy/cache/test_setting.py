import pytest

from kvbound.accuracy.cache import parse
from kvbound.accuracy.cache.sides import Ages, Kivi
from kvbound.accuracy.formats import codec
from kvbound.errors import UsageError


def test_one_format() -> None:
    setting = parse("q8_0")
    assert setting.k == setting.v == Ages(codec("q8_0"))


def test_sides_apart() -> None:
    setting = parse("k=q8_0:v=q4_0")
    assert (setting.k, setting.v) == (Ages(codec("q8_0")), Ages(codec("q4_0")))
    assert parse("v=q4_0:rest=f16").k == Ages(codec("f16"))


def test_kivi() -> None:
    assert parse("kivi2").k == Kivi(2, 32, 128, channels=True)
    assert parse("kivi4-g64-r256").v == Kivi(4, 64, 256, channels=False)
    assert parse("k=kivi2:v=q8_0").v == Ages(codec("q8_0"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("q9", "unknown format 'q9'"),
        ("k=q8_0", "expected a format of all of V, by v= or rest="),
        ("recent64=f16", "expected a format of all of K"),
        ("k=q8_0:v=q4_0:rest=f16", "not all three"),
        ("k=q8_0:k=q4_0:v=f16", "expected k= once"),
        ("rest=f16:old=q4_0", "with = and a format, not 'old=q4_0'"),
        ("rest=f16:", "not ''"),
        ("recent0=f16:rest=q4_0", "not 'recent0=f16'"),
        ("recent0%=f16:rest=q4_0", "more than 0 %"),
        ("recent100%=f16:rest=q4_0", "not 'recent100%=f16'"),
        ("recent5=f16:recent5%=q8_0:rest=q4_0", "not both"),
        ("first2=f16:first3=f16:rest=q4_0", "one number of first tokens, not 2"),
        ("recent5=f16:rest=kivi2", "keeps recent tokens by itself"),
        ("kivi2-g32-r48", "a residual that is a multiple of the group, 32"),
        ("kivi3", "unknown format"),
    ],
)
def test_mistakes(text: str, said: str) -> None:
    with pytest.raises(UsageError) as error:
        parse(text)
    assert said in str(error.value)
