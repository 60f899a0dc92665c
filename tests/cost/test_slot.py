"""Slot times by facets, against the primal split, hand calculations and large cases."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import linprog

import kvbound as kv
from kvbound.cost.ideal_cases import ideal_cases
from kvbound.cost.slot import SlotCost
from kvbound.memory import Memory, Tier
from kvbound.rules import Copies, Rules, Timing
from tests.strategies import tiny_instance, tiny_memory

Floats = NDArray[np.float64]

GH200 = Memory(
    "gh200",
    {"hbm": 4900e9, "c2c_down": 450e9, "c2c_up": 450e9, "lpddr": 500e9},
    (
        Tier("hbm", 144e9, ("hbm",), ("hbm",)),
        Tier("lpddr", None, ("c2c_down", "lpddr"), ("c2c_up", "lpddr")),
    ),
)
seeds = st.integers(0, 2**32 - 1)


def memory_without_latency(rng: np.random.Generator, tiers: int) -> Memory:
    memory = tiny_memory(rng, tiers, 8, 4, 0)
    return dataclasses.replace(memory, tiers=tuple(dataclasses.replace(t, latency=0.0) for t in memory.tiers))


def shared_memory(rng: np.random.Generator, tiers: int, resources: int) -> Memory:
    """Random tiers, each of which may load any resources."""
    names = [f"r{n}" for n in range(resources)]

    def some() -> tuple[str, ...]:
        drawn = tuple(name for name in names if rng.random() < 0.3)
        return drawn or (names[int(rng.integers(resources))],)

    rates = {name: float(rng.choice([1, 2, 3, 7, 64, 450, 4900])) for name in names}
    made = (Tier(f"t{k}", None if k == tiers - 1 else 1e9, some(), some()) for k in range(tiers))
    return Memory("shared", rates, tuple(made))


def linked_memory(tiers: int) -> Memory:
    """A bus for each tier and, except for the first, a link with two directions."""
    resources, made = {"bus0": 10.0}, [Tier("t0", 3.0, ("bus0",), ("bus0",))]
    for k in range(1, tiers):
        resources |= {f"bus{k}": 10 / (k + 1), f"down{k}": 5 / k, f"up{k}": 4 / k}
        room = None if k == tiers - 1 else 3.0
        made.append(Tier(f"t{k}", room, (f"bus{k}", f"down{k}"), (f"bus{k}", f"up{k}")))
    return Memory("linked", resources, tuple(made))


def draw_bytes(rng: np.random.Generator, tiers: int, size: int = 1) -> Floats:
    """Random byte counts (size, 3K), many of them zero."""
    counts = rng.integers(0, 50, (size, 3 * tiers)) * (rng.random((size, 3 * tiers)) < 0.7)
    return counts.astype(np.float64)


def loads(memory: Memory, read: Floats, written: Floats) -> Floats:
    """Seconds that each resource is busy."""
    busy: Floats = np.divide(read @ memory.read_load + written @ memory.write_load, memory.bandwidths)
    return busy


def least_time(memory: Memory, q: Floats) -> float:
    """The optimum of the primal: how many bytes of each tier's reads the last one serves."""
    n, e, z = q.reshape(3, -1)
    fixed = loads(memory, n + e, z)
    scale = fixed.max() or 1.0
    divert = (memory.read_load[-1] - memory.read_load[:-1]) * n[:-1, None] / memory.bandwidths / scale
    rows = np.column_stack([divert.T, -np.ones(len(fixed))])
    cost = np.eye(len(n))[-1]
    bounds: Any = [(0, 1)] * (len(n) - 1) + [(0, None)]
    found = linprog(cost, A_ub=rows, b_ub=-fixed / scale, bounds=bounds, method="highs")
    assert found.fun is not None
    return float(found.fun) * float(scale)


@given(seeds, st.integers(2, 5))
@settings(max_examples=60, deadline=None)
def test_inclusive_time_is_the_best_split(seed: int, tiers: int) -> None:
    rng = np.random.default_rng(seed)
    memory = memory_without_latency(rng, tiers)
    cost = SlotCost(memory, Rules(copies=Copies.INCLUSIVE))
    q = draw_bytes(rng, tiers, 4)
    assert cost.times(q) == pytest.approx([least_time(memory, one) for one in q], rel=1e-7, abs=1e-12)


@given(seeds, st.integers(2, 8), st.integers(1, 14))
@settings(max_examples=60, deadline=None)
def test_inclusive_time_is_the_best_split_with_many_tiers_and_shared_resources(
    seed: int, tiers: int, resources: int
) -> None:
    rng = np.random.default_rng(seed)
    memory, q = shared_memory(rng, tiers, resources), draw_bytes(rng, tiers, 4)
    inclusive, exclusive = (SlotCost(memory, Rules(copies=copies)) for copies in Copies)
    assert inclusive.times(q) == pytest.approx([least_time(memory, one) for one in q], rel=1e-7, abs=1e-12)
    n, e, z = q.reshape(4, 3, tiers).swapaxes(0, 1)
    np.testing.assert_allclose(exclusive.times(q), loads(memory, n + e, z).max(axis=1), rtol=1e-13)


def test_eight_tiers_behind_links() -> None:
    rng = np.random.default_rng(0)
    memory, q = linked_memory(8), draw_bytes(rng, 8, 6)
    cost = SlotCost(memory, Rules())
    assert len(cost.facets) < 2500
    assert cost.times(q) == pytest.approx([least_time(memory, one) for one in q], rel=1e-7)
    np.testing.assert_array_equal(cost.times(np.tile(q, (6000, 1))), np.tile(cost.times(q), 6000))


@given(seeds, st.integers(2, 6), st.sampled_from(Copies))
def test_facets_are_priced_by_their_weights(seed: int, tiers: int, copies: Copies) -> None:
    rng = np.random.default_rng(seed)
    cost = SlotCost(shared_memory(rng, tiers, 6), Rules(copies=copies))
    np.testing.assert_allclose(cost.facet_weights.sum(axis=1), 1, rtol=1e-12)
    assert cost.facet_weights.min() >= 0
    priced = cost.facet_weights @ np.vstack([cost.read_costs, cost.write_costs]).T
    np.testing.assert_allclose(cost.facets[:, tiers:], priced, rtol=1e-12)


@given(seeds, st.integers(2, 5))
def test_exclusive_time_is_the_busiest_resource(seed: int, tiers: int) -> None:
    rng = np.random.default_rng(seed)
    memory = memory_without_latency(rng, tiers)
    q = draw_bytes(rng, tiers, 4)
    n, e, z = q.reshape(4, 3, tiers).swapaxes(0, 1)
    cost = SlotCost(memory, Rules(copies=Copies.EXCLUSIVE))
    np.testing.assert_allclose(cost.times(q), loads(memory, n + e, z).max(axis=1), rtol=1e-13)


@given(seeds, st.integers(2, 5), st.sampled_from(Copies))
def test_serial_time_is_the_sum(seed: int, tiers: int, copies: Copies) -> None:
    rng = np.random.default_rng(seed)
    memory = memory_without_latency(rng, tiers)
    q = draw_bytes(rng, tiers, 4)
    n, e, z = q.reshape(4, 3, tiers).swapaxes(0, 1)
    per_read = (memory.read_load / memory.bandwidths).sum(axis=1)
    per_hit = np.minimum(per_read, per_read[-1]) if copies is Copies.INCLUSIVE else per_read
    expected = n @ per_hit + loads(memory, e, z).sum(axis=1)
    cost = SlotCost(memory, Rules(copies=copies, timing=Timing.SERIAL))
    assert len(cost.facets) == 1
    np.testing.assert_allclose(cost.times(q), expected, rtol=1e-13)


def test_gh200_by_hand() -> None:
    """Columns: hits, misses; weights and moves from HBM, from LPDDR; writes to HBM, to LPDDR."""
    hbm, down, up, lpddr = GH200.resources.values()
    expected = [
        np.array([0, 0, 1, 0, 1, 0]) / hbm,
        np.array([0, 1, 0, 1, 0, 0]) / down,
        np.array([0, 0, 0, 0, 0, 1]) / up,
        np.array([0, 1, 0, 1, 0, 1]) / lpddr,
        np.array([1, 1, 1, 1, 1, 0]) / (hbm + down),
        np.array([1, 1, 1, 1, 1, 1]) / (hbm + lpddr),
    ]
    found = SlotCost(GH200, Rules()).facets
    assert len(found) == len(expected)
    for row in expected:
        assert np.isclose(found, row, rtol=1e-12, atol=0).all(axis=1).any(), row


@given(seeds, st.integers(2, 4), st.sampled_from(Copies), st.sampled_from(Timing))
def test_time_is_a_norm_of_the_bytes(seed: int, tiers: int, copies: Copies, timing: Timing) -> None:
    """Monotone, homogeneous and subadditive in the bytes."""
    rng = np.random.default_rng(seed)
    cost = SlotCost(memory_without_latency(rng, tiers), Rules(copies=copies, timing=timing))
    one, other = draw_bytes(rng, tiers, 2)
    together = float(cost.times(one + other))
    assert together >= max(cost.times(one), cost.times(other)) * (1 - 1e-12)
    assert together <= (cost.times(one) + cost.times(other)) * (1 + 1e-12)
    assert float(cost.times(2 * one)) == 2 * float(cost.times(one))


@given(seeds, st.integers(2, 4), st.sampled_from(Copies), st.sampled_from(Timing))
def test_bandwidth_scales_time(seed: int, tiers: int, copies: Copies, timing: Timing) -> None:
    rng = np.random.default_rng(seed)
    memory = memory_without_latency(rng, tiers)
    faster = dataclasses.replace(memory, resources={n: 8 * b for n, b in memory.resources.items()})
    rules, q = Rules(copies=copies, timing=timing), draw_bytes(rng, tiers, 4)
    slow, fast = SlotCost(memory, rules).times(q), SlotCost(faster, rules).times(q)
    np.testing.assert_allclose(slow, 8 * fast, rtol=1e-13)


@given(seeds, st.sampled_from(Timing))
def test_latency_of_two_tiers_by_trying_every_split(seed: int, timing: Timing) -> None:
    """The best diversion is none, all, or one that makes two resources equally busy."""
    rng = np.random.default_rng(seed)
    memory = memory_without_latency(rng, 2)
    latency = rng.choice([0.0, 0.5, 3.0, 40.0], 2)
    tiers = tuple(
        dataclasses.replace(t, latency=float(x)) for t, x in zip(memory.tiers, latency, strict=True)
    )
    memory = dataclasses.replace(memory, tiers=tiers)
    q = draw_bytes(rng, 2)[0]
    q[1::2] *= rng.random() < 0.5  # nothing in the last tier, not even births: only diverted reads touch it
    n, e, z = q.reshape(3, 2)
    before = loads(memory, n + e, z)
    slope = (memory.read_load[1] - memory.read_load[0]) / memory.bandwidths
    both = (latency[:, None] * memory.read_load).max(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        crossings = ((before + both - (before + both)[:, None]) / (slope[:, None] - slope)).ravel()
    tried = []
    for diverted in [0.0, n[0], *crossings[(crossings > 0) & (crossings < n[0])]]:
        busy = before + diverted * slope
        serving = np.array([n[0] - diverted + e[0] > 0, n[1] + diverted + e[1] > 0])
        late = ((serving * latency)[:, None] * memory.read_load).max(axis=0)
        serial = busy.sum() + serving @ latency
        tried.append((busy + late).max() if timing is Timing.PARALLEL else serial)
    assert float(SlotCost(memory, Rules(timing=timing)).times(q)) == pytest.approx(min(tried), rel=1e-12)


def test_a_tier_is_not_read_while_its_latency_outweighs_the_split() -> None:
    tiers = (Tier("near", 1e9, ("near",), ("near",), 5.0), Tier("far", None, ("far",), ("far",)))
    cost = SlotCost(Memory("m", {"near": 2.0, "far": 1.0}, tiers), Rules())
    # 8 bytes and a written one: near reads 8/3 after 5 s, far the others at the same time
    assert float(cost.times(np.array([8.0, 0, 0, 0, 0, 1]))) == pytest.approx(19 / 3)
    assert float(cost.times(np.array([2.0, 0, 0, 0, 0, 1]))) == pytest.approx(3.0)


@given(seeds, st.integers(2, 4), st.sampled_from(Copies), st.sampled_from(Timing))
def test_no_placement_beats_the_ideal(seed: int, tiers: int, copies: Copies, timing: Timing) -> None:
    rng = np.random.default_rng(seed)
    cost = SlotCost(memory_without_latency(rng, tiers), Rules(copies=copies, timing=timing))
    q = draw_bytes(rng, tiers)[0]
    reads, birth = q[:tiers].sum(), 3.0
    q[2 * tiers + rng.integers(tiers)] += birth
    least = np.zeros(3 * tiers)
    least[0], least[tiers] = reads, q[tiers]
    if copies is Copies.INCLUSIVE:
        q[-1] += birth
        least[-1] = birth
    else:
        least[2 * tiers] = birth
    assert (ideal_cases(cost)[0].rows @ least).max() <= float(cost.times(q)) * (1 + 1e-12)


@given(seeds, st.integers(2, 8), st.sampled_from(Copies))
@settings(max_examples=60, deadline=None)
def test_the_ideal_splits_reads_and_births_over_all_tiers(seed: int, tiers: int, copies: Copies) -> None:
    rng = np.random.default_rng(seed)
    memory = shared_memory(rng, tiers, int(rng.integers(1, 12)))
    reads, weights, birth = (float(amount) for amount in rng.integers(1, 50, 3))
    q = np.zeros(3 * tiers)
    q[0], q[tiers] = reads, weights
    q[-1 if copies is Copies.INCLUSIVE else 2 * tiers] = birth
    # the primal: shares of the reads, and of an exclusive birth, by tier
    read = memory.read_load * reads / memory.bandwidths[None]
    write = memory.write_load * birth / memory.bandwidths[None]
    fixed = memory.read_load[0] * weights / memory.bandwidths
    if copies is Copies.INCLUSIVE:
        fixed, write = fixed + write[-1], 0 * write
    rows = np.hstack([read.T, write.T, -np.ones((len(fixed), 1))])
    sums = np.zeros((2, 2 * tiers + 1))
    sums[0, :tiers] = sums[1, tiers : 2 * tiers] = 1
    found = linprog(np.eye(2 * tiers + 1)[-1], A_ub=rows, b_ub=-fixed, A_eq=sums, b_eq=[1, 1], method="highs")
    assert found.fun is not None
    cost = SlotCost(memory, Rules(copies=copies))
    assert float((ideal_cases(cost)[0].rows @ q).max()) == pytest.approx(float(found.fun), rel=1e-7)


def test_the_ideal_splits_exclusive_births_whose_paths_no_read_uses() -> None:
    tiers = (Tier("near", 1e9, ("r0",), ("w0",)), Tier("far", None, ("r1",), ("w1",)))
    cost = SlotCost(Memory("m", {"r0": 3, "r1": 1, "w0": 4, "w1": 2}, tiers), Rules(copies=Copies.EXCLUSIVE))
    # 8 bytes read at 3 + 1 byte/s, 18 bytes written at 4 + 2 bytes/s
    assert float((ideal_cases(cost)[0].rows @ np.array([8.0, 0, 0, 0, 18, 0])).max()) == pytest.approx(3)
    assert float((ideal_cases(cost)[0].rows @ np.array([16.0, 0, 0, 0, 18, 0])).max()) == pytest.approx(4)


@given(seeds, st.integers(2, 8), st.sampled_from(Copies), st.sampled_from(Timing))
@settings(deadline=None)
def test_busy_times_add_up_to_the_slot_time(seed: int, tiers: int, copies: Copies, timing: Timing) -> None:
    """Parallel: the maximum over resources is the time; serial: their sum is."""
    rng = np.random.default_rng(seed)
    cost = SlotCost(shared_memory(rng, tiers, 8), Rules(copies=copies, timing=timing))
    q = draw_bytes(rng, tiers, 12).reshape(3, 4, 3 * tiers)
    busy = cost.busy(q)
    assert busy.shape == (3, 4, 8)
    assert busy.min() >= 0
    spent = busy.max(axis=-1) if timing is Timing.PARALLEL else busy.sum(axis=-1)
    np.testing.assert_allclose(spent, cost.times(q), rtol=1e-12)


@given(seeds)
def test_with_two_tiers_the_split_of_least_time_has_least_work(seed: int) -> None:
    rng = np.random.default_rng(seed)
    memory, q = shared_memory(rng, 2, 5), draw_bytes(rng, 2)[0]
    cost = SlotCost(memory, Rules())
    n, e, z = q.reshape(3, 2)
    before, slope = loads(memory, n + e, z), (memory.read_load[1] - memory.read_load[0]) / memory.bandwidths
    # the least work is at an end of what may be diverted: nothing, all, or what one resource allows
    with np.errstate(divide="ignore", invalid="ignore"):
        ends = np.concatenate([[0, n[0]], (float(cost.times(q)) - before) / slope])
    ends = ends[(ends >= 0) & (ends <= n[0])]
    busy = before + ends[:, None] * slope
    fastest = busy.max(axis=1) <= float(cost.times(q)) * (1 + 1e-12)
    assert float(cost.busy(q).sum()) == pytest.approx(busy[fastest].sum(axis=1).min(), rel=1e-9)


def test_a_tier_not_read_for_its_latency_is_not_busy() -> None:
    tiers = (Tier("near", 1e9, ("near",), ("near",), 5.0), Tier("far", None, ("far",), ("far",)))
    cost = SlotCost(Memory("m", {"near": 2.0, "far": 1.0}, tiers), Rules())
    few, many = np.array([2.0, 0, 0, 0, 0, 1]), np.array([80.0, 0, 0, 0, 0, 1])
    np.testing.assert_allclose(cost.busy(few), [0, 3])
    np.testing.assert_allclose(cost.busy(many), [76 / 3, 76 / 3 + 5])


@pytest.mark.parametrize("timing", Timing)
def test_with_two_inclusive_tiers_the_ideal_is_everything_in_the_first(timing: Timing) -> None:
    cost = SlotCost(GH200, Rules(timing=timing))
    q = np.array([4e9, 0, 1e8, 0, 0, 16384])
    assert (ideal_cases(cost)[0].rows @ q).max() == pytest.approx(float(cost.times(q)), rel=1e-12)


def test_no_facet_is_lost_at_extreme_ratios_of_bandwidths() -> None:
    """Seven tiers from 8 TB/s to 1 B/s, all of which the best split uses."""
    rates = [8e12, 450e9, 7e9, 1e8, 1e6, 1e3, 1.0]
    names = [f"t{k}" for k in range(len(rates))]
    tiers = tuple(Tier(name, None if name == "t6" else 1e9, (name,), (name,)) for name in names)
    memory = Memory("wide", dict(zip(names, rates, strict=True)), tiers)
    cost = SlotCost(memory, Rules())
    # the reads of each upper tier take 1 s or 2 s, slightly less if the last tier serves some
    for busy in np.vstack([np.ones(6), 2 * np.eye(6)]):
        q = np.concatenate([busy * rates[:6], np.zeros(15)])
        helped = np.array(rates) * (np.append(busy, 1) > 0)
        assert float(cost.times(q)) == pytest.approx(q.sum() / helped.sum(), rel=1e-12)


def test_unused_resources_and_tiers_with_the_same_resources() -> None:
    tiers = (Tier("a", 1.0, ("bus",), ("bus",)), Tier("b", None, ("bus",), ("bus",)))
    cost = SlotCost(Memory("m", {"bus": 2.0, "idle": 1.0}, tiers), Rules())
    np.testing.assert_allclose(cost.facets, np.full((1, 6), 0.5))
    alone = SlotCost(Memory("m", {"bus": 2.0}, tiers), Rules())
    np.testing.assert_allclose(alone.facets, np.full((1, 6), 0.5))


def test_of_takes_memory_and_rules_of_an_instance() -> None:
    instance = tiny_instance(np.random.default_rng(0))
    cost = SlotCost.of(instance)
    assert (cost.memory, cost.rules, cost.tiers) == (instance.memory, instance.rules, instance.tiers)


@pytest.mark.parametrize("name", ["tiny-three", "tiny-latency", "tiny-exclusive"])
def test_traffic_costed_in_parts_is_costed_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    instance = kv.read_instance(name)
    cost = SlotCost.of(instance)
    rng = np.random.default_rng(0)
    traffic = np.floor(rng.random((5, 3, 3 * instance.tiers)) * 100)
    whole = [cost.times(traffic), cost.split(traffic), cost.busy(traffic)]
    slot = cost.times(traffic[0, 0])
    monkeypatch.setattr("kvbound.cost.slot._MOST", 1)
    assert np.array_equal(cost.times(traffic[0, 0]), slot)
    parts = [cost.times(traffic), cost.split(traffic), cost.busy(traffic)]
    for found, expected in zip(parts, whole, strict=True):
        assert np.array_equal(found, expected)
