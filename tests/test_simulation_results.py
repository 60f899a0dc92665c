"""Simulation: placements worked out by hand, results, users' policies, and what is refused."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import kvbound as kv
from kvbound.cost.ideal import ideal
from kvbound.errors import UsageError
from kvbound.policies import Birth, MoveRequest, Slot, make_policy
from kvbound.policies.view import InstanceView
from kvbound.result import BoundStatus, Status
from kvbound.schedule import Schedule
from kvbound.simulation import run, simulate
from tests.cost_cases import assert_sound, same, schedule_of, toy
from tests.instance_documents import llm, tier


def events(schedule: Schedule, step: int) -> dict[int, int]:
    """Token to tier of the only layer's events in one step."""
    layer = schedule.events[0]
    at = layer.step == step
    return dict(zip(layer.token[at].tolist(), layer.tier[at].tolist(), strict=True))


def test_the_most_recent_prompt_tokens_come_first() -> None:
    instance = toy(trace={"prefill_tokens": 5, "reads": [[[]]]})
    assert schedule_of(simulate(instance, "lru")).initial.tolist() == [[1, 1, 0, 0, 0]]
    forced = instance.with_rules(initial="prefill-first")
    assert schedule_of(simulate(forced, "lru")).initial.tolist() == [[0, 0, 0, 1, 1]]


def test_the_lower_of_two_equals_leaves_first() -> None:
    """2, 3 and 4 are in HBM, all without a use; 1 is read, and being born is a use of 5."""
    schedule = schedule_of(simulate(toy(trace={"prefill_tokens": 5, "reads": [[[1]]]}), "lfu"))
    assert events(schedule, 0) == {1: 0, 2: 1, 3: 1, 5: 0}


def test_a_miss_is_not_promoted_only_to_be_evicted_for_the_new_token() -> None:
    """One place is free; both the new token and the residents outrank the token that is read."""
    instance = toy(trace={"prefill_tokens": 2, "reads": [[[0]], [[0]]]}, capacity=2)
    schedule = schedule_of(simulate(instance, "recency-window"))
    assert schedule.initial.tolist() == [[0, 0]]
    assert events(schedule, 0) == {0: 1, 2: 0}
    assert events(schedule, 1) == {1: 1, 3: 0}
    roomy = toy(trace={"prefill_tokens": 3, "reads": [[[0]], [[0]]]}, capacity=3)
    fill = np.array([[-np.inf, 1.0, 2.0]])

    class Window:
        name = "window"

        def start(self, instance: InstanceView, rng: np.random.Generator) -> NDArray[np.float64]:
            return fill

        def step(self, slot: Slot) -> NDArray[np.float64]:
            return np.arange(slot.tokens + 1.0)

    schedule = schedule_of(simulate(roomy, Window()))
    assert schedule.initial.tolist() == [[1, 0, 0]]
    assert events(schedule, 0) == {3: 0}


def test_prompt_tokens_that_are_never_read_leave_their_room_to_new_ones() -> None:
    instance = toy(trace={"prefill_tokens": 3, "reads": [[[1]], [[1, 3]]]}, rules={"migration": "none"})
    for policy in ("belady", "reactive", "lookahead-one", "sa-guided"):
        schedule = schedule_of(simulate(instance, policy))
        assert schedule.initial.tolist() == [[1, 0, 1]]
    assert events(schedule, 0) == {3: 0}


def test_victims_go_to_the_next_slower_tier_with_room() -> None:
    tiers = [tier(name, capacity, name) for name, capacity in {"a": 2, "b": 1, "c": None}.items()]
    instance = toy(
        memory={"name": "m", "resources": {"a": 4, "b": 2, "c": 1}, "tiers": tiers},
        trace={"prefill_tokens": 4, "reads": [[[0, 1]]]},
        rules={"copies": "exclusive"},
    )
    schedule = schedule_of(simulate(instance, "keep-last"))
    assert schedule.initial.tolist() == [[2, 1, 0, 0]]
    # 1 and the new 4 take the places of 2 and 3; 0 gets the place that 1 leaves
    assert events(schedule, 0) == {0: 1, 1: 0, 2: 2, 3: 2, 4: 0}


def test_a_result_records_method_seed_and_options() -> None:
    instance = toy()
    result = kv.simulate(instance, "sa-guided", seed=4, window=3, topk=0.25)
    assert (result.method, result.seed, result.options) == ("sa-guided", 4, {"window": 3, "topk": 0.25})
    assert result.status is Status.FEASIBLE
    assert result.bound.status is BoundStatus.NONE
    assert (result.instance.sha256, result.instance.reads) == (instance.sha256, 5)
    assert result.wall_s > 0


def test_best_is_the_ideal_and_no_schedule() -> None:
    result = simulate(toy(), "best")
    assert (result.status, result.measures, result.schedule) == (Status.UNKNOWN, None, None)
    assert result.bound.time_s == ideal(toy())
    with pytest.raises(UsageError, match="takes no options"):
        simulate(toy(), "best", window=1)


@pytest.mark.parametrize("policy", ["lru", "best"])
def test_what_does_not_fit_is_infeasible(policy: str) -> None:
    result = simulate(toy(llm=llm(weights=4)), policy)
    assert (result.status, result.measures) == (Status.INFEASIBLE, None)
    document = result.to_json()
    assert document["status"] == "infeasible"
    assert document["termination"] == {"reason": "done", "limit": None}
    assert "the weights (4 B) do not fit into hbm" in result.termination.message


def test_huge_capacities_cost_no_memory() -> None:
    assert simulate(toy(capacity=2.0**60), "lru").time_s == simulate(toy(capacity=5), "lru").time_s


def test_progress_runs_to_its_end() -> None:
    seen: list[tuple[float, float]] = []
    simulate(toy(), "lru", progress=lambda done, total, note: seen.append((done, total)))
    assert (2, 2) in seen


class Mine:
    """A minimal policy with given return values."""

    name = "mine"

    def __init__(self, start: object = None, step: object = None) -> None:
        self.answers = start, step

    def start(self, instance: InstanceView, rng: np.random.Generator) -> Any:
        return self.answers[0]

    def step(self, slot: Slot) -> Any:
        answer = self.answers[1]
        return np.zeros(slot.tokens + 1) if answer is None else answer(slot) if callable(answer) else answer


def test_a_users_class() -> None:
    result = kv.simulate(toy(), Mine())
    assert (result.method, result.status) == ("mine", Status.FEASIBLE)
    assert_sound(toy(), result)
    requesting = Mine(
        np.ones((1, 3)), lambda slot: MoveRequest(slot.misses, np.array([0, 0, 1]), birth=Birth.SLOW)
    )
    assert_sound(toy(), kv.simulate(toy(), requesting))


def test_a_users_policy_may_have_the_name_of_a_built_in_one() -> None:
    best = Mine()
    best.name = "best"
    assert kv.simulate(toy(), best).status is Status.FEASIBLE


@pytest.mark.parametrize(
    ("start", "step", "message"),
    [
        (np.zeros((1, 4)), None, r"scores of shape \(1, 3\), not shape \(1, 4\)"),
        (np.zeros(3), None, r"not shape \(3,\)"),
        (np.full((1, 3), np.nan), None, "not NaN"),
        (None, np.zeros(3), r"scores of shape \(4,\), not shape \(3,\)"),
        (None, lambda slot: np.zeros(5), r"not shape \(5,\)"),
        (None, lambda slot: np.full(slot.tokens + 1, np.nan), "not NaN"),
        (None, 1.0, r"not shape \(\)"),
        (None, lambda slot: MoveRequest(np.array([slot.tokens])), "expected one of the past tokens 0 to 2"),
        (None, lambda slot: MoveRequest(evict=np.array([-1])), "expected one of the past tokens 0 to 2"),
    ],
)
def test_invalid_return_values(start: object, step: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        simulate(toy(), Mine(start, step))


def test_an_online_policy_that_looks_ahead() -> None:
    with pytest.raises(AttributeError, match="oracle = True"):
        simulate(toy(), Mine(step=lambda slot: slot.future.next_use()))


def test_usage() -> None:
    with pytest.raises(UsageError, match="did you mean 'belady'"):
        simulate(toy(), "beladi")
    with pytest.raises(UsageError, match="takes no options here"):
        simulate(toy(), Mine(), window=5)
    with pytest.raises(UsageError, match="not 'window'"):
        simulate(toy(), "lru", window=5)
    with pytest.raises(UsageError, match="unknown kernel 'cuda'"):
        simulate(toy(), "lru", kernel="cuda")


def test_run_gives_the_schedule_alone() -> None:
    schedule = run(toy(), make_policy("lru"), np.random.default_rng(0))
    assert same(schedule, schedule_of(simulate(toy(), "lru")))
