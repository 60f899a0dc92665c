"""Where weights may be placed, schedules and bounds agree with plain Python, and with what solvers find."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

import kvbound as kv
from kvbound.checker import check_result
from kvbound.instance import Instance
from kvbound.solvers.reference.brute_force import solve_brute
from tests.checker.layered import Layered
from tests.checker.plain import Placed, Plain
from tests.checker.test_layers_fields import infeasible
from tests.checker.test_layers_random import FULL, agreed, any_layered, any_multipliers, with_room
from tests.strategies import MOST_BLOCKS, tiny_instance


def any_weights(rng: np.random.Generator, sizes: list[int], granularity: int, chunks: int) -> dict[str, Any]:
    """Weights of a few blocks of KV in each layer, in at most so many chunks."""
    blocks = granularity * np.array(sizes)
    reads = (rng.integers(0, 3 * blocks + 1) + rng.choice([0, 0.5], len(sizes))).tolist()
    least = max(-(-int(read) // chunks) + int(block) for read, block in zip(reads, blocks, strict=True))
    limit = {} if rng.random() < 0.3 else {"weight_chunk_bytes": least + int(rng.integers(0, 4))}
    return {
        "weights": math.ceil(sum(reads)) + int(rng.integers(0, 3)), "weight_reads": reads,
        "placement": {"weights": "placeable"} | limit,
    }  # fmt: skip


def any_weighted(
    rng: np.random.Generator, most: int, layers: int, tiers: int, chunks: int = 3, **rules: Any
) -> Layered:
    """Any instance of a few tokens, steps and chunks of weights."""
    while True:
        case = any_layered(rng, most, layers, tiers, **rules)
        sizes = rng.integers(1, 5, layers).tolist()
        same = len(set(sizes)) == 1
        weights = any_weights(rng, sizes, case.rules["granularity"], chunks)
        case = dataclasses.replace(case, sizes=sizes[0] if same else sizes, formats={}, **weights)
        if case.first:
            return case


@pytest.mark.parametrize("seed", range(100))
def test_random_schedules_take_and_fill_what_plain_python_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    case = any_weighted(rng, 6, int(rng.integers(1, 4)), int(rng.integers(2, 4)), initial="free")
    for _ in range(3):
        placed = Plain(case).walk(rng)
        agreed(case, placed)
        agreed(with_room(case, placed.peak_bytes), placed)
        for k, peak in enumerate(placed.peak_bytes):
            if not peak:
                continue
            less = with_room(case, tuple(peak - (k == other) for other, peak in enumerate(placed.peak_bytes)))
            (problem,) = less.checked(placed.arrays).problems
            assert f"tier t{k} holds {peak} bytes, 1 over its capacity" in problem


@pytest.mark.parametrize("seed", range(10))
def test_more_chunks_than_a_word_has_bits(seed: int) -> None:
    """Layers of 70 chunks and of 3: ids of tokens begin at 128 in both."""
    rng = np.random.default_rng(seed)
    case = any_layered(rng, 6, 2, 2, initial="free", granularity=2)
    case = dataclasses.replace(
        case, sizes=[1, 2], formats={}, weight_reads=[2 * 139.0, 4 * 6.0], weights=302,
        placement={"weights": "placeable", "weight_chunk_bytes": 9}, reads=[[[], []] for _ in case.reads],
    )  # fmt: skip
    assert [len(case.chunks(layer)) for layer in (0, 1)] == [35, 3]
    case = dataclasses.replace(case, placement={"weights": "placeable", "weight_chunk_bytes": 4})
    assert [len(case.chunks(layer)) for layer in (0, 1)] == [70, 6]
    assert case.first == 128
    placed = Plain(case).walk(rng)
    agreed(case, placed)
    agreed(with_room(case, placed.peak_bytes), placed)


@pytest.mark.parametrize("seed", range(100))
def test_prefill_first_puts_each_chunk_and_token_where_it_still_fits(seed: int) -> None:
    rng = np.random.default_rng(seed)
    case = any_weighted(rng, 8, int(rng.integers(1, 4)), 3, initial="prefill-first", migration="none")
    whole = Plain(case).walk(rng).peak_bytes
    room = tuple(int(rng.integers(0, peak + 2)) if rng.random() < 0.8 else None for peak in whole)
    case = with_room(case, (*room[:2], None))
    forced = Plain(case).walk(rng).arrays
    assert not any("prefill-first puts" in problem for problem in case.checked(forced).problems)
    free = dataclasses.replace(case, rules=case.rules | {"initial": "free"})
    other = Plain(free).walk(rng).arrays
    plain, differs = Plain(case), other["initial"] != forced["initial"]
    wrong = any(
        differs[layer, plain.starting(layer, block)].any()
        for layer, block in np.ndindex(case.layers, len(plain.blocks))
    )
    assert any("prefill-first puts" in problem for problem in case.checked(other).problems) == wrong


def tight(rng: np.random.Generator, case: Layered) -> tuple[Layered, Placed]:
    """The instance with limits in which a schedule just fits, and its optimum."""
    for _ in range(20):
        first, last = Plain(case).walk(rng).peak_bytes
        limit = None if rng.random() < 0.5 else last + int(rng.integers(-1, 3))
        made = with_room(case, (int(rng.integers(Plain(case).resident, first + 1)), limit))
        optimum = Plain(made).optimum()
        if optimum is not None:
            return made, optimum
    raise AssertionError


@pytest.mark.parametrize("seed", range(100))
def test_optima_are_accepted_and_no_multipliers_prove_more(seed: int) -> None:
    rng = np.random.default_rng(seed)
    case, optimum = tight(rng, any_weighted(rng, 3, int(rng.integers(1, 3)), 2, chunks=2))
    agreed(case, optimum)
    for _ in range(6):
        arrays = any_multipliers(rng, case)
        report = case.checked(arrays | {"whole": rng.integers(-1, 12, (case.steps, case.layers))})
        assert report.problems == ()
        assert report.bound_s is not None
        assert report.bound_s <= optimum.time_s * (1 + 1e-12)


@pytest.mark.parametrize("seed", range(60))
def test_what_every_byte_costs_proves_the_optimum_where_that_is_all_that_counts(seed: int) -> None:
    """With serial timing, room for everything and no latencies, every block minimizes its own time."""
    rng = np.random.default_rng(seed)
    case = any_weighted(rng, 3, int(rng.integers(1, 3)), 2, chunks=2, timing="serial", initial="free")
    case = dataclasses.replace(case, latency=0.0)
    plain, slots = Plain(case), (case.steps, case.layers)
    second = np.array([1 / 4, 1.0])
    prices = np.zeros((6, *slots))
    for layer in range(case.layers):
        cost = second * plain.size[layer]
        served = np.minimum(cost, cost[-1]) if plain.inclusive else cost
        prices[:, :, layer] = np.concatenate([served, cost, cost])[:, None]
    arrays = case.certificate(
        scale=np.int64(40), prices=np.floor(prices * 2.0**40).astype(np.int64),
        theta=np.full((2, 4, *slots), FULL),
    )  # fmt: skip
    optimum = plain.optimum()
    assert optimum is not None
    assert case.checked(arrays).bound_s == pytest.approx(optimum.time_s, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("seed", range(60))
def test_chunks_and_blocks_pay_for_their_units_until_they_leave(seed: int) -> None:
    rng = np.random.default_rng(seed)
    case = any_weighted(rng, 9, int(rng.integers(1, 4)), 2, initial="prefill-first", migration="none")
    case, times = with_room(case, (10**4, None)), 1 + case.steps * case.layers
    plain = Plain(case)
    unit = int(np.gcd.reduce([size[0] for size in plain.size]))
    used = 0
    for layer, last in enumerate(plain.last):
        for block, (begin, end) in enumerate(zip(plain.begin, last, strict=True)):
            leave = times if end == case.steps else max(1 + end * case.layers + layer, 0)
            units = plain.size[layer][0] // unit * plain.chunks[layer].get(block, 1)
            used += units * leave * (begin < 0 <= end)
    capacity = np.zeros((2, times), np.int64)
    capacity[0] = 3
    room = (10**4 - plain.resident) // (unit * case.rules["granularity"])
    free, paid = (
        case.checked(case.certificate(capacity=prices)).bound_s for prices in (0 * capacity, capacity)
    )
    assert free is not None
    assert paid is not None
    assert paid - free == 3 * (used - times * room)


def claims(case: Layered) -> dict[str, Any]:
    """A result that says that no schedule exists; its reads count those of chunks."""
    document = infeasible(case)
    items = sum(sum(case.chunks(layer)) for layer in range(case.layers)) * case.rules["granularity"]
    document["instance"]["reads"] += items * case.steps
    return document


@pytest.mark.parametrize("seed", range(100))
def test_infeasible_is_refused_only_where_a_schedule_exists(seed: int) -> None:
    rng = np.random.default_rng(seed)
    case = any_weighted(rng, 3, int(rng.integers(1, 3)), 2, chunks=2)
    peaks = np.max([Plain(case).walk(rng).peak_bytes for _ in range(4)], axis=0)
    case = with_room(case, tuple(max(int(peak + rng.integers(-4, 5)), 0) for peak in peaks))
    found = check_result(case.expanded, case.rows, claims(case)).problems
    sentence = ("status is 'infeasible', but there is room for the weights and for every block",)
    assert found in ((), sentence)
    assert not found or Plain(case).optimum() is not None
    roomy = with_room(case, (Plain(case).resident, int(sum(peaks)) + case.weights))
    assert check_result(roomy.expanded, roomy.rows, claims(roomy)).problems == sentence
    none = with_room(case, (max(Plain(case).resident - 1, 0), None))
    assert bool(check_result(none.expanded, none.rows, claims(none)).problems) == (not Plain(case).resident)
    wrong = check_result(case.expanded, case.rows, infeasible(case)).problems
    assert wrong[0].startswith("instance.reads is claimed to be ")


def with_weights(rng: np.random.Generator, instance: Instance) -> Instance:
    """The instance with a few chunks of weights in place of resident ones, and other room."""
    layers, size = instance.layers, instance.llm.kv_sizes[0]
    fields = any_weights(rng, [size] * layers, instance.granularity, 2)
    more = {"weights": "placeable", "weight_chunk_bytes": fields["placement"].get("weight_chunk_bytes")}
    llm = dataclasses.replace(
        instance.llm, weight_bytes=fields["weights"], **more,
        weight_read_bytes_per_layer=tuple(fields["weight_reads"]),
    )  # fmt: skip
    *others, last = instance.memory.tiers
    tiers = [
        dataclasses.replace(
            tier, capacity=int(tier.capacity or 0) + int(rng.integers(0, 2 * fields["weights"] + 1))
        )
        for tier in others
    ]
    if last.capacity is not None:
        last = dataclasses.replace(last, capacity=int(last.capacity) + 2 * fields["weights"])
    memory = dataclasses.replace(instance.memory, tiers=(*tiers, last))
    return dataclasses.replace(instance, llm=llm, memory=memory)


@pytest.mark.parametrize("seed", range(40))
def test_what_solvers_find_and_say_is_accepted(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for tiers in (3, 2):
        base = tiny_instance(rng, tiers=tiers, layers=1, batch=bool(rng.integers(2)))
        instance = with_weights(rng, base)
        found = [kv.solve(instance, "exact", gap=1e-7), kv.solve(instance, "dual", work=50)]
        if base.blocks + instance.chunks.blocks.size <= MOST_BLOCKS[tiers]:
            found.append(solve_brute(instance))
        found += [kv.solve(instance, "anneal", work=50)]
        policies = ["lru", "belady", "llamacpp-nkvo"] + ["llamacpp-ngl"] * (tiers == 2)
        found += [kv.simulate(instance, policy) for policy in policies]
        for result in found:
            verified(instance, result)
        times = [result.time_s or math.inf for result in found if result.method in ("exact", "brute")]
        assert times == pytest.approx(times[:1] * len(times), rel=1e-6)


def verified(instance: Instance, result: kv.Result) -> None:
    """Have a result, its schedule and its certificate checked."""
    reports: dict[str, Any] = {}
    if result.placement is not None:
        reports["schedule"] = kv.check(instance, result.placement, claimed_s=result.time_s)
        assert reports["schedule"].problems == ()
    if result.certificate is not None:
        reports["certificate"] = kv.check(instance, result.certificate)
        assert reports["certificate"].problems == ()
        assert reports["certificate"].bound_s == pytest.approx(result.certificate.bound_s, rel=1e-9)
    rows, labels = instance.token_trace.rows, instance.workload.timeline.sequence
    document = result.to_json()
    found = check_result(instance.expanded(), rows, document, labels=labels, **reports)
    assert found.problems == ()
    if result.placement is None:
        return
    document["hit_rate_with_weights"] *= 1.1
    document["peak_bytes"] = {name: 1 + count for name, count in document["peak_bytes"].items()}
    document["instance"]["prefill_tokens"] += 64
    found = check_result(instance.expanded(), rows, document, labels=labels, **reports)
    wrong = {problem.split(" is ")[0] for problem in found.problems}
    peaks = {f"peak_bytes.{tier.name}" for tier in instance.memory.tiers}
    rate = {"hit_rate_with_weights"} if document["hit_rate_with_weights"] else set()
    assert wrong == {"instance.prefill_tokens"} | peaks | rate
