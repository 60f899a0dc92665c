"""The sequences of a batch: their steps, decoded tokens and seconds."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvbound.trace.batch import timeline_of
from kvbound.trace.sequences import SequenceTime, sequence_times
from kvbound.trace.timeline import Timeline

SECONDS = np.array([1.0, 2.0, 4.0, 8.0])


def listed(prefill: int, **fields: Any) -> tuple[SequenceTime, ...]:
    """The sequences of a run of four steps, which take 1, 2, 4 and 8 s."""
    return sequence_times(Timeline.of(prefill, 4, **fields), SECONDS)


def test_sequences_that_arrive_and_end() -> None:
    # the first has a prompt of two tokens and is decoded in steps 0 to 2; the prompt of the second, three
    # tokens, is born in step 1, and it is decoded in steps 2 and 3
    found = listed(2, births=[1, 4, 2, 1], outputs=[1, 1, 2, 1], sequence=[7, 7, 7, 7, 3, 3, 3, 7, 3, 3])
    assert found == (SequenceTime(0, 3, 0, 2, 7.0), SequenceTime(1, 2, 2, 3, 12.0))
    assert found[0].to_json() == {
        "label": 0, "outputs": 3, "first_step": 0, "last_step": 2,
        "time_s": 7.0, "tpot_s": 7 / 3, "tokens_per_s": 3 / 7,
    }  # fmt: skip
    assert (found[1].tpot_s, found[1].tokens_per_s) == (6.0, 1 / 6)


def test_a_sequence_that_waits_between_its_tokens() -> None:
    found = listed(2, births=[0, 1, 0, 2], sequence=[0, 1, 1, 0, 1])
    assert found == (SequenceTime(0, 1, 0, 3, 15.0), SequenceTime(1, 2, 0, 3, 15.0))


def test_a_sequence_without_a_prompt_is_decoded_from_its_first_token_on() -> None:
    """All births are outputs, among them those of the sequence that begins in step 1."""
    found = listed(1, births=[1, 2, 2, 2], sequence=[0, 0, 0, 1, 0, 1, 0, 1])
    assert found == (SequenceTime(0, 4, 0, 3, 15.0), SequenceTime(1, 3, 1, 3, 14.0))
    found = listed(1, births=[2, 1, 0, 0], sequence=[0, 1, 0, 1])
    assert found == (SequenceTime(0, 1, 0, 0, 1.0), SequenceTime(1, 2, 0, 1, 3.0))


def test_a_sequence_of_which_nothing_is_decoded_is_left_out() -> None:
    assert [each.label for each in listed(3, sequence=[0, 1, 2, 0, 0, 2, 2])] == [0, 2]


def test_one_sequence_is_not_listed() -> None:
    assert listed(2) == ()
    assert listed(2, sequence=[5] * 6) == ()


@pytest.mark.parametrize("outputs", [0, 2])
def test_nothing_is_listed_where_it_is_not_clear_which_births_are_outputs(outputs: int) -> None:
    """Three tokens of one sequence are born in step 0, and the first of another."""
    sequence = [0, 0, 0, 0, 1, 0, 0, 0]
    for known in (3, 4):
        assert listed(1, births=[4, 1, 1, 1], outputs=[known, 1, 1, 1], sequence=sequence)
    assert listed(1, births=[4, 1, 1, 1], outputs=[outputs, 1, 1, 1], sequence=sequence) == ()


def test_no_rate_without_time() -> None:
    (first, _) = sequence_times(Timeline.of(2, 2, sequence=[0, 1, 0, 1]), np.zeros(2))
    assert (first.tpot_s, first.tokens_per_s) == (0.0, None)


def test_too_many_sequences_are_not_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {"births": 2, "sequence": [0, 1] * 5}
    for most, listed_ones in ((2, 2), (1, 0)):
        monkeypatch.setattr("kvbound.trace.sequences._MOST", most)
        assert len(listed(2, **fields)) == listed_ones


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(0, 4)), min_size=2, max_size=6))
@settings(max_examples=80, deadline=None)
def test_every_sequence_of_a_batch_has_its_own_steps(sequences: list[tuple[int, int, int]]) -> None:
    sequences.sort(key=lambda each: each[2])  # their labels follow the order in which they arrive
    earliest = sequences[0][2]
    starts = [start - earliest for _, _, start in sequences]
    timeline, _ = timeline_of([(prompt, steps) for prompt, steps, _ in sequences], starts)
    seconds = np.exp2(np.arange(timeline.steps, dtype=np.float64))
    found = sequence_times(timeline, seconds)
    assert found == tuple(
        SequenceTime(label, steps, start, start + steps - 1, 2.0 ** (start + steps) - 2.0**start)
        for label, ((_, steps, _), start) in enumerate(zip(sequences, starts, strict=True))
    )
    assert sum(each.outputs for each in found) == timeline.outputs.sum()
