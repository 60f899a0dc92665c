"""The checker's slot times are the optima of the split's linear program."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from kvbound.checker.inputs import Case, read_case
from kvbound.checker.slots import busy_times, slot_times
from kvbound.cost.slot import SlotCost
from kvbound.memory import Memory, Tier
from tests.strategies import tiny_instance


def random_case(
    rng: np.random.Generator, latencies: bool, most: int = 4, formats: bool = False
) -> tuple[Case, SlotCost]:
    """Any tiers over any resources, two to four of them or more."""
    tiers, resources = int(rng.integers(2, most + 1)), [f"r{n}" for n in range(int(rng.integers(1, 6)))]

    def some() -> tuple[str, ...]:
        return tuple(str(name) for name in rng.permutation(resources)[: rng.integers(1, len(resources) + 1)])

    rates = {name: float(rng.choice([1, 2, 3, 7, 64, 450, 4900])) for name in resources}
    made = []
    for k in range(tiers):
        latency = float(rng.choice([0, 0.1, 3])) if latencies else 0.0
        made.append(Tier(f"t{k}", None if k == tiers - 1 else 1e9, some(), some(), latency))
    instance = tiny_instance(rng, tiers=min(tiers, 4))
    sizes = {tier.name: int(rng.integers(1, 70)) for tier in made} if formats else {}
    instance = dataclasses.replace(instance, memory=Memory("any", rates, tuple(made)), formats=sizes)
    return read_case(instance.expanded(), instance.trace.rows), SlotCost.of(instance)


def random_loads(
    rng: np.random.Generator, tiers: int
) -> np.ndarray[tuple[int, int, int], np.dtype[np.float64]]:
    """Bytes ``(slots, 3, tiers)``; in every slot a token is born and written through to the last tier."""
    loads = rng.integers(0, 30, (6, 3, tiers)) * (rng.random((6, 3, tiers)) < 0.7)
    loads[:, 2, -1] += 1
    return loads.astype(float)


@given(seed=st.integers(0, 2**32 - 1), formats=st.booleans())
@settings(deadline=None, max_examples=40)
def test_the_least_time_is_the_linear_programs(seed: int, formats: bool) -> None:
    rng = np.random.default_rng(seed)
    case, _ = random_case(rng, latencies=False, formats=formats)
    loads = random_loads(rng, len(case.names))
    times = slot_times(case, loads[:, 0], loads[:, 1], loads[:, 2])
    instead = case.item_sizes[-1] / np.array(case.item_sizes[:-1])[:, None]
    slope = (case.reads[-1] * instead - case.reads[:-1]) / case.bandwidth
    for found, (read, extra, written) in zip(times, loads, strict=True):
        load = ((read + extra) @ case.reads + written @ case.writes) / case.bandwidth
        splits = case.rules["copies"] == "inclusive"
        bounds = [(0, amount * splits) for amount in read[:-1]]
        if case.rules["timing"] == "serial":
            best = linprog(slope.sum(axis=1), bounds=bounds).fun + load.sum()
        else:  # minimise T with load + slope u <= T
            matrix = np.column_stack([slope.T, -np.ones(len(load))])
            best = linprog([0] * len(slope) + [1], matrix, -load, bounds=[*bounds, (0, None)]).fun
        assert found == pytest.approx(best, rel=1e-6, abs=1e-9)


@given(seed=st.integers(0, 2**32 - 1), latencies=st.booleans())
@settings(deadline=None, max_examples=100)
def test_primal_vertices_and_dual_facets_agree(seed: int, latencies: bool) -> None:
    rng = np.random.default_rng(seed)
    case, cost = random_case(rng, latencies)
    loads = random_loads(rng, len(case.names))
    expected = cost.times(loads.reshape(len(loads), -1))
    assert slot_times(case, loads[:, 0], loads[:, 1], loads[:, 2]) == pytest.approx(expected, rel=1e-12)


@given(seed=st.integers(0, 2**32 - 1), latencies=st.booleans())
@settings(deadline=None, max_examples=50)
def test_they_agree_whatever_the_bandwidths(seed: int, latencies: bool) -> None:
    """Up to 1e24 apart, with up to eight tiers."""
    rng = np.random.default_rng(seed)
    case, cost = random_case(rng, latencies, most=8 if not latencies else 5)
    rates = 10.0 ** rng.uniform(-6, 18, len(case.resources))
    case = dataclasses.replace(case, bandwidth=rates)
    memory = dataclasses.replace(
        cost.memory, resources=dict(zip(case.resources, rates.tolist(), strict=True))
    )
    loads = random_loads(rng, len(case.names)) * 10.0 ** rng.integers(0, 12)
    expected = SlotCost(memory, cost.rules).times(loads.reshape(len(loads), -1))
    assert slot_times(case, loads[:, 0], loads[:, 1], loads[:, 2]) == pytest.approx(expected, rel=1e-11)


@given(seed=st.integers(0, 2**32 - 1), latencies=st.booleans())
@settings(deadline=None, max_examples=100)
def test_they_agree_where_tiers_hold_other_formats(seed: int, latencies: bool) -> None:
    """The checker counts the bytes that each tier transfers, the package those of tier 0's format."""
    rng = np.random.default_rng(seed)
    case, cost = random_case(rng, latencies, formats=True)
    items = random_loads(rng, len(case.names))
    expected = cost.times(items.reshape(len(items), -1) * case.item_sizes[0])
    read, extra, written = np.moveaxis(items * case.item_sizes, 1, 0)
    times = slot_times(case, read, extra, written)
    assert times == pytest.approx(expected, rel=1e-11)
    busy = busy_times(case, read, extra, written, times)
    if busy is not None:
        expected = cost.busy(items.reshape(len(items), -1) * case.item_sizes[0]).sum(axis=0)
        np.testing.assert_allclose(busy, expected, rtol=1e-9, atol=1e-9)


def test_nothing_to_do_takes_no_time() -> None:
    case, _ = random_case(np.random.default_rng(0), latencies=True)
    nothing = np.zeros((2, len(case.names)))
    assert slot_times(case, nothing, nothing, nothing).tolist() == [0, 0]


@given(seed=st.integers(0, 2**32 - 1), latencies=st.booleans())
@settings(deadline=None, max_examples=100)
def test_resources_are_as_busy_as_the_package_says(seed: int, latencies: bool) -> None:
    rng = np.random.default_rng(seed)
    case, cost = random_case(rng, latencies, most=3)
    loads = random_loads(rng, len(case.names))
    parts = loads[:, 0], loads[:, 1], loads[:, 2]
    busy = busy_times(case, loads[:, 0], loads[:, 1], loads[:, 2], slot_times(case, *parts))
    certain = not cost.inclusive or (cost.tiers == 2 and not cost.latency.any())
    assert (busy is not None) == certain
    if busy is not None:
        expected = cost.busy(loads.reshape(len(loads), -1)).sum(axis=0)
        np.testing.assert_allclose(busy, expected, rtol=1e-9, atol=1e-9)


@given(seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=25)
def test_reads_wait_for_the_tiers_that_any_split_reads(seed: int) -> None:
    """On each resource for the longest latency, or one after the other; writes do not wait."""
    rng = np.random.default_rng(seed)
    case, _ = random_case(rng, latencies=True, most=3)
    tiers = len(case.names)
    loads = (rng.integers(0, 30, (4, 3, tiers)) * (rng.random((4, 3, tiers)) < 0.4)).astype(float)
    slope = (case.reads[-1] - case.reads[:-1]) / case.bandwidth
    splits = range(2 if case.rules["copies"] == "inclusive" else 1)
    for found, (read, extra, written) in zip(slot_times(case, *np.moveaxis(loads, 1, 0)), loads, strict=True):
        load = ((read + extra) @ case.reads + written @ case.writes) / case.bandwidth
        best = np.inf
        for helps in splits:
            for unused in itertools.product(range(1 + helps), repeat=tiers - 1):
                empty = np.array(unused, bool)
                bounds = [(amount * none, amount * helps) for amount, none in zip(read, empty, strict=False)]
                serving = np.append(read[:-1] * ~empty, read[-1] + helps * read[:-1].sum()) + extra > 0
                if case.rules["timing"] == "serial":
                    time = linprog(slope.sum(axis=1), bounds=bounds).fun + load.sum()
                    time += float(serving @ case.latency)
                else:
                    late = (serving * case.latency)[:, None] * case.reads
                    matrix = np.column_stack([slope.T, -np.ones(len(load))])
                    goal = [0] * len(slope) + [1]
                    time = linprog(goal, matrix, -load - late.max(axis=0), bounds=[*bounds, (0, None)]).fun
                best = min(best, time)
        assert found == pytest.approx(best, rel=1e-6, abs=1e-9)


def test_a_latency_of_the_last_tier_is_worth_it_or_not() -> None:
    """35 B at 1 B/s: reading some of them from the copy at 1/4 B/s saves time, unless that waits too long."""
    case, _ = random_case(np.random.default_rng(0), latencies=False)
    reads = np.array([[1, 0], [0, 1]])
    rules = {**case.rules, "copies": "inclusive", "timing": "parallel"}
    read, none = np.array([[35.0, 0.0]]), np.zeros((1, 2))
    for latency, expected in ((0.0, 28.0), (6.0, 29.2), (36.0, 35.0)):
        two = dataclasses.replace(
            case, names=("near", "far"), resources=("a", "b"), bandwidth=np.array([1, 0.25]),
            reads=reads, writes=reads, latency=np.array([0, latency]), capacity=(None, None), rules=rules,
            item_sizes=(1, 1),
        )  # fmt: skip
        assert slot_times(two, read, none, none).tolist() == [pytest.approx(expected)]
        birth = np.array([[0.0, 0.25]])  # which does not wait
        assert slot_times(two, read, none, birth).tolist() == [pytest.approx(min(28.2 + latency / 5, 35))]
