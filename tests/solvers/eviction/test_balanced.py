"""Balanced next-use eviction: legal, costed as the cost model does, the same with and without numba."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import kvbound as kv
from kvbound.bitsets.counts import HITS, UP
from kvbound.bitsets.two_tier import TwoTierSchedule
from kvbound.checker import check
from kvbound.cost.evaluate import evaluate
from kvbound.cost.ideal import ideal
from kvbound.cost.marginal import free_misses
from kvbound.cost.slot import SlotCost
from kvbound.instance import Copies, Instance, Migration, Rules
from kvbound.library import best_known
from kvbound.llm.model import Llm
from kvbound.memory import Memory, Tier
from kvbound.progress import silent
from kvbound.schedule import file_arrays
from kvbound.solvers.eviction import balanced
from kvbound.solvers.eviction import balanced_numba as kernels
from kvbound.studies import Scale
from kvbound.studies.fang2025 import Cell
from kvbound.workloads import CountRule, Fang2025
from tests.plain import without_numba
from tests.strategies import tiny_instances

NAMES = (
    "native-r15-c25-b64-n64",
    "native-r15-c25-b64-n64-prefetch",
    "swap-4x64-c30-b450",
    "swap-1x200-c53-b64",
)


def simple(**rules: Any) -> st.SearchStrategy[Instance]:
    return tiny_instances(tiers=2, copies=Copies.INCLUSIVE, granularity=1, **rules)


@pytest.fixture(scope="module")
def plain() -> ModuleType:
    """The kernels as they are where numba is not installed."""
    return without_numba(kernels)


def total(instance: Instance, play: TwoTierSchedule) -> float:
    return float(SlotCost.of(instance).times(play.traffic(instance).traffic).sum())


def examine(instance: Instance) -> list[float]:
    times = []
    for play in balanced.schedules(instance, silent):
        schedule = play.residency.schedule()
        arrays = file_arrays(schedule, instance_sha256=instance.sha256, decode_steps=instance.decode_steps)
        report = check(instance.expanded(), instance.trace.rows, arrays)
        assert report.ok, report.problems
        bits = play.residency.arrays(instance.sha256)
        packed = check(instance.expanded(), instance.trace.rows, bits, claimed_s=report.time_s)
        assert packed.problems == ()
        assert packed.time_s == report.time_s
        assert packed.to_mapping() == report.to_mapping() | {"checked": packed.schema}
        measures = evaluate(instance, schedule)
        assert measures.time_s == pytest.approx(total(instance, play), rel=1e-12)
        assert measures.moved_bytes["up"] == play.traffic(instance).up.sum() * instance.item_bytes
        times.append(measures.time_s)
    return times


@given(simple(migration=Migration.ON_READ) | simple(migration=Migration.PREFETCH))
@settings(max_examples=60, deadline=None)
def test_schedules_keep_every_rule_and_cost_what_they_say(instance: Instance) -> None:
    examine(instance)


@pytest.mark.parametrize("name", NAMES)
def test_on_real_reads(name: str) -> None:
    instance = kv.read_instance(name)
    best = kv.solve(instance, "dual", time_limit=2).bound.time_s
    assert best is not None
    assert best <= min(examine(instance))


@given(simple(migration=Migration.PREFETCH))
@settings(max_examples=25, deadline=None)
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
def test_it_is_optimal_where_a_miss_costs_the_same_everywhere(name: str) -> None:
    assert min(examine(kv.read_instance(name))) == pytest.approx(best_known()[name].time_s, rel=1e-4)


@given(simple())
@settings(max_examples=40, deadline=None)
def test_free_misses_are_those_that_cost_nothing(instance: Instance) -> None:
    reads, cost, size = instance.trace.past_counts(), SlotCost.of(instance), instance.item_bytes
    free = free_misses(instance, np.zeros(reads.shape))
    q = np.zeros((*reads.shape, 6))
    q[..., 2], q[..., 5] = instance.llm.weight_reads, size

    def times(misses: NDArray[np.int64]) -> NDArray[np.float64]:
        q[..., 0], q[..., 1] = (reads - misses) * size, misses * size
        return cost.times(q)

    assert np.all(times(free) <= times(np.zeros_like(reads)) * (1 + 1e-9))
    more = free < reads
    assert np.all(times(np.minimum(free + 1, reads))[more] > times(np.zeros_like(reads))[more])


def test_it_beats_next_use_where_churn_varies() -> None:
    """High variation, 450 GB/s: what next-use eviction keeps is worth nothing in many slots."""
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
    times = examine(instance)
    belady = kv.simulate(instance, "belady").time_s
    assert belady is not None
    assert min(times) < 0.95 * belady
    assert times[1] < times[0]  # writes fed back


def fewest_misses(instance: Instance) -> int:
    """Sweep over the stays between reads; where they are too many, the one that lasts longest goes."""
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
        room = instance.capacity_blocks[0]
        assert room is not None
        misses += max(len(inside) - room, 0)
        inside = sorted(inside)[:room]
    return misses


@pytest.mark.parametrize("layers", [1, 2, 5])
def test_no_schedule_has_fewer_misses_where_none_is_free(layers: int) -> None:
    """Layers that share the room compete within a step too, where most next reads fall into the next one."""
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
    play = next(balanced.schedules(instance, silent))
    assert free_misses(instance, np.zeros((instance.decode_steps, layers))).max() == 0
    misses = instance.trace.past_counts().sum() - play.counts[..., HITS].sum()
    assert misses == fewest_misses(instance)


def test_what_no_slot_needs_stays_while_there_is_room() -> None:
    """With room to spare, who leaves and comes back is written for nothing."""
    cell = Cell("actual-like").instance(Scale("small", tokens=64, layers=16, time_limit=0.0))
    instance = cell.with_rules(accounting="physical")
    play = next(balanced.schedules(instance, silent))
    assert total(instance, play) < 1.02 * ideal(instance)
    assert play.counts[..., UP].mean() < 0.1 * play.counts[..., HITS].mean()
