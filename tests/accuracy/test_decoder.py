import dataclasses

import numpy as np
import pytest

from kvbound.accuracy.cache import attention, parse
from kvbound.accuracy.decoder import Attend, Decoder, exact_attention, greedy
from kvbound.accuracy.formats import Floats
from tests.accuracy import plain, tiny


def stored(made: Decoder, setting: str) -> Attend:
    parsed = parse(setting)

    def attend(_: int, queries: Floats, keys: Floats, values: Floats) -> Floats:
        return attention(queries, parsed.k.zones(keys), parsed.v.zones(values), made.shape.kv_heads)

    return attend


def test_the_same_as_plain_loops() -> None:
    made, tokens = tiny.decoder(), tiny.tokens(40)
    assert made.hidden(tokens, exact_attention(made)) == pytest.approx(plain.decode(made, tokens), abs=2e-4)


def test_frequency_factors() -> None:
    factors = np.linspace(1, 8, tiny.SHAPE.head_size // 2, dtype=np.float32)
    made, tokens = dataclasses.replace(tiny.decoder(), frequency_factors=factors), tiny.tokens(20)
    found = made.hidden(tokens, exact_attention(made))
    assert found == pytest.approx(plain.decode(made, tokens), abs=2e-4)
    assert not np.allclose(found, tiny.decoder().hidden(tokens, exact_attention(made)), atol=1e-2)


@pytest.mark.parametrize(
    "setting",
    [
        "f32", "q8_0", "k=q8_0:v=q4_0", "recent5=f16:rest=q4_0", "first2=f32:recent25%=q8_0:rest=q4_0",
        "kivi4-g16-r16",
    ],
)  # fmt: skip
def test_all_tokens_at_once_are_the_same_as_one_after_the_other(setting: str) -> None:
    made, tokens = tiny.decoder(), tiny.tokens(50)
    attend = stored(made, setting)
    batched = made.hidden(tokens, attend)
    for count in (1, 2, 6, 17, 33, 50):
        alone = made.hidden(tokens[:count], attend)[-1]
        # sums in another order may round a stored float16 the other way
        assert batched[count - 1] == pytest.approx(alone, abs=1e-3)


def test_more_tokens_than_are_computed_at_once() -> None:
    made, tokens = tiny.decoder(), tiny.tokens(300)
    once, attend = made.hidden(tokens, exact_attention(made)), stored(made, "recent40=f32:rest=f32")
    assert once == pytest.approx(made.hidden(tokens, attend), abs=1e-3)
    assert once[:10] == pytest.approx(made.hidden(tokens[:10], attend), abs=1e-3)


def test_the_likeliest_continuation() -> None:
    made, tokens = tiny.decoder(), tiny.tokens(5)
    found = greedy(made, tokens, 4)
    assert len(found) == 4
    states = made.hidden([*tokens, *found], exact_attention(made))
    assert made.logits(states).argmax(axis=-1)[4:8].tolist() == found
    assert greedy(made, tokens, 4, end=found[2]) == found[: found.index(found[2])]


def test_parameters() -> None:
    layer = 2 * 64 + 2 * 64 * 64 + 2 * 32 * 64 + 3 * 96 * 64
    assert tiny.decoder().parameters == 300 * 64 + 3 * layer + 64
