import dataclasses
import hashlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvbound.errors import InputError
from kvbound.trace import Order, Trace
from tests.strategies import tiny_batch

Lists = list[list[list[int]]]


@st.composite
def recorded(draw: st.DrawFn) -> tuple[int, Lists]:
    """Prompt length and lists of any order, own tokens included."""
    prefill, steps, layers = draw(st.integers(0, 70)), draw(st.integers(1, 6)), draw(st.integers(1, 3))
    slot = [st.lists(st.integers(0, prefill + step), unique=True, max_size=20) for step in range(steps)]
    return prefill, [[draw(slot[step]) for _ in range(layers)] for step in range(steps)]


@given(recorded())
def test_lists_round_trip(given_lists: tuple[int, Lists]) -> None:
    prefill, lists = given_lists
    trace = Trace.from_lists(prefill, lists)
    assert (trace.decode_steps, trace.layers) == (len(lists), len(lists[0]))
    assert trace.tokens == prefill + len(lists)
    for step, row in enumerate(lists):
        for layer, ids in enumerate(row):
            assert trace.listed(step, layer).tolist() == ids
            assert trace.reads(step, layer).tolist() == sorted(ids)
            assert trace.counts()[step, layer] == len(ids)
            assert trace.own_reads()[step, layer] == (prefill + step in ids)
            assert trace.past_counts()[step, layer] == len(set(ids) - {prefill + step})
    for layer in range(trace.layers):
        ascending = all(row[layer] == sorted(row[layer]) for row in lists)
        assert (trace.order[layer] is None) == ascending
        assert trace.offsets(layer).tolist() == np.cumsum([0] + [len(row[layer]) for row in lists]).tolist()
        assert trace.row_hashes()[layer] == hashlib.sha256(trace.rows[layer].tobytes()).hexdigest()


@given(recorded(), st.data())
def test_head_is_the_trace_of_the_first_steps(given_lists: tuple[int, Lists], data: st.DataObject) -> None:
    prefill, lists = given_lists
    steps = data.draw(st.integers(1, len(lists)))
    head, made = Trace.from_lists(prefill, lists).head(steps), Trace.from_lists(prefill, lists[:steps])
    assert head.row_hashes() == made.row_hashes()
    assert [head.listed(j, 0).tolist() for j in range(steps)] == [
        made.listed(j, 0).tolist() for j in range(steps)
    ]


def test_mass_stays_aligned_with_its_read() -> None:
    trace = Trace.from_lists(3, [[[2, 0]], [[1, 3]]], mass=[[[0.5, 0.25]], [[0.125, 1]]])
    masses = [trace.listed_mass(step, 0) for step in range(2)]
    assert [mass.tolist() for mass in masses if mass is not None] == [[0.5, 0.25], [0.125, 1]]
    head = trace.head(1).mass[0]
    assert head is not None
    assert head.tolist() == [0.5, 0.25]
    assert Trace.from_lists(3, [[[2]]]).listed_mass(0, 0) is None


def test_arrays_and_empty_lists_are_accepted() -> None:
    trace = Trace.from_lists(2, [[np.array([1], np.int32), []]])
    assert trace.counts().tolist() == [[1, 0]]


@pytest.mark.parametrize(
    ("prefill", "reads", "field"),
    [
        (3, [[[4]]], "reads[0][0]"),  # the future
        (3, [[[0]], [[5]]], "reads[1][0]"),
        (3, [[[-1]]], "reads[0][0]"),
        (3, [[[0, 1, 0]]], "reads[0][0]"),  # twice
        (3, [[[0.0]]], "reads[0][0]"),
        (3, [[[True]]], "reads[0][0]"),
        (3, [[["0"]]], "reads[0][0]"),
        (3, [[[None]]], "reads[0][0]"),
        (3, [[[[0]]]], "reads[0][0]"),
        (3, [[[2**70]]], "reads[0][0]"),
        (3, [["01"]], "reads[0][0]"),
        (3, [[0]], "reads[0][0]"),
        (3, [[np.array([0.5])]], "reads[0][0]"),
        (3, [[np.zeros((1, 1), int)]], "reads[0][0]"),
        (3, [], "reads"),
        (3, 7, "reads"),
        (3, [[]], "reads[0]"),
        (3, ["ab"], "reads[0]"),
        (3, [[[0]], [[0], [1]]], "reads[1]"),
        (3, [[[0]], []], "reads[1]"),
        (-1, [[[0]]], "prefill_tokens"),
        (2**40, [[[0]]], "prefill_tokens"),
        (3.0, [[[0]]], "prefill_tokens"),
        (True, [[[0]]], "prefill_tokens"),
        (None, [[[0]]], "prefill_tokens"),
    ],
)
def test_wrong_lists_are_named(prefill: Any, reads: Any, field: str) -> None:
    with pytest.raises(InputError) as error:
        Trace.from_lists(prefill, reads, file="some.json")
    assert (error.value.file, error.value.field) == ("some.json", field)


@pytest.mark.parametrize(
    "mass", [[[[-0.5]]], [[[float("nan")]]], [[[1e9]]], [[[0.5, 0.5]]], [[["x"]]], [[]], [], 7]
)
def test_wrong_mass_is_refused(mass: Any) -> None:
    with pytest.raises(InputError, match=r"mass\[0\]\[0\]"):
        Trace.from_lists(3, [[[1]]], mass=mass)


def test_arrays_of_other_shapes_or_types_are_refused() -> None:
    rows = np.zeros((2, 8), np.uint8)
    ids, offsets = np.zeros(0, np.int32), np.zeros(3, np.int64)
    Trace(3, (rows,), (Order(ids, offsets),), (np.zeros(0, np.float16),))
    wrong: list[dict[str, Any]] = [
        {"rows": ()},
        {"rows": (rows[:0],)},
        {"rows": (rows.astype(np.int8),)},
        {"rows": (np.zeros((2, 16), np.uint8),)},
        {"rows": (rows, rows[:1])},
        {"rows": (np.zeros((8, 2), np.uint8).T,)},
        {"prefill_tokens": -1},
        {"prefill_tokens": 2**30},
        {"order": (None, None)},
        {"order": (Order(ids.astype(np.int64), offsets),)},
        {"order": (Order(ids, offsets[:2]),)},
        {"mass": (np.zeros(0, np.float32),)},
    ]
    for change in wrong:
        with pytest.raises(InputError):
            dataclasses.replace(Trace(3, (rows,)), **({"order": (), "mass": ()} | change))


@given(recorded())
def test_a_mask_gives_the_same_trace_as_lists(given_lists: tuple[int, Lists]) -> None:
    prefill, lists = given_lists
    mask = np.zeros((len(lists), len(lists[0]), prefill + len(lists)), bool)
    for step, row in enumerate(lists):
        for layer, ids in enumerate(row):
            mask[step, layer, ids] = True
    trace = Trace.from_mask(mask, np.int64(prefill), source="a mask")  # type: ignore[arg-type]
    ascending = Trace.from_lists(prefill, [[sorted(ids) for ids in row] for row in lists])
    assert trace.row_hashes() == ascending.row_hashes()
    assert trace.source == "a mask"


@pytest.mark.parametrize(
    ("mask", "prefill", "message"),
    [
        (np.zeros((2, 1, 5)), 3, r"booleans of shape \(steps, layers, tokens\), not float64"),
        (np.zeros((2, 5), bool), 3, r"not bool of shape \(2, 5\)"),
        (np.zeros((2, 1, 4), bool), 3, "prefill_tokens . steps = 5 tokens, not 4"),
        (np.zeros((0, 1, 3), bool), 3, "at least one step"),
        (np.zeros((2, 0, 5), bool), 3, "at least one step and layer"),
        (
            np.ones((2, 1, 5), bool),
            3,
            r"mask\[0\]\[0\]: expected no read beyond token 3, the last that exists",
        ),
        (np.zeros((2, 1, 5), bool), 3.0, "prefill_tokens: expected an integer"),
        (None, 3, "booleans"),
    ],
)
def test_invalid_masks_are_refused(mask: Any, prefill: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Trace.from_mask(mask, prefill)


def test_births_and_ends_decide_what_may_be_read() -> None:
    # two tokens are born in step 0, none in step 1; token 0 ends in step 0
    fields: dict[str, Any] = {"births": [2, 0], "ends": [0, None, None]}
    trace = Trace.from_lists(1, [[[0, 1, 2]], [[2, 1]]], **fields)
    assert trace.tokens == 3
    assert trace.own_reads().ravel().tolist() == [2, 0]
    assert trace.past_counts().ravel().tolist() == [1, 2]
    assert trace.past_reads(0).tolist() == [[True, False, False], [False, True, True]]
    assert "1 + 2 tokens" in repr(trace)
    for reads, message in (
        ([[[0, 1, 2]], [[0]]], r"reads\[1\]\[0\]: expected no read of token 0 after step 0, its last"),
        ([[[3]], [[1]]], r"reads\[0\]\[0\]: expected token ids from 0 to 2, not 3"),
    ):
        with pytest.raises(InputError, match=message):
            Trace.from_lists(1, reads, **fields)
    mask = np.zeros((2, 1, 3), bool)
    mask[0, 0, :2] = True
    assert Trace.from_mask(mask, 1, **fields).past_counts().sum() == 1
    mask[1, 0, 0] = True
    with pytest.raises(
        InputError, match=r"mask\[1\]\[0\]: expected no read of token 0 after step 0, its last"
    ):
        Trace.from_mask(mask, 1, **fields)
    with pytest.raises(InputError, match="prefill_tokens \\+ births = 3 tokens, not 4"):
        Trace.from_mask(np.zeros((2, 1, 4), bool), 1, **fields)


@given(st.integers(0, 2**32 - 1), st.data())
def test_the_head_of_a_batch_reads_what_the_batch_does(seed: int, data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    whole = tiny_batch(rng, 2, int(rng.integers(1, 20)), int(rng.integers(1, 6)))
    first = int(np.argmax(whole.timeline.past[1:] > 0)) + 1  # the first step with a token
    steps = data.draw(st.integers(first, whole.decode_steps))
    head = whole.head(steps)
    assert head.past_counts().tolist() == whole.past_counts()[:steps].tolist()
    for step in range(steps):
        assert head.reads(step, 1).tolist() == whole.reads(step, 1).tolist()


def test_a_run_without_any_token_is_refused() -> None:
    with pytest.raises(InputError, match="births: expected at least one token in all"):
        Trace.from_lists(0, [[[]], [[]]], births=0)
