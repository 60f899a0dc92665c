from itertools import pairwise

import numpy as np
import pytest

from kvbound.accuracy.cache import parse
from kvbound.accuracy.decoder import exact_attention
from kvbound.accuracy.formats import codec, round_trip
from kvbound.accuracy.measure import compare, segments
from kvbound.errors import UsageError
from tests.accuracy import plain, tiny


def test_segments() -> None:
    assert segments([5, 6, 7, 8, 9], 3) == [[5, 6, 7], [8, 9]]
    assert segments([5, 6, 7, 8, 9], 4) == [[5, 6, 7, 8]]  # a single token predicts nothing
    assert segments([5, 6, 7, 8], 3, begin=1) == [[1, 5, 6], [1, 7, 8]]
    for tokens, context, begin in (([5], 8, None), ([], 8, 1), ([5, 6], 1, None), ([5, 6], 1, 1)):
        with pytest.raises(UsageError, match="at least 2 tokens"):
            segments(tokens, context, begin)


def test_a_float32_cache_changes_nothing() -> None:
    made = tiny.decoder()
    found = compare(made, [tiny.tokens(40), tiny.tokens(20, 2)], [parse("f32")])
    [outcome] = found.outcomes
    assert found.reference.shape == (58,)
    assert (outcome.losses == found.reference).all()
    assert outcome.same_first.all()
    assert (outcome.shared == 1).all()
    assert not outcome.divergences.any()
    assert not outcome.errors.any()
    assert not outcome.drifts.any()


def test_losses_are_those_of_plain_loops() -> None:
    made, tokens = tiny.decoder(), tiny.tokens(30)
    found = compare(made, [tokens], [parse("k=q8_0:v=q4_0")])

    def losses(hidden: np.ndarray) -> list[float]:
        logits = hidden @ made.head.T.astype(np.float64)
        chances = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
        return [-float(np.log(chances[n, token])) for n, token in enumerate(tokens[1:])]

    assert found.reference == pytest.approx(losses(plain.decode(made, tokens)), abs=1e-3)

    def kept(name: str) -> plain.Read:
        def read(rows: list[plain.Doubles]) -> list[plain.Doubles]:
            return [*round_trip(codec(name), np.array(rows, np.float32)).astype(np.float64)]

        return read

    # a sum in another order can round a value to the next code: a few losses differ by more
    hidden = plain.decode(made, tokens, kept("q8_0"), kept("q4_0"))
    difference = np.abs(found.outcomes[0].losses - losses(hidden))
    assert np.median(difference) < 5e-3
    assert difference.mean() < 0.2 * np.abs(found.outcomes[0].losses - found.reference).mean()


def test_fewer_bits_are_worse() -> None:
    names = ["f16", "q8_0", "q5_0", "q4_0"]
    found = compare(tiny.decoder(), [tiny.tokens(90)], [parse(name) for name in names]).outcomes
    for better, worse in pairwise(found):
        assert (better.errors < worse.errors).all()
        assert better.divergences.mean() < worse.divergences.mean()
        assert better.shared.mean() >= worse.shared.mean()
    assert (found[1].errors < 0.02).all()
    assert found[0].drifts[0] == found[0].errors[0]  # nothing differs before the first layer
    assert (found[3].drifts[1:] > found[3].errors[1:]).all()


def test_error_of_attention() -> None:
    made, tokens = tiny.decoder(), tiny.tokens(50)
    [outcome] = compare(made, [tokens], [parse("q4_0")]).outcomes
    caught, attend = [], exact_attention(made)

    def keep(layer, queries, keys, values):  # type: ignore[no-untyped-def]
        right = attend(layer, queries, keys, values)
        wrong = attend(layer, queries, *(round_trip(codec("q4_0"), rows) for rows in (keys, values)))
        caught.append(np.linalg.norm(wrong - right) / np.linalg.norm(right))
        return right

    made.hidden(tokens, keep)
    assert outcome.errors == pytest.approx(caught, rel=1e-4)


def test_recent_tokens_in_float16_help() -> None:
    settings = [parse(text) for text in ("q4_0", "recent8=f16:rest=q4_0", "recent32=f16:rest=q4_0", "f16")]
    found = compare(tiny.decoder(), [tiny.tokens(90)], settings).outcomes
    errors = [outcome.errors.mean() for outcome in found]
    assert errors == sorted(errors, reverse=True)


def test_progress_is_reported() -> None:
    calls: list[tuple[float, float, str]] = []
    settings = [parse("f16"), parse("q8_0")]
    compare(tiny.decoder(), [tiny.tokens(5), tiny.tokens(5)], settings, lambda *each: calls.append(each))
    assert [call[2] for call in calls] == ["float32", "f16", "q8_0"] * 2
    assert all(done <= total == 6 for done, total, _ in calls)
