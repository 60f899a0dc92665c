"""stories260K, against the queries and keys recorded from it; the weights are not here (tests/data/attention)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from kvbound.accuracy.decoder import exact_attention
from kvbound.accuracy.models import Trained, read_model
from tests.paths import DATA

FOLDER = os.environ.get("KVBOUND_TEST_STORIES260K", "")
pytestmark = pytest.mark.skipif(
    not FOLDER, reason="needs KVBOUND_TEST_STORIES260K: a folder with stories260K.bin and tok512.bin"
)


@pytest.fixture
def trained() -> Trained:
    return read_model(str(Path(FOLDER) / "stories260K.bin"))


def test_the_recorded_queries_and_keys(trained: Trained) -> None:
    with np.load(DATA / "attention" / "qk_native512_seq0.npz") as file:
        tokens, queries, keys = (file[name][0] for name in ("tokens", "q", "k"))
    made, attend = trained.decoder, exact_attention(trained.decoder)

    def check(layer, query, key, value):  # type: ignore[no-untyped-def]
        for found, recorded in ((query, queries[layer]), (key.reshape(keys[layer].shape), keys[layer])):
            assert np.abs(found - recorded).max() < 0.02  # they were recorded in float16
        return attend(layer, query, key, value)

    made.hidden(tokens.tolist(), check)


def test_the_recorded_text_is_the_likeliest(trained: Trained) -> None:
    with np.load(DATA / "attention" / "qk_native512_seq0.npz") as file:
        tokens = file["tokens"][0].tolist()
    made, tokenizer = trained.decoder, trained.tokenizer
    logits = made.logits(made.hidden(tokens, exact_attention(made)))
    assert (logits.argmax(axis=-1)[:-1] == tokens[1:])[: tokens[1:].index(1)].mean() > 0.99
    text = tokenizer.decode(tokens[: tokens[1:].index(1) + 1])
    assert text.startswith("Once upon a time, there was a little girl named Lily.")
    assert tokenizer.encode(text) == tokens[1 : tokens[1:].index(1) + 1]
