"""Sequences decoded together."""

from collections.abc import Sequence

import numpy as np
import pytest

from kvbound.errors import UsageError
from kvbound.trace import Trace
from kvbound.trace.batch import batch
from tests.strategies import tiny_trace


def sequence(seed: int, prefill: int, steps: int, *, mass: bool = False, ordered: bool = False) -> Trace:
    """Random reads, in lists whose order is not ascending if asked for."""
    rng = np.random.default_rng(seed)
    ascending = tiny_trace(rng, 2, prefill, steps)
    lists = [[ascending.reads(j, n).tolist() for n in range(2)] for j in range(steps)]
    if ordered:
        lists = [[list(reversed(ids)) for ids in row] for row in lists]
    weights = [[[1 / (1 + i) for i in ids] for ids in row] for row in lists] if mass else None
    return Trace.from_lists(prefill, lists, mass=weights, source=f"s{seed}", licence="CC0")


def test_a_batch_of_one_is_the_trace_itself() -> None:
    one = sequence(0, 3, 4)
    assert batch([one]) is one


def test_two_sequences_by_hand() -> None:
    first = Trace.from_lists(2, [[[0]], [[1, 2]]])
    later = Trace.from_lists(3, [[[2, 3]], [[0, 3]], [[4, 1]]])
    both = batch([first, later], [0, 1])
    assert both.prefill_tokens == 2
    # born in step 0: the first's token 2 and the other's prompt; in step 1: one token of each
    assert both.timeline.births.tolist() == [4, 2, 1, 1]
    assert both.timeline.outputs.tolist() == [1, 2, 1, 1]
    assert both.timeline.sequence.tolist() == [0, 0, 0, 1, 1, 1, 0, 1, 1, 1]
    # the first ends in step 1, its last; the other stays, as its last step is that of the run
    assert both.timeline.ends.tolist() == [1, 1, 1, 4, 4, 4, 1, 4, 4, 4]
    assert [both.listed(step, 0).tolist() for step in range(4)] == [[0], [1, 2, 5, 7], [3, 7], [8, 4]]
    assert both.past_counts().ravel().tolist() == [1, 3, 2, 2]  # token 7 is read in the step of its birth


@pytest.mark.parametrize("seed", range(20))
def test_every_sequence_reads_what_it_did_alone(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, 5))
    kinds = {"mass": bool(rng.random() < 0.5), "ordered": bool(rng.random() < 0.5)}
    alone = [
        sequence(100 * seed + n, int(rng.integers(0, 80)), int(rng.integers(1, 9)), **kinds)
        for n in range(count)
    ]
    starts = [0, *rng.integers(0, 10, count - 1).tolist()]
    whole = batch(alone, starts)
    timeline = whole.timeline
    assert timeline.outputs.sum() == sum(trace.decode_steps for trace in alone)
    numbers = list(dict.fromkeys(timeline.sequence.tolist()))
    assert numbers == list(range(len(numbers)))
    owners = _owners(alone, starts)
    for step in range(whole.decode_steps):
        for layer in range(2):
            expected: list[int] = []
            weights: list[float] = []
            for number, (start, trace) in enumerate(zip(starts, alone, strict=True)):
                if start <= step < start + trace.decode_steps:
                    ids = np.array(
                        [owners.index((number, i)) for i in trace.listed(step - start, layer).tolist()]
                    )
                    expected += ids.tolist()
                    mass = trace.listed_mass(step - start, layer)
                    weights += [] if mass is None else mass.tolist()
            if kinds["mass"] or kinds["ordered"]:
                assert whole.listed(step, layer).tolist() == expected
            assert whole.reads(step, layer).tolist() == sorted(expected)
            found = whole.listed_mass(step, layer)
            assert (found is not None) == kinds["mass"]
            assert found is None or found.tolist() == weights
    assert whole.past_counts().sum() == sum(trace.past_counts().sum() for trace in alone)


def _owners(alone: Sequence[Trace], starts: Sequence[int]) -> list[tuple[int, int]]:
    """Sequence and own id of each token of the batch, by its birth, sequence after sequence."""
    tokens = []
    for number, (start, trace) in enumerate(zip(starts, alone, strict=True)):
        for token in range(trace.tokens):
            born = start - 1 if token < trace.prefill_tokens else start + token - trace.prefill_tokens
            tokens.append((born, number, token))
    return [(number, token) for _, number, token in sorted(tokens)]


def test_what_does_not_fit_together_is_refused() -> None:
    one, other = sequence(1, 2, 3), Trace.from_lists(2, [[[0]]])
    for traces, starts, message in (
        ([], None, "at least one"),
        ([one, other], None, "trace 2 has 1 layers, the first 2"),
        ([one, one], [0], "one start for each of 2 traces, not 1"),
        ([one, one], [1, 2], "the earliest 0, not 1, 2"),
        ([one, one], [0, -1], "the earliest 0"),
        ([one, batch([one, one])], None, "trace 2 is a batch itself"),
    ):
        with pytest.raises(UsageError, match=message):
            batch(traces, starts)
