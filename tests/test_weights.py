"""Weights as items: chunks, what stays resident, and their optimal place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import kvbound as kv
from kvbound.errors import InfeasibleError, InputError
from kvbound.instance import Instance
from kvbound.instance_io import make_instance
from kvbound.solvers.reference.brute_force import solve_brute
from tests.strategies import tiny_instance, with_placeable_weights

MEMORY: dict[str, Any] = {
    "name": "toy",
    "resources": {"fast": 4.0, "slow": 2.0},
    "tiers": [
        {"name": "hbm", "capacity": 5, "reads": ["fast"], "writes": ["fast"]},
        {"name": "ddr", "capacity": None, "reads": ["slow"], "writes": ["slow"]},
    ],
}
LLM: dict[str, Any] = {
    "name": "toy", "layers": 1, "kv_bytes_per_token_layer": 2, "weight_bytes": 5,
    "weight_read_bytes_per_layer": 5, "weights": "placeable",
}  # fmt: skip


def toy(memory: dict[str, Any] | None = None, rules: Any = None, reads: Any = None, **llm: Any) -> Instance:
    trace = {"prefill_tokens": 0, "reads": reads or [[[]] * llm.get("layers", 1)]}
    return make_instance("toy", memory=memory or MEMORY, llm=LLM | llm, trace=trace, rules=rules)


def test_weights_are_whole_blocks_and_the_rest_stays_resident() -> None:
    instance = toy()
    assert instance.chunks.blocks.tolist() == [[2]]  # 4 of 5 bytes
    assert (instance.resident_bytes, instance.weight_reads.tolist()) == (1, [1])
    assert instance.capacity_units == (2, None)
    chunked = toy(weight_chunk_bytes=2, weight_read_bytes_per_layer=8, weight_bytes=10)
    assert chunked.chunks.blocks.tolist() == [[1, 1, 1, 1]]
    assert chunked.resident_bytes == 2
    smaller = toy(weight_chunk_bytes=6, weight_read_bytes_per_layer=8, weight_bytes=8)
    assert smaller.chunks.blocks.tolist() == [[3, 1]]
    coarse = toy(rules={"granularity": 2}, weight_read_bytes_per_layer=11, weight_bytes=11)
    assert (coarse.chunks.blocks.tolist(), coarse.resident_bytes) == ([[2]], 3)
    layers = toy(layers=2, weight_read_bytes_per_layer=[2, 7], weight_bytes=9, weight_chunk_bytes=4)
    assert layers.chunks.blocks.tolist() == [[1, 0], [2, 1]]


def test_the_optimum_by_hand() -> None:
    """The chunk is in both tiers: 5 - u bytes over 4, a birth of 2 and u over 2: 7/6 s for u = 1/3."""
    for method in ("exact", "brute", "anneal"):
        found = kv.solve(toy(), method)
        assert found.time_s == pytest.approx(7 / 6)
    assert kv.simulate(toy(), "lru").time_s == pytest.approx(7 / 6)
    assert toy().read_counts().tolist() == [[2]]


def test_resident_weights_and_their_hashes_stay_as_they_are() -> None:
    resident = toy(weights="resident")
    assert "weights" not in resident.expanded()["llm"]
    assert resident.chunks.ids == 0
    assert resident.trace is resident.token_trace
    hashes = {
        toy(**llm).sha256
        for llm in ({}, {"weights": "resident"}, {"weight_chunk_bytes": 2}, {"weight_chunk_bytes": 4})
    }
    assert len(hashes) == 4


def test_with_everything_in_tier_0_it_makes_no_difference_where_weights_may_be() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        instance = with_placeable_weights(
            rng, tiny_instance(rng, tiers=2, copies="exclusive", migration="none")
        )
        first = instance.memory.tiers[0]
        largest = int(first.capacity or 0) + 10**6
        memory = {
            "name": "one",
            "resources": dict(instance.memory.resources),
            "tiers": [
                {"name": "a", "capacity": largest, "reads": list(first.reads), "writes": list(first.writes)},
                {"name": "b", "capacity": 0, "reads": list(first.reads), "writes": list(first.writes)},
            ],
        }
        parts: dict[str, Any] = {"memory": memory, "trace": instance.workload, "rules": instance.rules}
        llm = instance.llm.to_mapping()
        placed = make_instance("x", llm=llm, **parts)
        resident = make_instance("x", llm=llm | {"weights": "resident", "weight_chunk_bytes": None}, **parts)
        assert kv.simulate(placed, "lru").time_s == pytest.approx(kv.simulate(resident, "lru").time_s)


@pytest.mark.parametrize(
    ("llm", "rules", "expected"),
    [
        ({"weights": "elsewhere"}, None, "weights: expected one of 'resident', 'placeable'"),
        ({"weight_chunk_bytes": 0}, None, "weight_chunk_bytes: expected 1 to"),
        ({"weight_bytes": 3}, None, "weight_bytes: expected at least the 4 bytes that all layers read"),
        (
            {"weight_read_bytes_per_layer": 10**5, "weight_bytes": 10**6, "weight_chunk_bytes": 2},
            None,
            "4,096 chunks",
        ),
        (
            {"layers": 2, "kv_bytes_per_token_layer": [2, 0], "weight_bytes": 50},
            None,
            "weights: expected 'resident', as some layers keep no KV",
        ),
        ({}, {"accounting": "fang2025"}, "llm.weights: expected 'resident' under accounting fang2025"),
    ],
)
def test_what_does_not_go_with_placeable_weights(llm: Any, rules: Any, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        toy(rules=rules, **llm)


def test_formats_do_not_go_with_placeable_weights() -> None:
    trace = {"prefill_tokens": 0, "reads": [[[]]]}
    with pytest.raises(InputError, match="formats: expected none with placeable weights"):
        make_instance("x", memory=MEMORY, llm=LLM, trace=trace, formats={"ddr": {"bytes": 1}})


def test_weights_that_fit_nowhere_are_infeasible() -> None:
    tiers = [MEMORY["tiers"][0], MEMORY["tiers"][1] | {"capacity": 5}]
    full = toy(memory=MEMORY | {"tiers": tiers}, weight_read_bytes_per_layer=9, weight_bytes=9)
    with pytest.raises(InfeasibleError):
        _ = full.capacity_units
    assert solve_brute(full).status == "infeasible"
    assert kv.simulate(full, "lru").status == "infeasible"


def test_files_tell_where_weights_may_be(tmp_path: Any) -> None:
    instance = toy(weight_chunk_bytes=2)
    kv.write_instance(instance, tmp_path / "toy.json")
    again = kv.read_instance(tmp_path / "toy.json")
    assert again.sha256 == instance.sha256
    assert again.chunks.blocks.tolist() == [[1, 1]]
