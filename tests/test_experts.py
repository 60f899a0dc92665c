"""Experts as chunks of weights: their sizes, what slots read of them, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kvbound as kv
from kvbound.errors import InputError
from kvbound.instance import Instance
from kvbound.instance_io import from_mapping, make_instance, write_expanded
from kvbound.llm.model import Llm
from kvbound.reading import read_json
from kvbound.report.instance import figures
from kvbound.solvers.reference.brute_force import solve_brute
from kvbound.trace.experts import from_lists
from kvbound.weight_placement import without_weights
from tests.strategies import tiny_instance, with_experts, with_placeable_weights
from tests.test_weights import LLM, MEMORY

MIXTURE: dict[str, Any] = LLM | {
    "weight_bytes": 30, "weight_read_bytes_per_layer": 10, "experts": 4, "expert_bytes": 5,
    "experts_read": 1,
}  # fmt: skip
NAMED = [[[1]], [[1, 3]], [[]]]


def toy(named: Any = NAMED, rules: Any = None, layers: int = 1, **llm: Any) -> Instance:
    """An instance whose slots name these experts, and whose first tier has room for 12 bytes."""
    steps = 3 if named is None else len(named)
    trace = {"prefill_tokens": 0, "reads": [[[]] * layers] * steps}
    experts = {} if named is None else {"experts": named}
    mixture = MIXTURE | {"layers": layers} | llm
    memory = MEMORY | {"tiers": [MEMORY["tiers"][0] | {"capacity": 22}, MEMORY["tiers"][1]]}
    return make_instance("toy", memory=memory, llm=mixture, trace=trace | experts, rules=rules)


def test_experts_are_whole_blocks_and_what_is_left_is_read_as_often_as_the_model_says() -> None:
    instance = toy()
    assert instance.chunks.blocks.tolist() == [
        [2, 2, 2, 2, 2]
    ]  # 4 of the other 5 bytes, 4 of 5 in each expert
    assert instance.chunks.experts.tolist() == [4]
    assert instance.weight_reads.tolist() == [10 - 4 - 4]
    assert instance.resident_bytes == 30 - 5 * 4
    assert instance.read_counts().tolist() == [[4], [6], [2]]
    assert instance.trace.reads(1, 0).tolist() == [0, 2, 4]
    mean = toy(experts_read=0.5)
    assert mean.chunks.blocks.tolist() == [[3, 2, 2, 2, 2]]
    assert mean.weight_reads.tolist() == [10 - 6 - 2]
    none = toy(experts_read=0, weight_chunk_bytes=4, weight_bytes=31)
    assert none.chunks.blocks.tolist() == [[2, 2, 1, 2, 2, 2, 2]]
    coarse = toy(rules={"granularity": 3})
    assert coarse.chunks.ids == 0  # neither 5 bytes nor an expert make up a block of 6
    assert (coarse.weight_reads.tolist(), coarse.resident_bytes) == ([10], 30)


def test_layers_may_have_other_experts_or_none() -> None:
    instance = toy(
        [[[], [2]], [[0], [0, 2]]], layers=2, experts=[1, 3], expert_bytes=[2, 6], weight_bytes=40,
        weight_read_bytes_per_layer=[2, 6],
    )  # fmt: skip
    assert instance.chunks.blocks.tolist() == [[1, 0, 0], [3, 3, 3]]
    assert instance.read_counts().tolist() == [[0, 3], [1, 6]]
    dense = toy([[[], [2]]], layers=2, experts=[0, 3], expert_bytes=6, weight_bytes=40)
    assert dense.chunks.blocks.tolist() == [[5, 0, 0, 0], [2, 3, 3, 3]]
    assert dense.llm.expert_sizes == (0, 6)


def test_the_optimum_by_hand() -> None:
    """Exclusive copies, single bytes of KV in a fast tier with room for one expert of two.

    4 B/s and 2 B/s side by side; in every step one expert of 4 bytes is read, and 2 bytes are born.
    """
    memory = MEMORY | {"tiers": [MEMORY["tiers"][0] | {"capacity": 4}, MEMORY["tiers"][1]]}
    llm = LLM | {"weight_bytes": 8, "weight_read_bytes_per_layer": 0, "experts": 2, "expert_bytes": 4}
    rules = {"copies": "exclusive", "migration": "none", "timing": "serial"}
    trace = {"prefill_tokens": 0, "reads": [[[]]] * 3, "experts": [[[0]], [[1]], [[1]]], "births": 0}
    trace |= {"prefill_tokens": 1}
    instance = make_instance("toy", memory=memory, llm=llm, trace=trace, rules=rules)
    for method in ("exact", "brute"):  # expert 1 is fast, twice a second, and expert 0 slow, two seconds
        assert kv.solve(instance, method).time_s == pytest.approx(1 + 1 + 2)
    moving = make_instance("toy", memory=memory, llm=llm, trace=trace, rules=rules | {"migration": "on-read"})
    assert kv.solve(moving, "exact").time_s == pytest.approx(4)  # a swap would write 8 bytes
    fast = memory | {"resources": {"fast": 400.0, "slow": 2.0}}
    three = trace | {"experts": [[[0]], [[1]], [[1]], [[1]]], "reads": [[[]]] * 4}
    swapped = make_instance("toy", memory=fast, llm=llm, trace=three, rules=rules | {"migration": "on-read"})
    assert kv.solve(swapped, "exact").time_s == pytest.approx(2 + 3 * 0.01)


def test_they_only_describe_the_model_unless_the_trace_names_them() -> None:
    plain, described = toy(None, experts=0, expert_bytes=0, experts_read=0), toy(None)
    assert described.sha256 == plain.sha256
    assert described.expanded() == plain.expanded()
    assert described.chunks.blocks.tolist() == [[5]]
    resident: dict[str, Any] = {"weights": "resident"}
    assert (
        toy(None, **resident).sha256
        == toy(None, **resident, experts=0, expert_bytes=0, experts_read=0).sha256
    )
    expanded = toy().expanded()
    assert expanded["llm"] | {"experts": [4], "expert_bytes": [5], "experts_read": 1} == expanded["llm"]
    assert len(expanded["trace"]["experts_sha256"]) == 1
    hashes = {
        each.sha256
        for each in (
            plain,
            toy(),
            toy([*NAMED[:2], [[0]]]),
            toy(experts=5, weight_bytes=35),
            toy(experts_read=0),
        )
    }
    assert len(hashes) == 5


def test_naming_all_experts_in_every_slot_is_to_read_them_as_other_chunks() -> None:
    rng = np.random.default_rng(0)
    for number in range(24):
        base = tiny_instance(rng, layers=1, tiers=2 + number % 2, batch=bool(rng.integers(2)))
        block = base.granularity * base.llm.kv_sizes[0]
        count, size, other = 2, block * int(rng.integers(1, 3)), block * int(rng.integers(0, 2))
        read = float(count * size + other)
        llm = dataclasses.replace(
            base.llm, weights="placeable", weight_chunk_bytes=size,
            weight_bytes=base.llm.weight_bytes + int(read),
            weight_read_bytes_per_layer=(read,), experts=count, expert_bytes=size, experts_read=float(count),
        )  # fmt: skip
        *others, last = base.memory.tiers
        room = None if last.capacity is None else last.capacity + 2 * int(read)
        memory = dataclasses.replace(base.memory, tiers=(*others, dataclasses.replace(last, capacity=room)))
        plain = dataclasses.replace(base, llm=llm, memory=memory)
        everything = [[list(range(count))]] * base.decode_steps
        named = from_lists(everything, base.decode_steps, 1, "trace")
        routed = dataclasses.replace(plain, workload=dataclasses.replace(base.token_trace, experts=named))
        assert routed.read_counts().tolist() == plain.read_counts().tolist()
        assert routed.weight_reads.tolist() == plain.weight_reads.tolist()
        assert sorted(routed.chunks.blocks[0]) == sorted(plain.chunks.blocks[0])
        if base.rules.initial == "free":  # else the order of chunks decides where they start
            one, other_one = solve_brute(routed).time_s, solve_brute(plain).time_s
            assert one == pytest.approx(other_one, rel=1e-9)
        assert routed.sha256 != plain.sha256


def test_naming_fewer_experts_never_takes_longer() -> None:
    rng = np.random.default_rng(1)
    seen = 0
    while seen < 15:
        base = tiny_instance(rng, layers=1, tiers=2, initial="free", copies="exclusive", migration="none")
        instance = with_experts(rng, with_placeable_weights(rng, base))
        if not instance.chunks.experts.any() or instance.chunks.exist.sum() + instance.blocks > 76:
            continue
        seen += 1
        named = [
            np.where(np.arange(len(rows))[:, None] == rng.integers(len(rows)), 0, rows).astype(np.uint8)
            for rows in instance.workload.experts
        ]
        fewer = dataclasses.replace(
            instance, workload=dataclasses.replace(instance.token_trace, experts=tuple(named))
        )
        assert (fewer.read_counts() <= instance.read_counts()).all()
        less, more = (kv.solve(each, "exact", gap=1e-7).time_s for each in (fewer, instance))
        assert less is not None
        assert more is not None
        assert less <= more * (1 + 1e-6)


def test_a_fixed_placement_counts_experts_as_often_as_they_are_read() -> None:
    instance = toy()
    tiers = np.ones((1, 64), np.uint8)
    tiers[0, [0, 2]] = 0  # the other weights, and the expert that two of three steps read
    rest = without_weights(roomy(instance), tiers)
    assert rest.llm.weight_reads[0] == pytest.approx(2 + 4 + 4 * 2 / 3)
    assert (rest.chunks.ids, rest.workload.experts) == (0, ())


def roomy(instance: Instance) -> Instance:
    tiers = dataclasses.replace(instance.memory.tiers[0], capacity=100), *instance.memory.tiers[1:]
    return dataclasses.replace(instance, memory=dataclasses.replace(instance.memory, tiers=tiers))


def test_every_policy_runs_and_is_checked() -> None:
    instance = roomy(toy())
    for policy in ("lru", "belady", "static", "llamacpp-ngl", "llamacpp-nkvo", "lookahead-one"):
        result = kv.simulate(instance, policy)
        assert kv.check(instance, result).ok, policy
    ngl = kv.simulate(instance, "llamacpp-ngl")
    assert ngl.schedule is not None
    assert not ngl.schedule.initial.any()  # the whole layer fits


def test_what_slots_read_of_them_is_reported() -> None:
    instance = toy()
    known = figures(instance)
    assert known["experts"]["named_mean"] == 1
    assert (
        known["weight_bytes_read_per_slot"] == 4 + 4 + 2
    )  # other chunks, one expert on average, and the rest
    assert known["placeable_weight_bytes"] == 20
    plain = figures(toy(None))
    assert "experts" not in plain
    assert plain["weight_bytes_read_per_slot"] == 10
    result = kv.simulate(roomy(instance), "static")
    assert result.measures is not None
    assert result.measures.hit_rate == {"hbm": 1.0, "ddr": 0.0}


def test_files_hold_them(tmp_path: Path) -> None:
    instance = toy()
    kv.write_instance(instance, tmp_path / "toy.json")
    again = kv.read_instance(tmp_path / "toy.json")
    assert again.sha256 == instance.sha256
    write_expanded(instance, tmp_path / "full.json")
    whole = kv.read_instance(tmp_path / "full.json")
    assert whole.sha256 == instance.sha256
    assert kv.check(whole, kv.simulate(instance, "lru")).ok
    document = read_json(tmp_path / "full.json")
    document["trace"]["experts_sha256"] = ["0" * 64]
    with pytest.raises(
        InputError, match=r"trace\.experts_sha256: expected the hashes of the experts of full"
    ):
        from_mapping(document, folder=tmp_path)
    del document["trace"]["experts_sha256"]
    with pytest.raises(InputError, match=r"trace\.experts_sha256"):
        from_mapping(document, folder=tmp_path)


def test_a_synthetic_workload_may_name_them() -> None:
    routing = {"experts": 4, "experts_per_token": 2, "repeat": "50%"}
    synthetic = {"kind": "dense", "layers": 1, "prefill_tokens": 8, "decode_steps": 6} | routing
    memory = toy().memory
    instance = make_instance("x", memory=memory, llm=MIXTURE, trace={"synthetic": synthetic})
    assert instance.chunk_read_counts().tolist() == [[2 + 2 * 2]] * 6
    assert instance.sha256 == dataclasses.replace(instance, workload=instance.token_trace).sha256
    found = kv.solve(instance, "exact")
    assert kv.check(instance, found).ok
    with pytest.raises(InputError, match=r"llm\.experts: expected at least 4 experts in layer 0"):
        make_instance("x", memory=MEMORY, llm=MIXTURE | {"experts": 3}, trace={"synthetic": synthetic})


@pytest.mark.parametrize(
    ("llm", "expected"),
    [
        ({"weights": "resident"}, "toy: llm.weights: expected 'placeable', as the trace names experts"),
        ({"experts": 0, "experts_read": 0}, "toy: llm.experts: expected the number of routed experts"),
        ({"experts": 3}, "toy: llm.experts: expected at least 4 experts in layer 0, as .*, not 3"),
        ({"experts": -1}, "experts: expected an integer from 0 to 2,048, not -1"),
        ({"experts": 2049}, "experts: expected an integer from 0 to 2,048"),
        ({"experts": [4, 4]}, "experts: expected one entry for each of the 1 layers, not 2"),
        ({"experts": "4"}, "experts: expected an integer from 0 to 2,048"),
        ({"expert_bytes": 0}, "expert_bytes: expected the bytes of an expert in every layer that has any"),
        ({"expert_bytes": 0.5}, r"expert_bytes: expected a whole number of bytes, not 0\.5"),
        ({"expert_bytes": [5, 5]}, "expert_bytes: expected one entry for each of the 1 layers"),
        ({"experts_read": -1}, "experts_read: expected a finite number from 0 to 2048"),
        ({"experts_read": 5}, "experts_read: expected 0 to 4, not 5"),
        ({"experts_read": 3}, "experts_read: expected experts of at most the 10 bytes that layer 0 reads"),
        ({"weight_bytes": 19}, "weight_bytes: expected at least the 20 bytes that all layers hold"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(llm: dict[str, Any], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        toy(**llm)


def test_too_many_chunks_are_refused() -> None:
    many: dict[str, Any] = {
        "named": [[[0]]],
        "experts": 2048,
        "expert_bytes": 2,
        "experts_read": 0,
        "weight_chunk_bytes": 2,
    }
    with pytest.raises(InputError, match="weight_chunk_bytes: expected at least 4 bytes: 4,096 chunks"):
        toy(**many, weight_bytes=10**6, weight_read_bytes_per_layer=2 * 2049)
    assert toy(**many, weight_bytes=10**6, weight_read_bytes_per_layer=2 * 2048).chunks.ids == 4096


def test_an_llm_object_keeps_its_experts() -> None:
    llm = Llm.from_mapping(MIXTURE)
    assert llm.expert_counts == (4,)
    trace = {"prefill_tokens": 0, "reads": [[[]]] * 3, "experts": NAMED}
    assert make_instance("toy", memory=toy().memory, llm=llm, trace=trace).sha256 == toy().sha256
