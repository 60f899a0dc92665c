"""Counts of bits against Python's own integers."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kvbound.bitsets import popcount as module
from kvbound.bitsets.lanes import count_bits
from kvbound.bitsets.popcount import popcount, popcount_range
from tests.plain import without_numba

WORDS = st.integers(0, 2**64 - 1)


@given(WORDS)
def test_popcount(word: int) -> None:
    assert popcount(np.uint64(word)) == word.bit_count()


@given(st.lists(WORDS, min_size=1, max_size=4), st.data())
def test_popcount_of_a_range_that_may_cross_words(words: list[int], data: st.DataObject) -> None:
    bits = 64 * len(words)
    begin = data.draw(st.integers(0, bits - 1))
    size = data.draw(st.integers(0, bits - begin))
    row = sum(word << 64 * n for n, word in enumerate(words))
    expected = (row >> begin & (1 << size) - 1).bit_count()
    assert popcount_range(np.array(words, np.uint64), begin, size) == expected


def test_popcount_without_numba() -> None:
    words = np.random.default_rng(0).integers(0, 2**64, 20, np.uint64)
    with np.errstate(over="ignore"):  # the product overflows on purpose
        counts = [without_numba(module).popcount(word) for word in words]
    assert counts == np.bitwise_count(words).tolist()


@given(st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_count_bits_along_short_and_long_axes(length: int, seed: int) -> None:
    words = np.random.default_rng(seed).integers(0, 2**64, (3, 2, length), np.uint64)
    assert np.array_equal(count_bits(words), np.bitwise_count(words).sum(axis=-1, dtype=np.int64))
