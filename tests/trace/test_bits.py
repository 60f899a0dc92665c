import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kvbound.trace import bits

masks = st.tuples(st.integers(1, 5), st.integers(1, 150), st.integers(0, 2**32 - 1)).map(
    lambda shape: np.random.default_rng(shape[2]).random(shape[:2]) < 0.4
)


def padded(mask: np.ndarray) -> np.ndarray:
    rows = np.zeros((len(mask), 8 * bits.row_bytes(mask.shape[1])), np.bool_)
    rows[:, : mask.shape[1]] = mask
    return rows


@given(masks)
def test_packed_masks_unpack_to_themselves_and_are_padded_to_words(mask: np.ndarray) -> None:
    rows = bits.pack(padded(mask))
    assert rows.shape == (len(mask), bits.row_bytes(mask.shape[1]))
    assert rows.shape[1] % 8 == 0
    assert np.array_equal(bits.unpack(rows, mask.shape[1]), mask)
    assert np.array_equal(bits.count(rows), mask.sum(axis=1))
    assert all(
        np.array_equal(bits.ids(row), np.flatnonzero(one)) for row, one in zip(rows, mask, strict=True)
    )


@given(masks)
def test_bit_i_of_a_row_is_bit_i_of_its_words(mask: np.ndarray) -> None:
    words = bits.words(bits.pack(padded(mask)))
    for token in range(mask.shape[1]):
        assert np.array_equal(words[:, token // 64] >> np.uint64(token % 64) & np.uint64(1), mask[:, token])


@given(masks, st.data())
def test_ranges_of_bits(mask: np.ndarray, data: st.DataObject) -> None:
    rows = bits.pack(padded(mask))
    width = 8 * rows.shape[1]
    begin = np.sort(data.draw(arrays(np.int64, len(mask), elements=st.integers(0, width))))
    end = np.minimum(begin + data.draw(arrays(np.int64, len(mask), elements=st.integers(0, 70))), width)
    within = padded(mask)
    for row, low, high in zip(within, begin, end, strict=True):
        row[:low] = row[high:] = False
    assert bits.count_within(rows, begin, end).tolist() == within.sum(axis=1).tolist()
    left = bits.unpack(bits.without(rows, begin, end)).astype(bool)
    assert np.array_equal(left, padded(mask) & ~within)
    beyond = [j for j in range(len(mask)) if mask[j, begin[j] :].any()]
    assert bits.first_beyond(rows, begin) == (beyond[0] if beyond else None)


def test_future_reads_are_found_in_any_block_and_word() -> None:
    first, steps = 130, 300
    rows = np.zeros((steps, bits.row_bytes(first + steps)), np.uint8)
    end = first + np.arange(steps)
    assert bits.first_beyond(rows, end) is None
    for step in (0, 127, 128, 299):
        for token in (first + step, first + steps - 1, 8 * rows.shape[1] - 1):
            bad = rows.copy()
            bad[step, token // 8] |= 1 << token % 8
            assert bits.first_beyond(bad, end) == step
        fine = rows.copy()
        fine[step, (first + step - 1) // 8] |= 1 << (first + step - 1) % 8
        assert bits.first_beyond(fine, end) is None
