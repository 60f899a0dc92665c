import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kvbound.errors import InputError, UsageError
from kvbound.recording.attention import count, from_qk, head_mean, probabilities, sparsify, top
from kvbound.trace import Trace, read_csv
from tests.paths import DATA

ATTENTION = DATA / "attention"
QK = ATTENTION / "qk_native512_seq1_first200.npz"


def common(one: Trace, other: Trace) -> np.ndarray:
    """Share of each slot's reads that both traces have, (slots,)."""
    shared = [np.bitwise_count(one.words(k) & other.words(k)).sum(axis=1) for k in range(one.layers)]
    return (np.stack(shared, axis=1) / np.maximum(one.counts(), 1)).ravel()


@pytest.mark.parametrize(("share", "name"), [(0.15, "top15"), (0.40, "top40")])
def test_recorded_queries_and_keys_give_the_recorded_reads(share: float, name: str) -> None:
    # the stored traces are from float32 attention, whereas queries and keys here are float16
    recorded = read_csv(ATTENTION / f"trace_native512_seq1_{name}.csv.gz")
    assert (recorded.layers, recorded.prefill_tokens, recorded.decode_steps) == (5, 128, 384)
    trace = from_qk(QK, 0, 128, share)
    shared = common(recorded.head(72), trace)
    assert np.array_equal(recorded.head(72).counts(), trace.counts())
    assert shared.mean() >= 0.999
    assert shared.min() >= 0.95
    assert not trace.own_reads().any()


def test_mass_is_the_probability_and_the_reads_are_the_largest() -> None:
    trace = from_qk(QK, 0, 150, 0.1, steps=3, source="s", licence="l")
    layers = list(probabilities(QK, 0))
    for step in range(3):
        for layer, weights in enumerate(layers):
            ids, mass = trace.listed(step, layer), trace.listed_mass(step, layer)
            assert mass is not None
            past = weights[150 + step, : 150 + step]
            assert np.array_equal(mass, past[ids].astype(np.float16))
            assert past[ids].min() >= np.delete(past, ids).max()
    assert (trace.source, trace.licence) == ("s", "l")


def test_attention_is_causal_softmax() -> None:
    rng = np.random.default_rng(0)
    q, k = rng.normal(size=(6, 4, 3)).astype(np.float32), rng.normal(size=(6, 2, 3)).astype(np.float32)
    mean = head_mean(q, k)
    for n in range(6):
        rows = []
        for head in range(4):
            weights = [math.exp(float(q[n, head] @ k[i, head // 2]) / math.sqrt(3)) for i in range(n + 1)]
            rows.append([weight / sum(weights) for weight in weights])
        assert mean[n, : n + 1] == pytest.approx(np.mean(rows, axis=0), rel=1e-5)
        assert not mean[n, n + 1 :].any()


def test_probabilities_may_be_stored_directly(tmp_path: Path) -> None:
    layers = [layer[:60, :60] for layer in probabilities(QK, 0)]
    np.savez(tmp_path / "p.npz", p=np.array([[layer[np.tril_indices(60)] for layer in layers]]))
    assert (
        from_qk(tmp_path / "p.npz", 0, 20, 0.3).row_hashes() == from_qk(QK, 0, 20, 0.3, steps=40).row_hashes()
    )


def test_ties_go_to_the_lower_id() -> None:
    assert top(np.array([1, 3, 3, 2, 3], np.float32), 2).tolist() == [1, 2]
    assert top(np.zeros(4, np.float32), 3).tolist() == [0, 1, 2]


def test_counts_are_exact_where_the_product_is_an_integer() -> None:
    assert [count(0.15, n) for n in (20, 21, 40_000)] == [3, 4, 6000]
    assert [count(0.1, n) for n in (10, 30, 31, 70)] == [1, 3, 4, 7]
    assert count(1, 7) == 7
    for share in (0, -1, 1.5, float("nan")):
        with pytest.raises(UsageError):
            count(share, 7)


def test_sparser_traces_keep_the_heaviest_reads() -> None:
    wide, narrow = from_qk(QK, 0, 128, 0.4, steps=5), from_qk(QK, 0, 128, 0.1, steps=5)
    kept = sparsify(wide, 0.1)
    assert np.array_equal(kept.counts(), narrow.counts())
    assert common(narrow, kept).mean() > 0.99  # float16 mass may tie
    assert sparsify(kept, 0.4).row_hashes() == kept.row_hashes()
    shuffled = Trace.from_lists(4, [[[3, 0, 2]]], mass=[[[0.1, 0.5, 0.2]]])
    assert sparsify(shuffled, 0.5).listed(0, 0).tolist() == [0, 2]
    with pytest.raises(UsageError, match="mass"):
        sparsify(Trace.from_lists(4, [[[1]]]), 0.5)


@pytest.mark.parametrize(
    "arguments", [(7, 128, 0.1), (-1, 128, 0.1), (0, 200, 0.1), (0, 0, 0.1), (0, 128, 0)]
)
def test_wrong_requests(arguments: tuple[int, int, float]) -> None:
    with pytest.raises(UsageError):
        from_qk(QK, *arguments)
    with pytest.raises(UsageError):
        from_qk(QK, 0, 128, 0.1, steps=73)


GOOD: dict[str, Any] = {"q": np.zeros((1, 1, 4, 2, 3)), "k": np.zeros((1, 1, 4, 1, 3))}


@pytest.mark.parametrize(
    "change",
    [
        {"q": None},
        {"q": np.zeros(3)},
        {"q": np.array([None])},
        {"q": np.zeros((1, 1, 4, 2, 4))},
        {"q": np.zeros((1, 1, 4, 2, 3), int)},
        {"q": np.full((1, 1, 4, 2, 3), np.nan)},
        {"k": np.zeros((1, 1, 4, 3, 3))},
        {"k": np.zeros((1, 2, 4, 1, 3))},
        {"k": np.zeros((1, 1, 5, 1, 3))},
        {"q": None, "k": None, "p": np.zeros((1, 1, 5))},
    ],
)
def test_wrong_recordings_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    arrays = {name: array for name, array in (GOOD | change).items() if array is not None}
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(InputError, match=r"x\.npz"):
        from_qk(tmp_path / "x.npz", 0, 2, 0.5)


def test_other_files_are_refused(tmp_path: Path) -> None:
    whole = QK.read_bytes()
    np.save(tmp_path / "one.npy", np.zeros(3))
    for name, content in {
        "cut": whole[:5000],
        "flip": whole[:90_000] + bytes(9) + whole[90_009:],
        "empty": b"",
        "text": b"hello",
        "npy": (tmp_path / "one.npy").read_bytes(),
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=name):
            from_qk(tmp_path / name, 0, 128, 0.1)
    with pytest.raises(InputError, match="nothing there"):
        from_qk(tmp_path / "nothing.npz", 0, 128, 0.1)
