"""From which size on one tier will not do: batches, by hand and compared with larger ones that are made.

`test_binding` has the values for one sequence.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import kvbound as kv
from kvbound.binding import binding
from kvbound.blocks import Blocks
from kvbound.errors import InfeasibleError
from kvbound.instance import Instance
from kvbound.llm.model import Llm
from kvbound.onset import AS_GOOD, Onset, Sizes, candidates, first_failure, held_tokens, longest, onset
from kvbound.report import instance as report_instance
from kvbound.report.binding import sentences
from kvbound.trace import Trace
from kvbound.trace.batch import batch
from tests.cost_cases import toy
from tests.instance_documents import llm, two_tiers
from tests.strategies import tiny_instance, tiny_memory, tiny_timeline, tiny_trace

seeds = st.integers(0, 2**32 - 1)

TOGETHER: dict[str, Any] = {
    "prefill_tokens": 4,
    "reads": [[[0, 2]], [[1, 3]]],
    "births": 2,
    "sequence": [0, 0, 1, 1, 0, 1, 0, 1],
}
"""Two sequences of two tokens at first and four in the end; each reads one token in a step."""
LATER: dict[str, Any] = {
    "prefill_tokens": 3,
    "reads": [[[0]], [[1, 5]]],
    "births": [5, 2],
    "sequence": [0, 0, 0, 0, 1, 1, 1, 1, 0, 1],
    "outputs": [1, 2],
}
"""Three tokens, two steps; in the first the four tokens of another prompt are born."""


def heavy(trace: dict[str, Any], slow: float = 1, capacity: int = 10, **changes: Any) -> Instance:
    """Weights take 100 s a slot at 4 bytes/s; items of one byte; single copies."""
    memory = two_tiers(4, slow, capacity)
    return toy(memory=memory, llm=llm(reads=400), trace=trace, rules={"copies": "exclusive", **changes})


def at(instance: Instance) -> tuple[Any, ...]:
    found = onset(instance)
    assert found is not None
    return found.tier, found.batch, found.tokens, found.batch_now, found.tokens_now


def described(instance: Instance) -> str:
    found = binding(instance)
    assert found is not None
    return sentences(instance, found)


def test_a_batch_is_scaled_by_its_sequences_and_contexts() -> None:
    # x bytes of KV a slot take x s in the slow tier, and the ideal is max(100, (400 + x) / 5) s: the ratio
    # is above 1.01 from x = 101.26 on, where x = 2 reads and 2 births, times batch / 2: 50.5 -> 51;
    # with n tokens each in place of 4, x = 2 n / 4 + 2: 198.5 -> 199
    found = onset(heavy(TOGETHER))
    assert found == Onset("ddr", 1.0, 51, 199, 2, 4)
    more = "25.5 times the sequences (a batch of 51)"
    longer = "49.75 times the context (199 tokens in the longest sequence)"
    assert described(heavy(TOGETHER)).endswith(f"one may gain from {more} or {longer} on.")


def test_prompts_that_arrive_are_longer_in_longer_contexts() -> None:
    # with n tokens each in place of 5, the first slot reads n / 5 and writes 1 + 4 n / 5, together x = n + 1,
    # and the other has 2 n / 5 + 2; x + 100 > 1.01 (80 + x / 5 + 100) from x = 102.51 on
    found = onset(heavy(LATER))
    assert found is not None
    assert (found.tokens, found.tokens_now) == (102, 5)
    # half a batch times 6 bytes in the first slot: a batch of 34 has 102
    assert (found.batch, found.batch_now) == (35, 2)


def test_tokens_that_have_ended_take_no_room() -> None:
    """Four of the five tokens exist at most: three runs fit into room for twelve."""
    trace = {"prefill_tokens": 3, "reads": [[[0]], [[1]]]}
    ended = heavy({**trace, "ends": [0, None, None, None, None]}, 1e-6, 12)
    assert at(heavy(trace, 1e-6, 12)) == ("hbm", 3, 13, 1, 5)
    assert at(ended) == ("hbm", 4, 13, 1, 4)


def test_every_sequence_rounds_up_to_whole_blocks() -> None:
    """Two sequences of four tokens in blocks of two, with room for six blocks."""
    instance = heavy(TOGETHER, 1e-6, 12, granularity=2)
    # 2 + 2 blocks, and half as many again; seven tokens each take 4 + 4
    assert at(instance) == ("hbm", 4, 7, 2, 4)


@pytest.mark.parametrize("outputs", [[0, 0], [1, 0]])
def test_a_run_that_decodes_nothing_has_no_batch(outputs: list[int]) -> None:
    found = onset(heavy({"prefill_tokens": 3, "reads": [[[0]], [[1]]], "outputs": outputs}))
    assert (found is not None) == any(outputs)


def test_a_run_that_keeps_nothing_has_no_context() -> None:
    assert onset(heavy({"prefill_tokens": 0, "reads": [[[]]], "ends": [0]})) is None


def test_one_sequence_is_described_as_ever() -> None:
    trace = {"prefill_tokens": 3, "reads": [[[0]], [[1]]]}
    assert described(heavy(trace)).endswith("from a batch of 51 or 502 tokens on.")


def test_the_json_has_what_the_sentence_says() -> None:
    known = report_instance.figures(heavy(TOGETHER))["ideal"]["onset"]
    assert known == {
        "tier": "ddr", "ratio": 1.0, "batch": 51, "tokens": 199, "batch_now": 2, "tokens_now": 4
    }  # fmt: skip


@pytest.mark.parametrize(("copies", "work"), [("exclusive", 8), ("inclusive", 24)])
def test_sizes_are_searched_where_that_is_little_work(
    monkeypatch: pytest.MonkeyPatch, copies: str, work: int
) -> None:
    """Two kinds of slots and two tiers, each with a facet.

    With inclusive copies there is a third facet, for both in balance, and two ways to split reads: with and
    without the tier that has a latency.
    """
    memory = two_tiers(4, 1, 10)
    memory["tiers"][0]["latency"] = 1
    instance = toy(memory=memory, llm=llm(reads=400), trace=LATER, rules={"copies": copies})
    assert Sizes(instance).work == work
    for most in (work, work - 1):
        monkeypatch.setattr("kvbound.onset._MOST_WORK", most)
        assert (onset(instance) is not None) == (most == work)


def library(name: str, share: float) -> Instance:
    """An instance of the library with room for a share of its KV in the first tier."""
    instance = kv.read_instance(name)
    room = int(share * instance.timeline.most_live * instance.item_bytes.sum())
    first = dataclasses.replace(instance.memory.tiers[0], capacity=room)
    memory = dataclasses.replace(instance.memory, tiers=(first, *instance.memory.tiers[1:]))
    return dataclasses.replace(instance, memory=memory)


def test_recorded_sequences_that_arrive_and_end() -> None:
    """Where all KV fits three times, more than three times the KV does not fit."""
    instance = library("b16-8b-h200-c25", 3)
    found = onset(instance)
    assert found is not None
    assert (found.tier, found.batch_now, found.batch) == ("hbm", 16, 49)
    assert 3 * found.tokens_now < (found.tokens or 0) <= 3 * found.tokens_now + 3
    assert "3.063 times the sequences (a batch of 49)" in described(instance)
    assert onset(kv.read_instance("b16-8b-h200-c25")) is None


Parts = tuple[list[Trace], list[int], Instance]


def parts(rng: np.random.Generator, most: int) -> Parts:
    """Sequences of a batch, their first steps, and an instance with room for some of up to `most` batches."""
    layers, item, size = int(rng.integers(1, 3)), int(rng.integers(1, 4)), int(rng.integers(1, 4))
    lengths = [(int(rng.integers(1, 6)), int(rng.integers(1, 5))) for _ in range(rng.integers(1, 4))]
    traces = [tiny_trace(rng, layers, *length) for length in lengths]
    starts = rng.integers(0, 3, len(traces))
    starts -= starts.min()
    timeline = batch(traces, starts.tolist()).timeline
    blocks = most * layers * int(Blocks.make(timeline, size).held_counts.max())
    heavy_llm = Llm("heavy", layers, item, 0, (float(rng.choice([1, 50, 400])),) * layers)
    memory = tiny_memory(rng, 2, blocks, size * item, 0)
    rules = kv.Rules(granularity=size, copies=rng.choice(["inclusive", "exclusive"]))
    return (
        traces,
        starts.tolist(),
        kv.Instance("batch", memory, heavy_llm, rules, batch(traces, starts.tolist())),
    )


@given(seeds, st.integers(2, 4))
@settings(max_examples=150, deadline=None)
def test_a_batch_that_is_there_several_times_is_one_of_a_larger_size(seed: int, times: int) -> None:
    traces, starts, one = parts(np.random.default_rng(seed), times)
    many = dataclasses.replace(one, workload=batch(traces * times, starts * times))
    sizes, larger = Sizes(one), Sizes(many)
    assert (larger.batch, larger.tokens) == (times * sizes.batch, sizes.tokens)
    units = sizes.units(larger.batch, sizes.tokens)
    assert units == larger.units(larger.batch, larger.tokens)
    assert units == many.layers * many.grouping.held_counts.max()
    try:
        made = larger.simplest(larger.batch, larger.tokens)[1]
    except InfeasibleError:
        assert not sizes.feasible(units)
        return
    scaled = sizes.simplest(larger.batch, sizes.tokens)[1]
    assert scaled == pytest.approx(made, rel=1e-12)
    assume(abs(scaled - AS_GOOD) > 1e-9)
    found, beyond = onset(one), onset(many)
    assert (beyond is None) == (scaled > AS_GOOD)
    if found is not None and found.batch is not None and found.batch > larger.batch:
        assert beyond is not None
        assert beyond.batch == found.batch


@given(seeds, st.integers(2, 4))
@settings(max_examples=80, deadline=None)
def test_contexts_that_are_longer_by_their_prompts(seed: int, times: int) -> None:
    """Sequences that begin and end together, each with as many times the tokens in the end, and the reads."""
    rng = np.random.default_rng(seed)
    _, _, other = parts(rng, times)
    steps = int(rng.integers(1, 4))
    traces = [
        tiny_trace(rng, other.layers, int(rng.integers(1, 6)), steps) for _ in range(rng.integers(1, 4))
    ]
    long = []
    for trace in traces:
        reads = [[range(times * count) for count in row] for row in trace.past_counts().tolist()]
        long.append(Trace.from_lists(times * trace.tokens - steps, reads))
    one, longer = (dataclasses.replace(other, workload=batch(each)) for each in (traces, long))
    sizes, larger = Sizes(one), Sizes(longer)
    assert (larger.batch, larger.tokens) == (sizes.batch, times * sizes.tokens)
    assert sizes.units(sizes.batch, larger.tokens) == longer.layers * longer.grouping.held_counts.max()
    try:
        made = larger.simplest(larger.batch, larger.tokens)[1]
    except InfeasibleError:
        return
    assert sizes.simplest(sizes.batch, larger.tokens)[1] == pytest.approx(made, rel=1e-12)


@given(seeds, st.integers(1, 9), st.integers(1, 99))
@settings(max_examples=60, deadline=None)
def test_the_blocks_of_one_sequence_are_those_of_its_tokens(seed: int, size: int, tokens: int) -> None:
    instance = tiny_instance(np.random.default_rng(seed)).with_rules(granularity=size)
    for number in (1, 5):
        assert Sizes(instance).units(number, tokens) == number * instance.layers * -(-tokens // size)


@given(seeds)
@settings(max_examples=60, deadline=None)
def test_the_blocks_of_the_run_itself(seed: int) -> None:
    instance = tiny_instance(np.random.default_rng(seed), batch=True)
    sizes = Sizes(instance)
    assume(sizes.batch and sizes.tokens)
    assert sizes.units(sizes.batch, sizes.tokens) == instance.layers * instance.grouping.held_counts.max()


@given(seeds, st.integers(1, 3))
@settings(max_examples=100, deadline=None)
def test_tokens_of_sequences_by_counting(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    timeline = tiny_timeline(rng, int(rng.integers(2, 12)), int(rng.integers(1, 5)))
    blocks = Blocks.make(timeline, size)
    live = [(timeline.born < step) & (step <= timeline.ends) for step in range(timeline.steps + 1)]
    counts = [np.bincount(timeline.sequence[each], minlength=3) for each in live]
    assert longest(timeline) == np.max(counts)
    for step, count in enumerate(counts):
        held = held_tokens(blocks, step)
        assert -(-held // size).sum() == blocks.held_counts[step]
        if size == 1:
            assert held.tolist() == count[count > 0].tolist()


def test_the_next_numbers_doubles_full_tiers_and_the_end_are_tried() -> None:
    assert candidates(3, 100, [40, 200]) == [*range(4, 19), 24, 40, 41, 48, 96, 100]
    assert candidates(3, 5, [3]) == [4, 5]
    assert candidates(3, 3, [3]) == []


def test_the_first_failure_after_the_last_number_that_does_not_fail() -> None:
    assert first_failure(1, [2, 6, 8], lambda number: number == 4 or number >= 7) == 7
    assert first_failure(1, [2, 6, 8], lambda number: number >= 2) == 2
    assert first_failure(1, [2, 6, 8], lambda number: number > 8) is None
