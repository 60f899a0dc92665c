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
from tests.checker.drawn import any_layered, any_multipliers, any_weighted, any_weights, with_room
from tests.checker.layered import Layered
from tests.checker.plain import Plain
from tests.checker.properties import (
    agreed,
    byte_costs_prove_the_optimum,
    pays_for_its_units_until_it_leaves,
    proves_no_more_than,
    starts_where_prefill_first_puts_it,
    takes_and_fills_what_plain_python_says,
    tight,
)
from tests.checker.test_layers_fields import infeasible
from tests.strategies import MOST_BLOCKS, tiny_instance


@pytest.mark.parametrize("seed", range(100))
def test_random_schedules_take_and_fill_what_plain_python_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    case = any_weighted(rng, 6, int(rng.integers(1, 4)), int(rng.integers(2, 4)), initial="free")
    takes_and_fills_what_plain_python_says(rng, case)


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
    starts_where_prefill_first_puts_it(rng, case)


@pytest.mark.parametrize("seed", range(100))
def test_optima_are_accepted_and_no_multipliers_prove_more(seed: int) -> None:
    rng = np.random.default_rng(seed)
    case, optimum = tight(rng, any_weighted(rng, 3, int(rng.integers(1, 3)), 2, chunks=2))
    agreed(case, optimum)
    for _ in range(6):
        whole = {"whole": rng.integers(-1, 12, (case.steps, case.layers))}
        proves_no_more_than(optimum, case, any_multipliers(rng, case) | whole)


@pytest.mark.parametrize("seed", range(60))
def test_what_every_byte_costs_proves_the_optimum_where_that_is_all_that_counts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    layers = int(rng.integers(1, 3))
    byte_costs_prove_the_optimum(any_weighted(rng, 3, layers, 2, chunks=2, timing="serial", initial="free"))


@pytest.mark.parametrize("seed", range(60))
def test_chunks_and_blocks_pay_for_their_units_until_they_leave(seed: int) -> None:
    rng = np.random.default_rng(seed)
    layers = int(rng.integers(1, 4))
    case = any_weighted(rng, 9, layers, 2, initial="prefill-first", migration="none")
    pays_for_its_units_until_it_leaves(case)


def claims(case: Layered) -> dict[str, Any]:
    """A result that says that no schedule exists; its reads count those of chunks."""
    document = infeasible(case)
    plain = Plain(case)
    for step, layer in np.ndindex(case.steps, case.layers):
        chunks = [chunk for chunk in plain.read(step, layer) if chunk < case.first]
        document["instance"]["reads"] += sum(plain.items(layer, chunk) for chunk in chunks)
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
    read = claims(case)["instance"]["reads"] > infeasible(case)["instance"]["reads"]
    assert not read or wrong[0].startswith("instance.reads is claimed to be ")


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
    if result.proof is not None:
        reports["proof"] = kv.check(instance, result.proof)
        assert reports["proof"].problems == ()
    rows, labels = instance.token_trace.arrays, instance.workload.timeline.sequence
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
