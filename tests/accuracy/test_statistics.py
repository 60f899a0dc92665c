import numpy as np
import pytest

from kvbound.accuracy.statistics import Bootstrap


def draws(count: int, seed: int = 0) -> Bootstrap:
    return Bootstrap.of(count, np.random.default_rng(seed))


def test_perplexity_is_the_exponential_of_the_mean() -> None:
    losses = np.random.default_rng(1).exponential(2, 1000)
    found = draws(1000).perplexity(losses)
    assert found.value == pytest.approx(np.exp(losses.mean()))
    assert found.low < found.value < found.high


def test_intervals_have_the_width_of_the_mean_s_spread() -> None:
    losses = np.random.default_rng(2).normal(3, 1, 6400)
    found = draws(6400).perplexity(losses)
    half = np.log(found.high / found.low) / 2
    assert half == pytest.approx(1.96 / np.sqrt(6400), rel=0.25)


def test_neighbours_are_drawn_together() -> None:
    losses = np.repeat(np.random.default_rng(2).normal(3, 1, 100), 64)
    found = draws(6400).perplexity(losses)
    assert np.log(found.high / found.low) / 2 == pytest.approx(1.96 / 10, rel=0.3)


def test_intervals_cover() -> None:
    covered = 0
    for seed in range(200):
        losses = np.random.default_rng(seed).normal(0, 1, 2000)
        found = draws(2000, seed).perplexity(losses)
        covered += found.low <= 1 <= found.high
    assert 175 <= covered <= 199


def test_pairs_cancel_what_texts_have_in_common() -> None:
    reference = np.random.default_rng(4).exponential(3, 2000)
    found = draws(2000).change(reference + 0.01, reference)
    assert found.value == pytest.approx(np.expm1(0.01))
    assert found.high - found.low < 1e-12


@pytest.mark.parametrize("count", [1, 2, 7, 9, 65, 1000])
def test_any_number_of_predictions(count: int) -> None:
    found = draws(count).perplexity(np.full(count, 2.0))
    assert (found.low, found.value, found.high) == pytest.approx((np.exp(2), np.exp(2), np.exp(2)))


def test_the_same_seed_gives_the_same_interval() -> None:
    losses = np.random.default_rng(5).exponential(2, 500)
    assert draws(500, 3).perplexity(losses) == draws(500, 3).perplexity(losses)
    assert draws(500, 3).perplexity(losses) != draws(500, 4).perplexity(losses)
