"""Dense traces: closed forms equal what the bits give, and cost no more than births and ends."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvbound import workloads
from kvbound.errors import InputError, UsageError
from kvbound.trace import Trace, bits, read_trace, write_trace
from kvbound.trace.batch import batch
from kvbound.trace.folder import HEADER
from kvbound.trace.statistics import trace_info
from kvbound.trace.timeline import FIELDS, Timeline
from tests.strategies import tiny_timeline

LARGE = workloads.Dense(layers=32, prefill_tokens=1024, decode_steps=65_792)


@st.composite
def timelines(draw: st.DrawFn) -> Timeline:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return tiny_timeline(rng, int(rng.integers(2, 40)), int(rng.integers(1, 150)))


def with_bits(timeline: Timeline, layers: int = 2) -> Trace:
    """The same reads, as bits."""
    step = np.arange(timeline.steps)[:, None]
    read = (timeline.born < step) & (step <= timeline.ends)
    fields = {name: getattr(timeline, name) for name in FIELDS}
    return Trace.from_mask(np.repeat(read[:, None], layers, axis=1), timeline.prefill_tokens, **fields)


@given(timelines())
def test_it_is_the_trace_of_the_same_bits(timeline: Timeline) -> None:
    dense, plain = Trace.from_timeline(timeline, 2), with_bits(timeline)
    assert dense.dense
    assert not plain.dense
    assert dense.row_hashes() == plain.row_hashes()
    assert np.array_equal(dense.rows[1], plain.rows[1])
    assert dense.rows[0] is dense.rows[1]
    for name in ("counts", "own_reads", "past_counts"):
        assert np.array_equal(getattr(dense, name)(), getattr(plain, name)())
    for step in range(timeline.steps):
        assert np.array_equal(dense.listed(step, 1), plain.listed(step, 1))
    assert np.array_equal(dense.past_reads(0), plain.past_reads(0))
    assert np.array_equal(dense.offsets(0), plain.offsets(0))


@given(timelines())
def test_statistics_are_those_of_the_bits(timeline: Timeline) -> None:
    assert trace_info(Trace.from_timeline(timeline, 2)) == trace_info(with_bits(timeline))


@given(timelines(), st.integers(1, 40))
def test_reads_outside_a_window_are_found(timeline: Timeline, window: int) -> None:
    allowed = timeline.windowed(window)
    dense, plain = Trace.from_timeline(timeline, 1), with_bits(timeline, 1)
    assert dense.wrong_read(0, allowed) == plain.wrong_read(0, allowed)


@given(timelines(), st.data())
def test_the_first_steps_are_dense_too(timeline: Timeline, data: st.DataObject) -> None:
    steps = data.draw(st.integers(1, timeline.steps))
    if timeline.past[steps]:
        head = Trace.from_timeline(timeline, 2).head(steps)
        assert head.dense
        assert head.row_hashes() == with_bits(timeline).head(steps).row_hashes()


def test_a_batch_of_dense_sequences_is_dense() -> None:
    spec = workloads.from_mapping(
        {"kind": "dense", "layers": 2, "prefill_tokens": 5, "decode_steps": 9, "batch": 3, "arrivals": 0.3}
    )
    made = workloads.make(spec)
    assert made.dense
    for layer in range(2):  # what the generator of bits gives
        assert np.array_equal(np.concatenate(list(spec.packed_rows(layer))), made.rows[layer])
    single = workloads.make(workloads.Dense(2, 5, 9))
    combined = batch([single] * 3, [0, 2, 4])
    assert combined.dense
    as_bits = batch([with_bits(single.timeline)] * 3, [0, 2, 4])
    assert combined.row_hashes() == as_bits.row_hashes()
    assert combined.source == f"3 sequences decoded together: {single.source}"


@given(timelines())
def test_a_folder_holds_no_rows(tmp_path_factory: pytest.TempPathFactory, timeline: Timeline) -> None:
    place = tmp_path_factory.mktemp("dense") / "a.trace"
    trace = Trace.from_timeline(timeline, 3, source="here", licence="any")
    write_trace(trace, place)
    assert {file.name for file in place.iterdir()} == {HEADER} | {f"{name}.npy" for name in timeline.given}
    read = read_trace(place)
    assert read.dense
    assert (read.source, read.licence, read.layers) == ("here", "any", 3)
    assert read.row_hashes() == trace.row_hashes()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"reads": "sparse"}, "reads: expected 'dense', or no such field, not 'sparse'"),
        ({"reads": None}, "reads: expected 'dense'"),
        ({"sha256": {"layer-000.npy": "0"}}, "sha256: expected no files of layers beside dense reads"),
    ],
)
def test_damaged_headers_are_refused(tmp_path: Path, change: dict[str, object], expected: str) -> None:
    place = tmp_path / "a.trace"
    write_trace(Trace.from_timeline(Timeline.of(2, 3), 1), place)
    header = json.loads((place / HEADER).read_text())
    (place / HEADER).write_text(json.dumps(header | change))
    with pytest.raises(InputError, match=expected):
        read_trace(place)


def test_a_large_trace_takes_as_much_as_its_births(tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        trace = workloads.make(LARGE)
        info = trace_info(trace)
        write_trace(trace, tmp_path / "large.trace")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 150e6  # the bits of a layer take 550 MB
    again = read_trace(tmp_path / "large.trace")
    assert info.overall.share_of_past == 1
    assert info.overall.reads_max == LARGE.tokens - 1
    assert again.reads(65_791, 31)[-1] == LARGE.tokens - 2
    assert sum(file.stat().st_size for file in (tmp_path / "large.trace").iterdir()) < 1000


def test_bits_of_very_many_steps_are_refused() -> None:
    trace = workloads.make(workloads.Dense(1, 131_072, 131_072))
    sizes = r"of 1 layers, 131,072 steps and 262,144 tokens take 4\.3 GB: only dual and pricing"
    with pytest.raises(UsageError, match=sizes):
        _ = trace.rows[0]
    with pytest.raises(UsageError, match=r"of 32 layers, .* take 17\.6 GB"):
        _ = workloads.make(LARGE).rows[0]


def test_layers_are_those_there_are() -> None:
    rows = Trace.from_timeline(Timeline.of(2, 3), 2).rows
    assert len(rows) == len(rows[:]) == 2
    assert rows[-1].shape == (3, bits.row_bytes(5))
    with pytest.raises(IndexError):
        _ = rows[2]
