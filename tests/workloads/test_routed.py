"""Synthetic routing: the experts that tokens are routed to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kvbound import workloads
from kvbound.errors import InputError
from kvbound.trace import read_trace
from kvbound.trace.experts import unpack
from kvbound.workloads import Batch, Routed
from kvbound.workloads.make import write_folder
from kvbound.workloads.synthetic import Synthetic

BASE = {"kind": "random-swap", "layers": 2, "prefill_tokens": 40, "decode_steps": 400, "seed": 4}
ROUTED = {"experts": 8, "experts_per_token": 2, "repeat": 0.5}


def spec(**fields: Any) -> Synthetic:
    return workloads.from_mapping(BASE | fields)


def named(workload: Synthetic, layer: int = 0, experts: int = 8) -> Any:
    return unpack(workload.experts[layer], experts)


def test_a_token_is_routed_to_as_many_experts_and_often_to_the_same() -> None:
    routed = spec(**ROUTED)
    mask = named(routed)
    assert (mask.sum(axis=1) == 2).all()
    same = (mask[1:] == mask[:-1]).all(axis=1).mean()
    assert same == pytest.approx(0.5 + 0.5 / 28, abs=0.08)  # 28 pairs of 8 experts
    assert mask.mean(axis=0) == pytest.approx(0.25, abs=0.1)
    assert not np.array_equal(mask, named(routed, 1))
    always = named(spec(**ROUTED | {"repeat": 1}))
    assert (always == always[0]).all()
    assert named(spec(**ROUTED | {"experts_per_token": 8})).all()
    assert (named(spec(experts=8)).sum(axis=1) == 1).all()


def test_reads_and_descriptions_without_routing_stay_as_they_are() -> None:
    plain, routed = spec(), spec(**ROUTED)
    assert workloads.make(plain).row_hashes() == workloads.make(routed).row_hashes()
    assert not isinstance(plain, Routed)
    assert not {"experts", "experts_per_token", "repeat"} & plain.to_mapping().keys()
    assert plain.experts == plain.expert_counts == ()
    assert workloads.make(plain).experts == ()
    assert workloads.from_mapping(routed.to_mapping()) == routed
    assert (routed.kind, routed.version, routed.tokens) == (plain.kind, plain.version, plain.tokens)
    assert np.array_equal(routed.step_counts(), plain.step_counts())
    assert routed.packed_bytes == plain.packed_bytes
    again = spec(**ROUTED).experts
    assert all(np.array_equal(one, other) for one, other in zip(routed.experts, again, strict=True))


@pytest.mark.parametrize("arrivals", [None, [0, 7, 130]])
def test_a_batch_names_the_experts_of_all_its_tokens(arrivals: Any) -> None:
    more = {"batch": 3} | ({"arrivals": arrivals} if arrivals else {})
    several = spec(**ROUTED, **more)
    assert isinstance(several, Routed)
    assert isinstance(several.of, Batch)
    count = named(several).sum(axis=1)
    assert len(count) == several.decode_steps
    assert count.max() > 2
    starts = several.of.starts
    decoded = sum((np.arange(several.decode_steps) - start) // 400 == 0 for start in starts)
    assert (count <= 2 * decoded).all()
    assert (count >= 2 * (decoded > 0)).all()
    first = named(spec(**ROUTED))
    assert (named(several)[:400] >= first).all()  # the first sequence is routed as alone
    trace = workloads.make(several)
    assert np.array_equal(trace.experts[0], several.experts[0])
    assert workloads.from_mapping(several.to_mapping()) == several


def test_layers_without_experts() -> None:
    routed = spec(experts=[0, 70], experts_per_token=5)
    assert not routed.experts[0].any()
    assert (named(routed, 1, 70).sum(axis=1) == 5).all()
    assert routed.expert_counts == (0, 70)
    assert routed.to_mapping()["experts"] == [0, 70]
    assert workloads.from_mapping(routed.to_mapping()) == routed


def test_large_traces_are_made_and_kept_with_their_experts(tmp_path: Path) -> None:
    routed = workloads.from_mapping(
        {"kind": "dense", "layers": 2, "prefill_tokens": 30_000, "decode_steps": 300} | ROUTED
    )
    assert routed.packed_bytes > 1 << 20
    for _ in range(2):  # made, and then from the cache
        made = workloads.make(routed)
        assert all(np.array_equal(*pair) for pair in zip(made.experts, routed.experts, strict=True))
        assert isinstance(made.rows[0], np.memmap)
    (tmp_path / "x.trace").mkdir()
    write_folder(spec(**ROUTED), tmp_path / "x.trace")
    assert read_trace(tmp_path / "x.trace").expert_counts == (8, 8)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"experts": 0},
            "experts: expected 1 to 2,048 experts in a layer, or a list of one number per layer",
        ),
        ({"experts": 2049}, "experts: expected 1 to 2,048"),
        ({"experts": 2.5}, "experts: expected 1 to 2,048"),
        ({"experts": True}, "experts: expected 1 to 2,048"),
        ({"experts": "8"}, "experts: expected 1 to 2,048"),
        ({"experts": [8]}, "experts: expected 1 to 2,048"),
        ({"experts": [0, 0]}, "experts: expected 1 to 2,048"),
        ({"experts": [8, -1]}, "experts: expected 1 to 2,048"),
        ({"experts_per_token": 2}, "experts: expected experts of a layer, but the field is missing"),
        ({"repeat": 0.5}, "experts: expected experts of a layer, but the field is missing"),
        ({"experts": [8, 3], "experts_per_token": 4}, "experts_per_token: expected an integer from 1 to 3"),
        ({"experts": 8, "experts_per_token": 0}, "experts_per_token: expected an integer from 1 to 8"),
        ({"experts": 8, "repeat": 1.5}, "repeat: expected a share"),
    ],
)
def test_what_is_refused(fields: dict[str, Any], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        spec(**fields)
