"""Balanced next-use eviction: legal, costed as the cost model does, the same with and without numba."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kvbound as kv
from kvbound.bitsets.counts import HITS, UP
from kvbound.bitsets.two_tier import TwoTierSchedule
from kvbound.checker import check
from kvbound.cost.evaluate import evaluate
from kvbound.cost.ideal import ideal
from kvbound.cost.marginal import free_misses
from kvbound.cost.slot import SlotCost
from kvbound.instance import Instance
from kvbound.library import best_known
from kvbound.llm.model import Llm
from kvbound.memory import Memory, Tier
from kvbound.progress import silent
from kvbound.rules import Copies, Migration, Rules
from kvbound.solvers.eviction import balanced
from kvbound.solvers.eviction import balanced_numba as kernels
from kvbound.studies import Scale
from kvbound.studies.fang2025 import Cell
from kvbound.workloads import CountRule, Fang2025
from tests.plain import without_numba
from tests.replay import problems
from tests.strategies import layered_instances, tiny_instances

NAMES = (
    "native-r15-c25-b64-n64",
    "native-r15-c25-b64-n64-prefetch",
    "swap-4x64-c30-b450",
    "swap-1x200-c53-b64",
)


def simple(**rules: Any) -> st.SearchStrategy[Instance]:
    rules |= {"copies": Copies.INCLUSIVE, "granularity": 1}
    return tiny_instances(tiers=2, **rules) | tiny_instances(tiers=2, batch=True, **rules)


def differing(**rules: Any) -> st.SearchStrategy[Instance]:
    return layered_instances(tiers=2, copies=Copies.INCLUSIVE, granularity=1, **rules)


@pytest.fixture(scope="module")
def plain() -> ModuleType:
    """Return the kernel as it is where numba is not installed."""
    return without_numba(kernels)


def total(instance: Instance, schedule: TwoTierSchedule) -> float:
    return float(SlotCost.of(instance).times(schedule.traffic(instance).traffic).sum())


def checked_times(instance: Instance) -> list[float]:
    """Check the schedule of every pass, and return their times."""
    times = []
    for found in balanced.schedules(instance, silent):
        schedule = found.residency.to_schedule()
        arrays = schedule.arrays(instance_sha256=instance.sha256, tokens=instance.tokens)
        report = check(instance.expanded(), instance.trace.rows, arrays)
        assert report.ok, report.problems
        bits = found.residency.arrays(instance_sha256=instance.sha256, tokens=instance.tokens)
        packed = check(instance.expanded(), instance.trace.rows, bits, claimed_s=report.time_s)
        assert packed.problems == ()
        assert packed.time_s == report.time_s
        assert packed.to_mapping() == report.to_mapping() | {"checked": packed.schema}
        measures = evaluate(instance, schedule)
        assert measures.time_s == pytest.approx(total(instance, found), rel=1e-12)
        assert measures.moved_bytes["up"] == found.traffic(instance).up.sum()
        times.append(measures.time_s)
    return times


@given(simple(migration=Migration.ON_READ) | simple(migration=Migration.PREFETCH))
@settings(max_examples=60, deadline=None)
def test_schedules_keep_every_rule_and_cost_what_they_say(instance: Instance) -> None:
    checked_times(instance)


@given(differing(migration=Migration.ON_READ) | differing(migration=Migration.PREFETCH))
@settings(max_examples=60, deadline=None)
def test_schedules_keep_every_rule_where_layers_differ(instance: Instance) -> None:
    for found in balanced.schedules(instance, silent):
        schedule = found.residency.to_schedule()
        assert problems(instance, schedule) == []
        assert evaluate(instance, schedule).time_s == pytest.approx(total(instance, found), rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_on_recorded_reads(name: str) -> None:
    instance = kv.read_instance(name)
    best = kv.solve(instance, "dual", time_limit=2).bound.time_s
    assert best is not None
    assert best <= min(checked_times(instance))


@given(simple(migration=Migration.PREFETCH) | differing(migration=Migration.PREFETCH))
@settings(max_examples=40, deadline=None)
def test_with_and_without_numba(plain: ModuleType, instance: Instance) -> None:
    with pytest.MonkeyPatch.context() as patch:
        compiled = list(balanced.schedules(instance, silent))
        patch.setattr(balanced, "kernels", plain)
        slow = list(balanced.schedules(instance, silent))
    for one, other in zip(compiled, slow, strict=True):
        assert np.array_equal(one.counts, other.counts)
        assert np.array_equal(one.start, other.start)


OPTIMAL = ("native-r10-c10-b64-n24", "native-r15-c25-b64-n16", "swap-2x48-c53-b64", "swap-4x64-c53-b64")


@pytest.mark.parametrize("name", OPTIMAL)
def test_optimal_where_a_miss_costs_the_same_everywhere(name: str) -> None:
    assert min(checked_times(kv.read_instance(name))) == pytest.approx(best_known()[name].time_s, rel=1e-4)


def test_faster_than_next_use_where_churn_varies() -> None:
    """With high variation at 450 GB/s, hits that next-use eviction keeps save no time in many slots."""
    reads = {
        "kind": "fang2025", "layers": 2, "prefill_tokens": 490, "decode_steps": 160, "variation": 0.9,
        "count_rule": "round(n-1)", "sparsity": 0.6, "seed": 0,
    }  # fmt: skip
    llm = {
        "name": "small", "layers": 2, "kv_bytes_per_token_layer": 16384, "weight_bytes": 0,
        "weight_read_bytes_per_layer": 162889728 // 64,
    }  # fmt: skip
    room = 2 * 259 * 16384
    instance = kv.make_instance("s", memory="gh200-paper", llm=llm, trace={"synthetic": reads}, capacity=room)
    times = checked_times(instance)
    belady = kv.simulate(instance, "belady").time_s
    assert belady is not None
    assert min(times) < 0.95 * belady
    assert times[1] < times[0]  # writes fed back


def fewest_misses(instance: Instance) -> int:
    """Sweep over the stays between reads; where there are too many, the longest ones end in misses."""
    layers, prefill = instance.layers, instance.prefill_tokens
    stays: dict[int, list[int]] = {}
    for layer in range(layers):
        last = dict.fromkeys(range(prefill), -1)
        for step in range(instance.decode_steps):
            slot = step * layers + layer
            for token in instance.trace.reads(step, layer).tolist():
                if token < prefill + step:
                    stays.setdefault(last[token], []).append(slot)
                    last[token] = slot
            last[prefill + step] = slot
    misses, inside = 0, list[int]()
    for slot in range(-1, instance.slots):
        inside = [end for end in inside if end > slot] + stays.get(slot, [])
        capacity = instance.capacity_units[0]
        assert capacity is not None
        misses += max(len(inside) - capacity, 0)
        inside = sorted(inside)[:capacity]
    return misses


@pytest.mark.parametrize("layers", [1, 2, 5])
def test_no_schedule_has_fewer_misses_where_none_is_free(layers: int) -> None:
    """Layers share the capacity; as most next reads fall into the next step, they compete within it too."""
    reads = Fang2025(
        layers=layers, prefill_tokens=200, decode_steps=60, sparsity=0.6, variation=0.9, seed=1,
        count_rule=CountRule.ROUND_BEFORE,
    )  # fmt: skip
    tiers = (
        Tier("fast", 60 * layers * 16384, ("fast",), ("fast",)),
        Tier("slow", None, ("link",), ("link",)),
    )
    memory = Memory("crawling link", {"fast": 4900e9, "link": 1e6}, tiers)
    instance = Instance("no free miss", memory, Llm("some", layers, 16384, 0, 1e6), Rules(), reads)
    schedule = next(balanced.schedules(instance, silent))
    assert free_misses(instance, np.zeros((instance.decode_steps, layers))).max() == 0
    misses = instance.trace.past_counts().sum() - schedule.counts[..., HITS].sum()
    assert misses == fewest_misses(instance)


def test_items_that_no_slot_needs_stay_while_there_is_room() -> None:
    """With room to spare, evicting an item and promoting it again only adds writes."""
    cell = Cell("actual-like").instance(Scale("small", tokens=64, layers=16, time_limit=0.0))
    instance = cell.with_rules(accounting="physical")
    schedule = next(balanced.schedules(instance, silent))
    assert total(instance, schedule) < 1.02 * ideal(instance)
    assert schedule.counts[..., UP].mean() < 0.1 * schedule.counts[..., HITS].mean()
