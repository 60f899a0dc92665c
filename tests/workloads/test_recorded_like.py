import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvbound import workloads
from kvbound.trace import Trace, read_csv
from kvbound.trace.statistics import trace_info
from kvbound.workloads import CountRule, RecordedLike
from tests.paths import DATA

ATTENTION = DATA / "attention"


def overlap(trace: Trace, lag: int) -> float:
    """Mean share of a slot's reads that the slot `lag` steps later repeats."""
    counts = trace.counts()[:-lag]
    words = [trace.words(layer) for layer in range(trace.layers)]
    common = [np.bitwise_count(rows[lag:] & rows[:-lag]).sum(axis=1) for rows in words]
    return float(np.mean(np.stack(common, axis=1) / counts))


@pytest.mark.parametrize(("share", "name"), [(0.15, "top15"), (0.40, "top40")])
def test_overlap_and_ages_match_the_recordings(share: float, name: str) -> None:
    recorded = read_csv(ATTENTION / f"trace_native512_seq1_{name}.csv.gz")
    spec = RecordedLike(5, 128, 384, sparsity=1 - share)
    made = workloads.make(spec)
    assert np.array_equal(made.counts(), recorded.counts())
    for lag in (1, 2, 4, 8, 16, 32, 64, 128):
        assert overlap(made, lag) == pytest.approx(overlap(recorded, lag), abs=0.06)
    for age, read in trace_info(recorded).overall.age.items():
        assert trace_info(made).overall.age[age] == pytest.approx(read, abs=0.06)


def test_new_tokens_are_nearly_always_read() -> None:
    made = workloads.make(RecordedLike(3, 128, 384))
    newest = [
        made.prefill_tokens + step - 1 in made.reads(step, layer) for step in range(384) for layer in range(3)
    ]
    assert np.mean(newest) > 0.98


def test_sinks_are_always_read() -> None:
    made = workloads.make(RecordedLike(2, 100, 60, sparsity=0.9, sink_tokens=4))
    assert all(
        made.reads(step, layer)[:4].tolist() == [0, 1, 2, 3] for step in range(60) for layer in range(2)
    )
    without = workloads.make(RecordedLike(2, 100, 60, sparsity=0.9))
    assert sum(0 in without.reads(step, 0) for step in range(60)) < 30


@given(
    st.builds(
        RecordedLike,
        layers=st.just(1),
        prefill_tokens=st.integers(3, 40),
        decode_steps=st.integers(1, 20),
        sparsity=st.floats(0, 1),
        token_spread=st.floats(0, 3),
        noise=st.floats(0, 3),
        persistence=st.floats(0, 1),
        sink_tokens=st.integers(0, 3),
        count_rule=st.sampled_from(CountRule),
    )
)
@settings(max_examples=50)
def test_any_parameters_give_a_trace_with_the_stated_counts(spec: RecordedLike) -> None:
    made = workloads.make(spec)
    assert np.array_equal(made.counts(), workloads.shape(spec)[3])
    assert not made.own_reads().any()
    assert workloads.from_mapping(spec.to_mapping()) == spec


def test_reads_of_a_seed_never_change() -> None:
    assert workloads.make(RecordedLike(1, 48, 24)).row_hashes() == [
        "912cf87954adc673f239c59b29f242b908dbbf92feb98b9d83f3ac9ed9c22635"
    ]
