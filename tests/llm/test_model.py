"""Language models: per-layer weights, shares of the KV, refusals that name the field."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvbound.errors import InputError
from kvbound.llm.model import Llm

LLAMA: dict[str, Any] = {
    "name": "llama-3.1-8b-mha",
    "layers": 32,
    "kv_bytes_per_token_layer": 16384,
    "weight_bytes": 16_000_000_000,
    "weight_read_bytes_per_layer": 162_889_728,
}


def test_one_number_for_all_layers() -> None:
    llm = Llm.from_mapping(LLAMA)
    assert llm.weight_reads.tolist() == [162_889_728.0] * 32
    assert llm.kv_bytes(41_538) == 32 * 41_538 * 16_384


def test_units() -> None:
    llm = Llm.from_mapping(LLAMA | {"weight_bytes": "16GB", "kv_bytes_per_token_layer": "16KiB"})
    assert llm == Llm.from_mapping(LLAMA)


sizes = st.integers(0, 10**15).map(float) | st.floats(0, 1e15)


@st.composite
def llms(draw: st.DrawFn) -> Llm:
    layers = draw(st.integers(1, 6))
    reads = draw(sizes | st.lists(sizes, min_size=layers, max_size=layers).map(tuple))
    return Llm("x", layers, draw(st.integers(1, 10**6)), draw(sizes), reads)


@given(llms())
def test_round_trip(llm: Llm) -> None:
    again = Llm.from_mapping(llm.to_mapping())
    assert again.to_mapping() == llm.to_mapping()
    assert again.weight_reads.tolist() == llm.weight_reads.tolist()
    assert again.weight_reads.shape == (llm.layers,)


@given(llms(), st.integers(0, 100), st.integers(1, 50))
def test_a_share_of_entries_is_whole_entries(llm: Llm, percent: int, hundreds: int) -> None:
    tokens = 100 * hundreds
    exact = percent * hundreds * sum(llm.kv_sizes)
    assert llm.room_for_share(percent / 100, llm.kv_bytes(tokens)) == llm.weight_bytes + exact


def test_parameters_are_kept_where_a_token_uses_them_all() -> None:
    llm = Llm.from_mapping(LLAMA | {"parameters": 8_030_261_248.0})
    assert llm.parameters == 8_030_261_248
    assert Llm.from_mapping(llm.to_mapping()).parameters == llm.parameters
    assert llm == Llm.from_mapping(LLAMA)
    assert "parameters" not in Llm.from_mapping(LLAMA).to_mapping()
    mixture = Llm.from_mapping(LLAMA | {"parameters": 9, "experts": 8, "expert_bytes": 1})
    assert "parameters" not in mixture.to_mapping()


def test_description_does_not_matter() -> None:
    described = LLAMA | {
        "source": "config.json",
        "sources": {"layers": "config.json"},
        "windows": [None, 4096] * 16,
        "config": {"hidden_size": 4096},
    }
    llm = Llm.from_mapping(described)
    assert llm == Llm.from_mapping(LLAMA)
    assert (llm.windows[1], llm.config["hidden_size"]) == (4096, 4096)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", None),
        ("layers", 0),
        ("layers", 2.5),
        ("layers", True),
        ("layers", "32"),
        ("layers", 10**9),
        ("kv_bytes_per_token_layer", 0),
        ("kv_bytes_per_token_layer", -16),
        ("kv_bytes_per_token_layer", 0.5),
        ("kv_bytes_per_token_layer", math.nan),
        ("kv_bytes_per_token_layer", 1e15),
        ("parameters", -1),
        ("parameters", 1.5),
        ("parameters", None),
        ("weight_bytes", -1),
        ("weight_bytes", math.inf),
        ("weight_bytes", 1e30),
        ("weight_bytes", "16 billion"),
        ("weight_read_bytes_per_layer", -1),
        ("weight_read_bytes_per_layer", None),
        ("weight_read_bytes_per_layer", [1, 2]),
        ("weight_read_bytes_per_layer", [-1] * 32),
        ("weight_read_bytes_per_layer", [math.nan] * 32),
        ("windows", [0] * 32),
        ("windows", [4096]),
        ("windows", ["all"] * 32),
        ("sources", {"layers": None}),
        ("config", 3),
        ("heads", 32),
    ],
)
def test_malformed(field: str, value: object) -> None:
    with pytest.raises(InputError) as caught:
        Llm.from_mapping(LLAMA | {field: value}, "x.json", "llm")
    assert caught.value.field.startswith(f"llm.{field}")
    assert str(caught.value).startswith("x.json: llm.")


@pytest.mark.parametrize("field", LLAMA)
def test_missing(field: str) -> None:
    with pytest.raises(InputError, match=rf"^x\.json: llm\.{field}: expected .*missing"):
        Llm.from_mapping({key: value for key, value in LLAMA.items() if key != field}, "x.json", "llm")


def test_values_are_validated_on_construction() -> None:
    with pytest.raises(InputError, match="llm 'x': weight_bytes"):
        Llm("x", 1, 1, math.nan, 0)


@pytest.mark.parametrize(
    ("weights", "whole"),
    [(0.3, 1), (2**54 + 1, 2**54 + 1), (np.float32(2.5), 3), (np.int64(5), 5), (16e9, 16 * 10**9)],
)
def test_weights_are_whole_bytes(weights: float, whole: int) -> None:
    llm = Llm("x", 1, 1, weights, 0.5)
    assert llm.weight_bytes == whole
    assert type(llm.weight_bytes) is int


@pytest.mark.parametrize("weights", [2**60 + 1, 10**400, math.inf, True])
def test_impossible_weights(weights: float) -> None:
    with pytest.raises(InputError, match="weight_bytes: expected"):
        Llm("x", 1, 1, weights, 0)


@given(st.integers(0, 1000), st.integers(1, 2**20), st.integers(1, 2**30))
def test_shares_are_exact(thousandths: int, tokens: int, kv: int) -> None:
    llm = Llm("x", 3, kv, 2**54 + 1, 0)
    exact = round(Fraction(thousandths, 1000) * 3 * tokens * kv)
    for share in (thousandths / 1000, Fraction(thousandths, 1000)):
        assert llm.room_for_share(share, llm.kv_bytes(tokens)) == 2**54 + 1 + exact
