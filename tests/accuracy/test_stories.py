"""stories260K, against queries and keys recorded from it; its weights are not in the repository."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from kvbound.accuracy.decoder import exact_attention, greedy
from kvbound.accuracy.models import Trained, read_model
from tests.paths import DATA

FOLDER = os.environ.get("KVBOUND_TEST_STORIES260K", "")
BEGIN, TOKENS = 1, 150
pytestmark = pytest.mark.skipif(
    not FOLDER, reason="needs KVBOUND_TEST_STORIES260K: a folder with stories260K.bin and tok512.bin"
)


@pytest.fixture(scope="module")
def trained() -> Trained:
    return read_model(str(Path(FOLDER) / "stories260K.bin"))


@pytest.fixture(scope="module")
def tokens(trained: Trained) -> list[int]:
    return [BEGIN, *greedy(trained.decoder, [BEGIN], TOKENS - 1)]


def test_the_story_that_its_author_published(trained: Trained, tokens: list[int]) -> None:
    text = trained.tokenizer.decode(tokens)
    assert text.startswith("Once upon a time, there was a little girl named Lily. She loved to play outside")
    assert trained.tokenizer.encode(text) == tokens[1:]


def test_the_recorded_queries_and_keys(trained: Trained, tokens: list[int]) -> None:
    with np.load(DATA / "attention" / "qk_native512_seq0.npz") as file:
        queries, keys = (file[name][0, :, :TOKENS].astype(np.float32) for name in ("q", "k"))
    attend = exact_attention(trained.decoder)

    def check(layer, query, key, value):  # type: ignore[no-untyped-def]
        assert np.abs(query - queries[layer]).max() < 0.02  # they were recorded in float16
        assert np.abs(key.reshape(keys[layer].shape) - keys[layer]).max() < 0.02
        return attend(layer, query, key, value)

    trained.decoder.hidden(tokens, check)
