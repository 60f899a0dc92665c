"""Simulation of traces with other births than one in a step, ends, and several sequences."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import kvbound as kv
from kvbound.cost.evaluate import evaluate
from kvbound.cost.ideal import ideal
from kvbound.errors import UsageError
from kvbound.instance import Instance
from kvbound.policies import POLICIES, Birth, MoveRequest, Policy, Slot, make_policy
from kvbound.policies.view import InstanceView
from kvbound.schedule import Schedule
from kvbound.simulation import run, simulate
from kvbound.solvers.reference.brute_force import find_optimum
from tests.cost_cases import assert_sound, schedule_of, toy
from tests.instance_documents import two_tiers
from tests.policies.cases import medium_instance
from tests.replay import problems
from tests.strategies import rule_combinations, tiny_instance, with_layers

seeds = st.integers(0, 2**32 - 1)


class Random:
    """Returns random scores and requests, with one admission for all new tokens or one for each."""

    name, oracle = "random", False

    def start(self, instance: InstanceView, rng: np.random.Generator) -> NDArray[np.float64]:
        self.rng = rng
        return rng.random((instance.layers, instance.prefill_tokens))

    def step(self, slot: Slot) -> MoveRequest | NDArray[np.float64]:
        rng = self.rng
        if rng.random() < 0.4:
            return rng.integers(0, 3, slot.tokens + slot.births).astype(np.float64)
        up, out = (rng.integers(0, max(slot.tokens, 1), rng.integers(6)) for _ in range(2))
        if not slot.tokens:
            up = out = up[:0]
        each = [list(Birth)[n] for n in rng.integers(0, 3, slot.births + 1)]
        return MoveRequest(up, out, bool(rng.random() < 0.5), each[1:] if rng.random() < 0.5 else each[0])


def made(policy: str) -> Policy:
    return Random() if policy == "random" else make_policy(policy)


def time_of(instance: Instance, schedule: Schedule) -> float:
    """Seconds of a schedule that obeys the rules."""
    assert problems(instance, schedule) == []
    seconds = evaluate(instance, schedule).time_s
    assert seconds >= ideal(instance) * (1 - 1e-12)
    return seconds


def test_every_rule_combination_against_brute_force() -> None:
    for n, rules in enumerate(rule_combinations()):
        instance = tiny_instance(np.random.default_rng([n, 1]), batch=True, **rules)
        best = find_optimum(instance).time_s
        for policy in (*[*POLICIES][n % 3 :: 3], "random"):
            schedule = run(instance, made(policy), np.random.default_rng(n))
            assert time_of(instance, schedule) >= best * (1 - 1e-12), (n, policy)


def test_every_rule_combination_where_layers_differ_against_brute_force() -> None:
    for n, rules in enumerate(rule_combinations()):
        rng = np.random.default_rng([n, 2])
        instance = with_layers(rng, tiny_instance(rng, layers=2, batch=bool(n % 2), **rules))
        best = find_optimum(instance).time_s
        for policy in (*[*POLICIES][n % 3 :: 3], "random"):
            schedule = run(instance, made(policy), np.random.default_rng(n))
            assert time_of(instance, schedule) >= best * (1 - 1e-12), (n, policy)


@pytest.mark.parametrize("policy", [*POLICIES, "random"])
@given(seed=seeds, batch=st.booleans())
@settings(max_examples=20, deadline=None)
def test_larger_instances_of_layers_that_differ(policy: str, seed: int, batch: bool) -> None:
    instance = medium_instance(np.random.default_rng(seed), batch=batch, differ=True)
    result = simulate(instance, made(policy), seed=seed)
    assert time_of(instance, schedule_of(result)) == result.time_s


@pytest.mark.parametrize("policy", [*POLICIES, "random"])
@given(seed=seeds)
@settings(max_examples=20, deadline=None)
def test_larger_instances(policy: str, seed: int) -> None:
    instance = medium_instance(np.random.default_rng(seed), batch=True)
    result = simulate(instance, made(policy), seed=seed)
    assert_sound(instance, result)
    assert time_of(instance, schedule_of(result)) == result.time_s


TOLD = "llamacpp-ngl", "llamacpp-fit"
"""Policies that are told for how many tokens a layer needs room."""


@pytest.mark.parametrize("policy", [name for name in POLICIES if name not in TOLD])
@given(seed=seeds)
@settings(max_examples=10, deadline=None)
def test_online_policies_do_not_depend_on_later_births_and_ends(policy: str, seed: int) -> None:
    rule, rng = make_policy(policy), np.random.default_rng(seed)
    instance = medium_instance(rng, batch=True, granularity=1, initial="free")
    steps = max(1, instance.decode_steps // 2)
    if getattr(rule, "oracle", False) or not instance.timeline.past[steps]:
        return
    cut = kv.Instance("cut", instance.memory, instance.llm, instance.rules, instance.trace.head(steps))
    whole, early = (run(each, rule, np.random.default_rng(0)) for each in (instance, cut))
    assert np.array_equal(whole.initial, early.initial)
    for mine, theirs in zip(whole.events, early.events, strict=True):
        first = mine.step < steps
        assert np.array_equal(mine.token[first], theirs.token)
        ends = instance.timeline.ends[mine.token[first]]
        known = ends != mine.step[first]  # a cut trace lasts longer than a token of its last step
        assert np.array_equal(mine.tier[first][known], theirs.tier[known])


class Keeper:
    """Keeps every slot."""

    def __init__(self) -> None:
        self.seen: list[Slot] = []

    def step(self, slot: Slot) -> MoveRequest:
        self.seen.append(slot)
        return MoveRequest()


@given(seeds)
@settings(max_examples=25, deadline=None)
def test_slots_have_births_ends_and_sequences(seed: int) -> None:
    instance = medium_instance(np.random.default_rng(seed), batch=True, differ=bool(seed % 2))
    keeper = Keeper()
    simulate(instance, keeper)  # type: ignore[arg-type]
    for slot in keeper.seen:
        timeline = instance.timelines[slot.layer]
        past = int(timeline.past[slot.step])
        assert (slot.tokens, slot.births) == (past, timeline.births[slot.step])
        assert slot.sequence.tolist() == timeline.sequence[: past + slot.births].tolist()
        assert slot.staying.tolist() == [end > slot.step for end in timeline.ends[:past]]
        assert (slot.tier == instance.tiers).tolist() == [end < slot.step for end in timeline.ends[:past]]
        recorded = instance.trace.listed(slot.step, slot.layer)
        assert slot.listed.tolist() == [token for token in recorded if token < past]
        assert slot.reads.tolist() == sorted(slot.listed.tolist())
        assert slot.read_now.shape == (past + slot.births,)
        for shown in (slot.sequence, slot.staying, slot.tier, slot.instance.sequence):
            assert not shown.flags.writeable
            assert not any(np.shares_memory(shown, hidden) for hidden in (timeline.sequence, timeline.ends))


def toy_run(
    reads: Sequence[Sequence[int]], prefill: int, *, capacity: int = 2, rules: Any = None, **fields: Any
) -> Instance:
    """One layer between tiers of 4 and 1 bytes/s, items of one byte."""
    trace = {"prefill_tokens": prefill, "reads": [[ids] for ids in reads], **fields}
    return toy(memory=two_tiers(4, 1, capacity), trace=trace, rules=rules or {})


def events(schedule: Schedule, step: int) -> dict[int, int]:
    """Token to tier of the only layer's events in one step."""
    layer = schedule.events[0]
    at = layer.step == step
    return dict(zip(layer.token[at].tolist(), layer.tier[at].tolist(), strict=True))


@pytest.mark.parametrize(
    ("copies", "stays_s", "ends_s"), [("inclusive", 1 + 2, 1 + 1), ("exclusive", 1 + 2, 0.75 + 1)]
)
def test_what_ends_makes_room(copies: str, stays_s: float, ends_s: float) -> None:
    """Token 2 is born into the place that token 0 leaves in the same slot, and read there."""
    reads, rules = [[0, 1], [1, 2]], {"copies": copies}
    stays = toy_run(reads, 2, rules=rules)
    ends = toy_run(reads, 2, rules=rules, ends=[0, None, None, None])
    schedules = [run(each, make_policy("static"), np.random.default_rng(0)) for each in (stays, ends)]
    assert [events(each, 0) for each in schedules] == [{2: 1}, {2: 0}]
    assert [events(each, 1) for each in schedules] == [{3: 1}, {3: 1}]
    assert time_of(stays, schedules[0]) == pytest.approx(stays_s)
    assert time_of(ends, schedules[1]) == pytest.approx(ends_s)


@pytest.mark.parametrize("policy", ["lru", "keep-last", "recency-window", "belady"])
def test_what_has_ended_takes_no_room(policy: str) -> None:
    """The room of tokens 0 and 1, which ended before, is enough for 2 and 3: nothing is evicted."""
    instance = toy_run([[0, 1], [], [2, 3]], 4, ends=[0, 0, None, None, 1], births=[0, 1, 0])
    asked = make_policy(policy)
    schedule = run(instance.with_rules(initial="prefill-first"), asked, np.random.default_rng(0))
    assert schedule.initial.tolist() == [[0, 0, 1, 1]]
    assert [events(schedule, step) for step in range(3)] == [{}, {4: 1}, {2: 0, 3: 0}]


@pytest.mark.parametrize(
    ("policy", "tiers", "seconds"),
    [
        # token 3 displaces token 0: 3 bytes are written to the slow tier, and 2 are read from there next
        ("recency-window", {0: 1, 1: 1, 2: 1, 3: 0, 4: 0}, 3 + 2),
        # then 0 and 1 displace 3 and 4
        ("keep-last", {0: 1, 1: 1, 2: 1, 3: 0, 4: 0}, 3 + 4),
        # token 0 stays, as it is read next; tokens 0 and 1 are read from the fast tier
        ("belady", {1: 0, 2: 1, 3: 1, 4: 1}, 3 + 0.5),
        ("lookahead-one", {1: 0, 2: 1, 3: 1, 4: 1}, 3 + 0.5),
        # in the order of their ids, while there is room
        ("static", {1: 0, 2: 1, 3: 1, 4: 1}, 3 + 0.5),
    ],
)
def test_an_arriving_prompt_is_larger_than_the_fastest_tier(
    policy: str, tiers: dict[int, int], seconds: float
) -> None:
    instance = toy_run([[], [0, 1]], 1, births=[4, 0], rules={"copies": "exclusive"})
    schedule = run(instance, make_policy(policy), np.random.default_rng(0))
    assert events(schedule, 0) == tiers
    assert time_of(instance, schedule) == pytest.approx(seconds)


def test_what_ends_with_its_birth_is_never_held() -> None:
    """Tokens 1 and 3 end in the step of their birth; token 2 gets the room that there is."""
    fields: dict[str, Any] = {"births": [3, 0], "ends": [None, 0, None, 0]}
    for copies, capacity, tiers in (
        ("inclusive", 2, {1: 1, 2: 0, 3: 1}),
        ("inclusive", 9, {1: 1, 2: 0, 3: 1}),
        ("exclusive", 2, {1: 1, 2: 0, 3: 1}),
        ("exclusive", 3, {1: 0, 2: 0, 3: 0}),
    ):
        instance = toy_run([[0], [0, 2]], 1, capacity=capacity, rules={"copies": copies}, **fields)
        for policy in ("static", "lru", "reactive"):
            schedule = run(instance, make_policy(policy), np.random.default_rng(0))
            assert events(schedule, 0) == tiers, (copies, capacity, policy)
            assert problems(instance, schedule) == []


def test_a_token_joins_its_block_in_the_slot_in_which_that_leaves() -> None:
    """Block 0 ends with token 1, which is born into its tier; block 1 begins in its room."""
    instance = toy_run(
        [[0], [2, 3]], 1, births=[3, 0], ends=[0, 0, None, None],
        rules={"granularity": 2, "copies": "exclusive"},
    )  # fmt: skip
    schedule = run(instance, make_policy("lru"), np.random.default_rng(0))
    assert events(schedule, 0) == {1: 0, 2: 0, 3: 0}
    assert time_of(instance, schedule) == pytest.approx((1 + 3) / 4 + 2 / 4)


def test_an_ended_token_does_not_hold_its_block() -> None:
    """Token 0 was read last, but ends; so its block leaves for that of tokens 4 and 5, which is read."""
    instance = toy_run(
        [[0, 1], [0, 3], [4]], 6, births=0, ends=[1, None, None, None, None, None],
        capacity=4, rules={"granularity": 2, "initial": "prefill-first"},
    )  # fmt: skip
    schedule = run(instance, make_policy("lru"), np.random.default_rng(0))
    assert schedule.initial.tolist() == [[0, 0, 0, 0, 1, 1]]
    assert events(schedule, 2) == {0: 1, 4: 0}


def test_windows_are_those_of_the_sequences() -> None:
    """Two sequences of three tokens: the two youngest of each start in tier 0, and stay after a birth."""
    instance = toy_run([[]], 6, births=1, sequence=[7, 7, 7, 9, 9, 9, 7], capacity=4)
    schedule = run(instance, make_policy("recency-window"), np.random.default_rng(0))
    assert schedule.initial.tolist() == [[1, 0, 0, 1, 0, 0]]
    assert events(schedule, 0) == {1: 1, 6: 0}


def test_every_new_token_may_have_its_own_admission() -> None:
    """Token 3 displaces 0; token 4 finds no room; token 2 is kept out of tier 0."""

    class Asks:
        def start(self, instance: InstanceView, rng: np.random.Generator) -> NDArray[np.float64]:
            return np.array([[1.0, 0.0]])

        def step(self, slot: Slot) -> MoveRequest:
            return MoveRequest(evict=np.array([0]), birth=[Birth.SLOW, Birth.MAKE_ROOM, Birth.IF_ROOM])

    instance = toy_run([[]], 2, births=3, capacity=2)
    result = simulate(instance, Asks())  # type: ignore[arg-type]
    assert result.schedule is not None
    assert events(result.schedule, 0) == {0: 1, 2: 1, 3: 0, 4: 1}
    with pytest.raises(UsageError, match=r"one for each of the new tokens \(2\), not"):
        simulate(toy_run([[]], 2, births=2), Asks())  # type: ignore[arg-type]


def test_room_is_made_for_as_many_new_tokens_as_may_leave() -> None:
    class Asks:
        def step(self, slot: Slot) -> MoveRequest:
            return MoveRequest(evict=np.array([1, 0]), birth=Birth.MAKE_ROOM)

    for births, expected in ((1, {1: 1, 3: 0}), (4, {0: 1, 1: 1, 3: 0, 4: 0, 5: 1, 6: 1})):
        result = simulate(toy_run([[]], 3, births=births, capacity=3), Asks())  # type: ignore[arg-type]
        assert result.schedule is not None
        assert events(result.schedule, 0) == expected


def test_scores_are_of_all_new_tokens() -> None:
    class Short:
        def step(self, slot: Slot) -> NDArray[np.float64]:
            return np.zeros(slot.tokens + 1)

    with pytest.raises(UsageError, match=r"expected scores of shape \(5,\), not shape \(4,\)"):
        simulate(toy_run([[]], 3, births=2), Short())  # type: ignore[arg-type]


def test_an_oracle_sees_births_and_ends() -> None:
    class Sees:
        oracle = True

        def step(self, slot: Slot) -> NDArray[np.float64]:
            timeline = slot.future.timeline
            assert (timeline.births.tolist(), timeline.ends.tolist()) == ([0, 2], [0, 2, 2])
            return timeline.ends[: slot.tokens + slot.births].astype(np.float64)

    simulate(toy_run([[0], []], 1, births=[0, 2], ends=[0, None, None]), Sees())  # type: ignore[arg-type]
