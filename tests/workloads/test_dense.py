"""Dense reads."""

import numpy as np
import pytest

import kvbound as kv
from kvbound import workloads
from kvbound.errors import InputError
from kvbound.instance_io import make_instance
from kvbound.workloads import Dense
from kvbound.workloads.fang2025 import Fang2025


def test_every_step_reads_all_past_tokens() -> None:
    spec = Dense(layers=2, prefill_tokens=70, decode_steps=140)
    trace = workloads.make(spec)
    assert np.array_equal(trace.past_counts(), np.repeat(70 + np.arange(140)[:, None], 2, axis=1))
    assert np.array_equal(trace.past_counts(), workloads.shape(spec)[3])
    assert not trace.own_reads().any()
    assert workloads.from_mapping(spec.to_mapping()) == spec


def test_in_a_batch_every_sequence_reads_its_own() -> None:
    spec = workloads.from_mapping(
        {"kind": "dense", "layers": 1, "prefill_tokens": 3, "decode_steps": 4, "batch": 2, "arrivals": [0, 2]}
    )
    trace = workloads.make(spec)
    assert trace.past_counts().ravel().tolist() == [3, 4, 5 + 3, 6 + 4, 5, 6]
    for step in range(6):
        assert (
            trace.reads(step, 0).tolist()
            == np.flatnonzero((trace.timeline.born < step) & (trace.timeline.ends >= step)).tolist()
        )


def test_they_leave_no_token_out() -> None:
    with pytest.raises(InputError, match="sparsity: expected 0, as dense reads leave no token out"):
        Dense(1, 2, 3, sparsity=0.5)
    assert Fang2025(1, 2, 3).sparsity == 0.6  # the others' default


def test_half_of_what_is_read_in_every_step_fits() -> None:
    spec = Dense(layers=2, prefill_tokens=40, decode_steps=10)
    llm = {
        "name": "l", "layers": 2, "kv_bytes_per_token_layer": 1000,
        "weight_bytes": 0, "weight_read_bytes_per_layer": 0,
    }  # fmt: skip
    trace = {"synthetic": spec.to_mapping()}
    instance = make_instance("dense", memory="gh200-96", llm=llm, trace=trace, capacity="50%")
    result = kv.solve(instance, "pricing", work=300)
    assert result.gap is not None
    assert result.gap <= 0.01
