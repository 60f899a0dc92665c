"""The experts that slots name: lists, folders, batches, statistics, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvbound.errors import InputError, UsageError
from kvbound.recording.attention import sparsify
from kvbound.trace import Trace, read_trace, write_csv, write_trace
from kvbound.trace.batch import batch
from kvbound.trace.experts import from_lists, pack, trimmed, unpack
from kvbound.trace.folder import file_hashes
from kvbound.trace.statistics import expert_figures, trace_info

READS = [[[0], [1]], [[0, 3], []], [[], [2]]]
EXPERTS = [[[70, 3], [0]], [[3], []], [[], []]]


def made(**fields: Any) -> Trace:
    return Trace.from_lists(4, READS, **{"experts": EXPERTS} | fields)


def named(trace: Trace) -> list[list[list[int]]]:
    """The experts by step and layer, ascending."""
    masks = [unpack(rows, 8 * rows.shape[1]) for rows in trace.experts]
    return [[np.flatnonzero(mask[step]).tolist() for mask in masks] for step in range(trace.decode_steps)]


def test_lists_are_kept_as_bits() -> None:
    trace = made()
    assert named(trace) == [[[3, 70], [0]], [[3], []], [[], []]]
    assert [rows.shape for rows in trace.experts] == [(3, 16), (3, 8)]
    assert trace.expert_counts == (71, 1)
    assert len(trace.arrays) == 4
    assert not any(rows.flags.writeable for rows in trace.experts)
    plain = made(experts=None)
    assert (plain.experts, plain.expert_counts, plain.expert_hashes()) == ((), (), [])
    assert plain.row_hashes() == trace.row_hashes()
    mask = np.zeros((3, 2, 7), np.bool_)
    assert named(Trace.from_mask(mask, 4, experts=EXPERTS)) == named(trace)


def test_a_prefix_keeps_them_and_its_hash_does_not_tell_of_the_rest() -> None:
    trace = made(experts=[[[3], [0]], [[3], []], [[900], []]])
    assert named(trace.head(2)) == [[[3], [0]], [[3], []]]
    assert (
        trace.head(2).expert_hashes()
        == made(experts=[[[3], [0]], [[3], []], [[], []]]).head(2).expert_hashes()
    )
    assert trace.head(2).experts[0].shape == (2, 8)


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 200))
def test_packed_bits_are_the_mask(seed: int, experts: int) -> None:
    mask = np.random.default_rng(seed).random((3, experts)) < 0.2
    rows = pack(mask)
    assert np.array_equal(unpack(rows, experts), mask)
    wider = np.zeros((3, rows.shape[1] + 8), np.uint8)
    wider[:, : rows.shape[1]] = rows
    assert np.array_equal(trimmed(wider), rows)
    lists = [[np.flatnonzero(row).tolist()] for row in mask]
    assert np.array_equal(from_lists(lists, 3, 1, "x")[0], rows)


def test_a_folder_round_trips(tmp_path: Path) -> None:
    trace = made()
    write_trace(trace, tmp_path / "a.trace")
    again = read_trace(tmp_path / "a.trace")
    assert named(again) == named(trace)
    assert again.expert_hashes() == trace.expert_hashes()
    assert "experts-001.npy" in json.loads((tmp_path / "a.trace" / "header.json").read_text())["sha256"]
    write_trace(made(experts=None), tmp_path / "a.trace")
    assert read_trace(tmp_path / "a.trace").experts == ()
    assert not list((tmp_path / "a.trace").glob("experts*"))


def folder(path: Path, name: str, array: Any) -> Path:
    """A folder one of whose arrays is another, with its hash; without the array if it is None."""
    write_trace(made(), path)
    if array is None:
        (path / name).unlink()
    else:
        np.save(path / name, array)
    header = json.loads((path / "header.json").read_text())
    header["sha256"] = file_hashes(path, sorted(file.name for file in path.glob("*.npy")))
    (path / "header.json").write_text(json.dumps(header))
    return path


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (None, r"header.json: sha256.experts-001.npy: expected the hash of this file"),
        (np.zeros((2, 8), np.uint8), r"experts-001.npy: expected uint8 of shape \(3, None\)"),
        (np.zeros((3, 8), np.int8), r"experts-001.npy: expected uint8 of shape"),
        (
            np.zeros((3, 7), np.uint8),
            r"experts-001.npy: expected rows of 8 to 256 bytes, a multiple of 8, not 7",
        ),
        (np.zeros((3, 0), np.uint8), r"experts-001.npy: expected rows of 8 to 256 bytes"),
        (np.zeros((3, 264), np.uint8), r"experts-001.npy: expected rows of 8 to 256 bytes"),
    ],
)
def test_damaged_folders_are_refused(tmp_path: Path, array: Any, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        read_trace(folder(tmp_path / "a.trace", "experts-001.npy", array))


def test_a_changed_file_and_one_too_many_are_refused(tmp_path: Path) -> None:
    write_trace(made(), tmp_path / "a.trace")
    np.save(tmp_path / "a.trace" / "experts-001.npy", np.ones((3, 8), np.uint8))
    with pytest.raises(InputError, match=r"experts-001.npy: expected the SHA-256"):
        read_trace(tmp_path / "a.trace")
    with pytest.raises(InputError, match="sha256: expected the files of 2 layers and no others"):
        read_trace(folder(tmp_path / "b.trace", "experts-002.npy", np.zeros((3, 8), np.uint8)))


@pytest.mark.parametrize(
    ("experts", "expected"),
    [
        (3, r"experts: expected a list of 3 steps, as many as reads, not 3"),
        ([[[], []]], r"experts: expected a list of 3 steps"),
        ([[[]], [[]], [[]]], r"experts\[0\]: expected a list of 2 layers, as many as reads"),
        ([[[], []], [[], "ab"], [[], []]], r"experts\[1\]\[1\]: expected a list of experts, not str"),
        (
            [[[0.5], []], [[], []], [[], []]],
            r"experts\[0\]\[0\]: expected a list of experts, all of them integers",
        ),
        (
            [[[True], []], [[], []], [[], []]],
            r"experts\[0\]\[0\]: expected a list of experts, all of them integers",
        ),
        ([[[-1], []], [[], []], [[], []]], r"experts\[0\]\[0\]: expected experts from 0 to 2,047, not -1"),
        (
            [[[], []], [[5, 2048], []], [[], []]],
            r"experts\[1\]\[0\]: expected experts from 0 to 2,047, not 2048",
        ),
        ([[[2**70], []], [[], []], [[], []]], r"experts\[0\]\[0\]: expected a list of experts below 2,048"),
        ([[[2, 2], []], [[], []], [[], []]], r"experts\[0\]\[0\]: expected every expert once"),
    ],
)
def test_lists_that_are_none_are_refused(experts: Any, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        made(experts=experts)


def test_arrays_of_other_shapes_are_refused() -> None:
    trace = made()
    wrong: tuple[Any, ...] = (
        trace.experts[:1],
        (trace.experts[0], np.zeros((2, 8), np.uint8)),
        (trace.experts[0], np.zeros((3, 8), np.bool_)),
        (trace.experts[0], np.zeros((3, 264), np.uint8)),
        (trace.experts[0], np.zeros(3, np.uint8)),
    )
    for experts in wrong:
        with pytest.raises(InputError, match="trace: experts"):
            dataclasses.replace(trace, experts=experts)


def test_a_batch_names_the_experts_of_all_its_sequences() -> None:
    other = made(experts=[[[5], [1]], [[], [0]], [[3], []]])
    both = batch([made(), other], [0, 1])
    assert named(both) == [[[3, 70], [0]], [[3, 5], [1]], [[], [0]], [[3], []]]
    assert named(batch([made()])) == named(made())
    assert batch([made(experts=None)] * 2).experts == ()
    with pytest.raises(UsageError, match="trace 2 names none, the first experts; expected the same of all"):
        batch([made(), made(experts=None)])
    with pytest.raises(UsageError, match="trace 2 names experts, the first none"):
        batch([made(experts=None), made()])


def test_statistics() -> None:
    assert expert_figures(made().experts) == {
        "experts": {
            "named_mean": pytest.approx(4 / 6), "named_min": 0, "named_max": 2,
            "overlap": pytest.approx((1 / 2 + 0 + 0) / 3), "distinct": 1.5,
        }
    }  # fmt: skip
    assert trace_info(made()).to_mapping()["experts"]["named_max"] == 2
    assert "experts" not in trace_info(made(experts=None)).to_mapping()
    assert expert_figures(made(experts=[[[], []]] * 3).experts) == {}
    assert expert_figures(made().head(1).experts)["experts"]["overlap"] is None


def test_other_forms_keep_or_refuse_them(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a CSV file holds reads of KV, not experts; write a trace folder"):
        write_csv(made(), tmp_path / "x.csv")
    weighed = made(mass=[[[1.0] * len(ids) for ids in row] for row in READS])
    assert named(sparsify(weighed, 0.1)) == named(weighed)
