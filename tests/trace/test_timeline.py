"""Births and ends of tokens."""

from typing import Any

import numpy as np
import pytest

from kvbound.errors import InputError
from kvbound.trace.timeline import PROMPT, Timeline
from tests.strategies import tiny_timeline


def test_by_default_one_token_is_born_in_every_step_and_all_stay() -> None:
    plain = Timeline.of(3, 4)
    assert plain.to_mapping() == {}
    assert plain.past.tolist() == [3, 4, 5, 6, 7]
    assert plain.born.tolist() == [PROMPT, PROMPT, PROMPT, 0, 1, 2, 3]
    assert plain.live.tolist() == plain.past.tolist()
    assert plain.one_each
    assert plain.all_stay
    assert Timeline.of(3, 4, births=1).to_mapping() == {}
    assert Timeline.of(3, 4, births=[1] * 4, ends=[None] * 7, outputs=1).to_mapping() == {}


def test_births_and_ends_by_hand() -> None:
    ends = [0, 3, None, 1, 1, None]
    found = Timeline.of(
        2, 4, births=[1, 2, 0, 1], ends=ends, sequence=[7, 7, 5, 7, 5, 5], outputs=[1, 0, 0, 1]
    )
    assert found.past.tolist() == [2, 3, 5, 5, 6]
    assert found.born.tolist() == [PROMPT, PROMPT, 0, 1, 1, 3]
    assert found.ends.tolist() == [0, 3, 4, 1, 1, 4]
    assert found.sequence.tolist() == [0, 0, 1, 0, 1, 1]
    assert found.position.tolist() == [0, 1, 0, 2, 1, 2]
    # tokens 3 and 4 are born in step 1 and end in it
    assert found.live.tolist() == [2, 2, 2, 2, 2]
    assert [found.ending(step).tolist() for step in range(4)] == [[0], [3, 4], [], [1]]
    assert found.to_mapping() == {
        "births": [1, 2, 0, 1], "ends": ends, "sequence": [0, 0, 1, 0, 1, 1], "outputs": [1, 0, 0, 1],
    }  # fmt: skip
    assert "sequence" not in found.to_mapping(sequence=False)


@pytest.mark.parametrize("seed", range(40))
def test_counts_are_those_of_the_tokens_one_by_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    steps = int(rng.integers(1, 7))
    timeline = tiny_timeline(rng, int(rng.integers(1, 12)), steps)
    for step in range(steps + 1):
        exists = (timeline.born < step) & (timeline.ends >= step)
        assert timeline.live[step] == exists.sum()
        assert timeline.past[step] == (timeline.born < step).sum()
    again = Timeline.of(timeline.prefill_tokens, steps, **timeline.to_mapping())
    for name in ("births", "ends", "sequence", "outputs"):
        assert np.array_equal(getattr(again, name), getattr(timeline, name))


@pytest.mark.parametrize("seed", range(60))
def test_a_token_leaves_a_window_when_the_last_one_that_sees_it_is_born(seed: int) -> None:
    rng = np.random.default_rng(seed)
    timeline = tiny_timeline(rng, int(rng.integers(1, 14)), int(rng.integers(1, 6)))
    window = int(rng.integers(1, timeline.tokens + 2))
    expected = timeline.ends.tolist()
    for token, sequence in enumerate(timeline.sequence.tolist()):
        own = np.flatnonzero(timeline.sequence == sequence).tolist()
        later = own.index(token) + window - 1
        if later < len(own):
            expected[token] = min(expected[token], int(timeline.born[own[later]]))
    found = timeline.windowed(window)
    assert found.ends.tolist() == expected
    assert (found is timeline) == (expected == timeline.ends.tolist())
    for name in ("prefill_tokens", "births", "sequence", "outputs"):
        assert np.array_equal(getattr(found, name), getattr(timeline, name))
    alike = timeline.by_layer((window, None, window))
    assert alike[0] is alike[2]
    assert alike[1] is timeline


@pytest.mark.parametrize("seed", range(20))
def test_the_head_of_a_timeline_is_what_happens_up_to_there(seed: int) -> None:
    rng = np.random.default_rng(seed)
    whole = tiny_timeline(rng, int(rng.integers(1, 12)), 6)
    for steps in range(1, 7):
        head = whole.head(steps)
        assert head.past.tolist() == whole.past[: steps + 1].tolist()
        assert head.live[:steps].tolist() == whole.live[:steps].tolist()
    assert whole.head(6).to_mapping() == whole.to_mapping()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"births": [1]},
            r"births: expected a number of tokens .*, or a list of 2, .*not a list of 1: \[1\]",
        ),
        ({"births": [1, -1]}, "births"),
        ({"births": [1, 1.0]}, "births"),
        ({"births": True}, "births"),
        ({"births": "11"}, "births"),
        ({"births": [1, 2**40]}, "births"),
        ({"births": [2**27, 1]}, "at most 134,217,728 tokens in all"),
        (
            {"outputs": [1, 2]},
            "outputs: expected at most as many decoded tokens as births in every step: in step 1 1, not 2",
        ),
        (
            {"ends": [0, 0, 0]},
            r"ends: expected a list of 4 steps, one per token, .*not a list of 3: \[0, 0, 0\]",
        ),
        ({"ends": [0, 0, 0, 0]}, "ends"),  # token 3 is born in step 1
        ({"ends": [-1, 0, 0, 1]}, "ends"),
        ({"ends": [3, 0, 0, 1]}, "ends: expected for token 0 a step from its birth, 0, to 1, or null, not 3"),
        ({"ends": [2, 0, 0, 1]}, "ends: expected for token 0 .* not 2"),
        ({"ends": 5}, "ends"),
        ({"ends": ["1", 0, 0, 1]}, "ends"),
        ({"sequence": [0, 1]}, "sequence: expected a list of 4 integers, one per token, not a list of 2"),
        ({"sequence": [0, 1, 2, None]}, "sequence"),
    ],
)
def test_other_fields_are_refused_by_name(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Timeline.of(2, 2, **fields, file="x")
