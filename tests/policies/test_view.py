"""What a policy sees of an instance: the names that `Instance` has for sizes and rules, never the reads."""

import gc
from collections.abc import Iterator
from dataclasses import fields
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import kvbound as kv
from kvbound.errors import UsageError
from kvbound.instance import Instance
from kvbound.policies import InstanceView, Slot
from kvbound.trace import Trace
from tests.policies.cases import medium_instance


class Keeper:
    """Keeps all that it is given."""

    def __init__(self, oracle: bool = False) -> None:
        self.oracle, self.given = oracle, list[object]()

    def start(self, instance: InstanceView, rng: np.random.Generator) -> None:
        self.given.append(instance)

    def step(self, slot: Slot) -> Any:
        self.given.append(slot)
        return np.zeros(slot.tokens + 1)


def kept(instance: Instance, oracle: bool) -> list[object]:
    keeper = Keeper(oracle)
    kv.simulate(instance, keeper)  # type: ignore[arg-type]
    return keeper.given


def reachable(given: object) -> Iterator[object]:
    """Everything that can be reached from an object, but for code."""
    seen, open_ = set[int](), [given]
    while open_:
        value = open_.pop()
        if id(value) in seen or isinstance(value, type | ModuleType | FunctionType | BuiltinFunctionType):
            continue
        seen.add(id(value))
        yield value
        open_ += gc.get_referents(value)
        if isinstance(value, np.ndarray) and value.base is not None:
            open_.append(value.base)


def instances() -> Iterator[Instance]:
    """With and without orders and masses of their own."""
    for seed in range(4):
        yield medium_instance(np.random.default_rng(seed))


def test_online_policies_cannot_reach_the_trace() -> None:
    for instance in instances():
        parts: list[NDArray[Any]] = [*instance.trace.rows]
        parts += [order.ids for order in instance.trace.order if order is not None]
        parts += [mass for mass in instance.trace.mass if mass is not None]
        for value in reachable(kept(instance, oracle=False)):
            assert not isinstance(value, Trace | Instance)
            if isinstance(value, np.ndarray):
                assert not any(np.shares_memory(value, part) for part in parts)


def test_the_same_search_finds_the_trace_of_an_oracle() -> None:
    instance = medium_instance(np.random.default_rng(0))
    assert any(isinstance(value, Trace) for value in reachable(kept(instance, oracle=True)))


@pytest.mark.parametrize("oracle", [False, True])
def test_sizes_and_rules_have_their_names(oracle: bool) -> None:
    for instance in instances():
        view = kept(instance, oracle)[0]
        known = {each.name for each in fields(InstanceView)} - {"_trace", "_timelines", "sequence"}
        sizes = {"layers", "tokens", "item_bytes", "units", "capacity_units"}
        assert known >= {"memory", "llm", "rules"} | sizes
        for name in known:
            assert np.array_equal(getattr(view, name), getattr(instance, name))


def test_only_oracles_have_the_reads_to_come() -> None:
    instance = medium_instance(np.random.default_rng(0))
    online, oracle = (InstanceView.of(instance, oracle=flag) for flag in (False, True))
    assert oracle.future(0).reads(1).tolist() == instance.trace.reads(0, 0).tolist()
    with pytest.raises(UsageError, match="set oracle = True"):
        online.future(0)
    for view in (online, oracle):
        assert not hasattr(view, "trace")
        with pytest.raises(UsageError, match="cannot see the trace"):
            _ = view.trace


def test_a_policy_that_looks_at_the_trace_is_told_what_it_has_instead() -> None:
    class Peeks:
        def step(self, slot: Slot) -> Any:
            return slot.instance.trace.past_counts()

    with pytest.raises(UsageError, match=r"policy Peeks: a policy cannot see the trace.*slot\.future"):
        kv.simulate(medium_instance(np.random.default_rng(0)), Peeks())  # type: ignore[arg-type]
