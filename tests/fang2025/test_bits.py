"""Packed sets against Python sets."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kvbound.fang2025 import bits

WIDTH = 3
TOKENS = 64 * WIDTH
IDS = st.lists(st.integers(0, TOKENS - 1), unique=True)


def array(ids: list[int]) -> bits.Ids:
    return np.array(ids, dtype=np.int64)


def words(ids: list[int]) -> bits.Words:
    return bits.packed(array(ids), WIDTH)


@given(ids=IDS, token=st.integers(0, TOKENS - 1))
def test_a_set(ids: list[int], token: int) -> None:
    held = words(ids)
    assert bits.members(held).tolist() == sorted(ids)
    assert bits.count(held) == len(ids)
    assert bits.has(held, token) == (token in ids)
    assert bits.lowest(held) == min(ids, default=None)
    assert bits.among(held, np.arange(TOKENS)).tolist() == [t in ids for t in range(TOKENS)]
    bits.put(held, token)
    assert bits.members(held).tolist() == sorted({*ids, token})
    bits.drop(held, token)
    assert bits.members(held).tolist() == sorted({*ids} - {token})


@given(token=st.integers(-2, TOKENS))
def test_the_ids_below(token: int) -> None:
    assert bits.members(bits.below(token, WIDTH)).tolist() == list(range(token))


@given(ids=IDS, size=st.integers(0, TOKENS + 1))
def test_the_first_ascending(ids: list[int], size: int) -> None:
    assert bits.members(bits.first(words(ids), size, None)).tolist() == sorted(ids)[:size]


@given(listed=IDS, size=st.integers(0, TOKENS + 1), data=st.data())
def test_the_first_in_list_order(listed: list[int], size: int, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.sampled_from(listed), unique=True)) if listed else []
    ordered = [token for token in listed if token in ids]
    chosen = bits.first(words(ids), size, array(listed))
    assert bits.members(chosen).tolist() == sorted(ordered[:size])
    for place, token in enumerate(ordered):
        assert bits.rank(words(ids), token, array(listed)) == place
        assert bits.rank(words(ids), token, None) == sorted(ids).index(token)
